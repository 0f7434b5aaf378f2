"""The methods, by name. Adding one is one file and one line here."""

from __future__ import annotations

from lsr_jax.methods import (
    adapt_seg_net,
    adv_ent,
    batchnorm_only,
    clan,
    feature_to_adapt,
    lsr,
    max_square,
    min_ent,
    source_only,
    target_only,
)

METHODS = {
    "source_only": source_only,
    "source_continued": source_only,
    "batchnorm_only": batchnorm_only,
    "target_only": target_only,
    "adapt_seg_net": adapt_seg_net,
    "adv_ent": adv_ent,
    "clan": clan,
    "feature_to_adapt": feature_to_adapt,
    "max_square": max_square,
    "min_ent": min_ent,
    "lsr": lsr,
}
