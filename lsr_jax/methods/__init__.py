"""The methods, by name. Adding one is one file and one line in `METHODS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lsr_jax.methods import (
    adapt_seg_net,
    advent,
    bdl,
    cag,
    clan,
    controls,
    dacs,
    feature_to_adapt,
    lsr,
    max_square,
    oce,
    sapnet,
    swd,
)
from lsr_jax.types import Method


class Entry(NamedTuple):
    """One method.

    Attributes:
      make: builds it from keywords, which are the keys ``STAGE.method`` of a config.
        The first line of its docstring is printed by ``python -m lsr_jax.methods``.
      presets: named sets of keywords.
    """

    make: Callable[..., Method]
    presets: Mapping[str, Mapping[str, Any]] = {}


METHODS = {
    "source_only": Entry(controls.source_only),
    "source_continued": Entry(controls.source_continued),
    "batchnorm_only": Entry(controls.batchnorm_only),
    "target_only": Entry(controls.target_only),
    "adapt_seg_net": Entry(adapt_seg_net.make, adapt_seg_net.PRESETS),
    "min_ent": Entry(advent.min_ent, advent.MIN_ENT_PRESETS),
    "adv_ent": Entry(advent.adv_ent, advent.ADV_ENT_PRESETS),
    "clan": Entry(clan.make, clan.PRESETS),
    "swd": Entry(swd.make),
    "bdl": Entry(bdl.make),
    "max_square": Entry(max_square.make, max_square.PRESETS),
    "cag": Entry(cag.make, cag.PRESETS),
    "feature_to_adapt": Entry(feature_to_adapt.make, feature_to_adapt.PRESETS),
    "sapnet": Entry(sapnet.make),
    "dacs": Entry(dacs.make, dacs.PRESETS),
    "oce": Entry(oce.make, oce.PRESETS),
    "lsr": Entry(lsr.make, lsr.PRESETS),
}
