"""The methods, by name. Adding one is one file and one line here."""

from __future__ import annotations

from lsr_jax.methods import (
    batchnorm_only,
    bdl,
    cag,
    class_mix,
    lsr,
    max_square,
    oce,
    source_continued,
    source_only,
    swd,
    target_only,
)

METHODS = {
    "source_only": source_only,
    "source_continued": source_continued,
    "batchnorm_only": batchnorm_only,
    "target_only": target_only,
    "max_square": max_square,
    "swd": swd,
    "cag": cag,
    "bdl": bdl,
    "class_mix": class_mix,
    "oce": oce,
    "lsr": lsr,
}
