"""``python -m lsr_jax.study``: see `lsr_jax.study.run`."""

import sys

from lsr_jax.study import run

if __name__ == "__main__":
    sys.exit(run.main())
