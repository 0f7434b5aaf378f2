"""PyTorch weight files in and out: ``python -m lsr_jax.convert --help``."""

from lsr_jax.convert.exporting import export
from lsr_jax.convert.files import INFO, Imported, fingerprint, save
from lsr_jax.convert.importing import (
    check_preprocessing,
    load,
    overlay,
    running_branches,
)

__all__ = [
    "INFO",
    "Imported",
    "check_preprocessing",
    "export",
    "fingerprint",
    "load",
    "overlay",
    "running_branches",
    "save",
]
