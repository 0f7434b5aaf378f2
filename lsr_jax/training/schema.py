"""Check every key of a config before data or weights are opened.

Keys that are keywords of a function have their ranges there: `METHODS`, `models.build`,
`preprocess.augment`, `FUNCTIONS`. The other tables below list the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from lsr_jax import keywords
from lsr_jax.augment import preprocess
from lsr_jax.data import sampling
from lsr_jax.errors import InputError
from lsr_jax.evaluation import unsupervised
from lsr_jax.keywords import Count, CountOrZero, Range, Size
from lsr_jax.methods import METHODS, feature_norm, masked
from lsr_jax.training import optimizer

DOMAIN = {
    # (0, 0): the size of the stored images.
    "size": Annotated[
        tuple[int, int], Range(least=1, also=((0, 0),), unit="height and width")
    ]
}
SECTIONS = {
    "": {
        "seed": keywords.Seed,
        "num_devices": Count | None,
        "cpu_devices": keywords.CpuDevices,
    },
    "data": {"workers": CountOrZero},
    "data.source": DOMAIN,
    "data.target": DOMAIN,
    "evaluation": {
        "batch_size": Count,
        "batchnorm_images": Count,
        "panel_images": Count,
        "selection": Literal[
            ("last", "source_val", "target_heldout", "oracle", *unsupervised.RULES)
        ],
        "every": CountOrZero,
        "window": Size | None,
    },
}
STAGE = {
    "steps": Count,
    "batch_size": Count,
    "micro_batches": Count,
    "remat_passes": bool,
    "log_every": Count,
    "checkpoint_every": Count,
    "keep_every": CountOrZero,
    "on_nonfinite": Literal["stop", "skip"],
}
FUNCTIONS = {
    "feature_norm": (feature_norm.norm,),
    "masked": (masked.masked,),
    "rare_classes": (sampling.rare_classes,),
    "optimizer": (optimizer.make, optimizer.model_groups),
}


def check(config: Mapping) -> None:
    """Raise InputError for the first value of a resolved config that is out of range.

    ``model`` is checked by `models.build`.
    """
    for name, kinds in SECTIONS.items():
        section = config
        for key in filter(None, name.split(".")):
            section = section[key]
        keywords.check(section, name, kinds)
    for stage in config["stages"]:
        section = config[stage]
        keywords.check(section, stage, STAGE)
        for name, functions in FUNCTIONS.items():
            keywords.check(section[name], f"{stage}.{name}", *functions)
        for domain, augment in section["augment"].items():
            keywords.check(augment, f"{stage}.augment.{domain}", preprocess.augment)
        method = dict(section["method"])
        name = method.pop("name")
        if name not in METHODS:
            raise InputError(
                f"{stage}.method.name: expected one of {', '.join(METHODS)}, found "
                f"{name!r}"
            )
        keywords.check(method, f"{stage}.method", METHODS[name].make)
