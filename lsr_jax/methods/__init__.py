"""The methods, by name. Adding one is one file and one line here."""

from __future__ import annotations

from lsr_jax.methods import (
    batchnorm_only,
    class_mix,
    lsr,
    max_square,
    oce,
    source_only,
    swd,
    target_only,
)

METHODS = {
    "source_only": source_only,
    "source_continued": source_only,
    "batchnorm_only": batchnorm_only,
    "target_only": target_only,
    "max_square": max_square,
    "lsr": lsr,
    "oce": oce,
    "class_mix": class_mix,
    "swd": swd,
}
