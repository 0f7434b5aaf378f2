"""PyTorch weight files in and out: ``python -m lsr_jax.convert --help``."""

from lsr_jax.convert.exporting import export
from lsr_jax.convert.folder import INFO, Imported, fingerprint, save
from lsr_jax.convert.importing import load, running_branches
from lsr_jax.convert.merging import check_preprocessing, overlay

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
