"""The methods, by name. Adding one is one file and one line here."""

from __future__ import annotations

from lsr_jax.methods import (
    adapt_seg_net,
    adv_ent,
    batchnorm_only,
    bdl,
    cag,
    clan,
    dacs,
    feature_to_adapt,
    lsr,
    max_square,
    min_ent,
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
    "adapt_seg_net": adapt_seg_net,
    "min_ent": min_ent,
    "adv_ent": adv_ent,
    "clan": clan,
    "swd": swd,
    "bdl": bdl,
    "max_square": max_square,
    "cag": cag,
    "feature_to_adapt": feature_to_adapt,
    "dacs": dacs,
    "oce": oce,
    "lsr": lsr,
}
