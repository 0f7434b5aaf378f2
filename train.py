"""``python train.py --config configs/streets.py``: see `lsr_jax.train`."""

import sys

from lsr_jax.train import main

if __name__ == "__main__":
    sys.exit(main())
