"""PyTorch weight files in and out: ``python -m lsr_jax.convert --help``."""

from lsr_jax.convert.conversion import check_values, export, load, overlay
from lsr_jax.convert.weight_files import (
    CONVERTER,
    INFO,
    Imported,
    fingerprint,
    is_own,
    read_info,
    save,
)
