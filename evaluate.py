"""``python evaluate.py --workdir runs/streets``: see `lsr_jax.evaluate`."""

import sys

from lsr_jax.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
