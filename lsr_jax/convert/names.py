"""Our paths and PyTorch's names, one to one.

Only this direction is written: reading a file looks up the name that each leaf of our tree
should have, so nothing is matched by accident.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from flax import traverse_util

from lsr_jax import models, types
from lsr_jax.convert import layouts
from lsr_jax.models import vgg

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

# Axes by their number; others stay.
TO_OURS = {4: (2, 3, 1, 0), 2: (1, 0)}
TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}

# Modules of DeepLabV3+'s head, and the names of conv and bn in CAG's checkpoints.
CAG = {
    **{
        f"aspp{n}": (f"aspp.aspp{n}.atrous_conv", f"aspp.aspp{n}.bn")
        for n in range(1, 5)
    },
    "pooled": ("aspp.global_avg_pool.1", "aspp.global_avg_pool.2"),
    "fused": ("aspp.conv1", "aspp.bn1"),
    "details": ("decoder.conv1", "decoder.bn1"),
    "decoder1": ("decoder.last_conv.0", "decoder.last_conv.1"),
    "decoder2": ("decoder.last_conv.4", "decoder.last_conv.5"),
}
# Modules of the heads of DAFormer, HRDA and MIC.
MMSEG = {
    r"conv2d_list_(\d)": r"aspp_modules.\1.conv",
    r"aspp_modules_(\d)": r"aspp_modules.\1",
    r"embed_layers_(\d)": r"embed_layers.\1.proj",
}


class Piece(NamedTuple):
    """An array of a file, or the ``part``-th of the equal parts below each other in it."""

    name: str
    part: int = 0


def leaves_by_path(tree: types.PyTree) -> dict[str, object]:
    """Leaves by path, such as ``params/model/head/conv2d_list_0/kernel``."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def flatten(params: types.PyTree, model_state: types.PyTree) -> dict[str, object]:
    """``{"params/backbone/conv1/kernel": leaf, ..., "model_state/...": leaf}``."""
    return leaves_by_path({"params": params, "model_state": model_state})


def unflatten(flat: Mapping[str, object]) -> tuple[dict, dict]:
    """The inverse of ``flatten``: ``(params, model_state)``."""
    trees = traverse_util.unflatten_dict(flat, sep="/")
    return trees.get("params", {}), trees.get("model_state", {})


def shapes(arguments: Mapping) -> dict[str, tuple[int, ...]]:
    """Path and shape of every leaf of ``models.build(**arguments)``."""
    model = models.build(**arguments)
    trees = jax.eval_shape(lambda: model.init(jax.random.key(0), (64, 64)))
    return {path: leaf.shape for path, leaf in flatten(*trees).items()}


def pieces(path: str, arguments: Mapping, layout: str) -> list[Piece]:
    """What our leaf ``path`` is in a file of ``layout``: pieces below each other.

    The names are without the prefix of the layout. Empty for a leaf that such a file does
    not have: the heads beside an ImageNet body, and fc6 and fc7 of a VGG beside ImageNet's.
    """
    _, part, *modules, leaf = path.split("/")
    if part == "backbone":
        found = _body("/".join(modules), arguments["backbone"], layout)
    elif layouts.LAYOUTS[layout].initialisation:
        found = []
    else:
        found = [_head(part, modules, arguments, layout)]
    named = (module.partition(":") for module in found)
    return [
        Piece(
            f"{module}{'' if module.endswith('_') else '.'}{LEAVES[leaf]}", int(k or 0)
        )
        for module, _, k in named
    ]


def _body(module, backbone, layout):
    start = layouts.LAYOUTS[layout].body
    if layouts.family(backbone) == "mit":
        return [start + name for name in layouts.mit_modules(module, layout)]
    if layout == "torchvision_vgg":
        # Our indices lack the pool before the last group of convolutions.
        index = int(module.split("_")[1])
        *early, last = models.BACKBONES[backbone].groups
        first = 2 * sum(early) + vgg.POOLED_GROUPS
        if index >= first + 2 * last:
            return []
        return [f"features.{index + (index >= first)}"]
    module = re.sub(r"^(layer\d|features|stem)_", r"\1.", module.replace("/", "."))
    module = module.replace("downsample_conv", "downsample.0")
    return [start + module.replace("downsample_bn", "downsample.1")]


def _head(part, modules, arguments, layout):
    if layout == "cag":
        module, *kind = modules  # "classifier", or a module with "conv" or "bn"
        return CAG[module][kind == ["bn"]] if kind else layouts.CAG_HEAD["head"]
    if layouts.family(arguments["backbone"]) == "vgg":
        head = layouts.VGG_HEAD[part]
    else:
        head = layouts.LAYOUTS[layout].heads[layouts.kind(arguments)][part]
    module = ".".join([head, *modules])
    if layout != "daformer":
        return module.replace("conv2d_list_", "conv2d_list.")
    for ours, theirs in MMSEG.items():
        module = re.sub(ours, theirs, module)
    return module


def to_ours(value: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, OI to IO, float32."""
    value = value.transpose(TO_OURS.get(value.ndim))
    return np.ascontiguousarray(value, np.float32)


def to_torch(value: np.ndarray) -> np.ndarray:
    """HWIO to OIHW, IO to OI."""
    value = np.asarray(value)
    return np.ascontiguousarray(value.transpose(TO_TORCH.get(value.ndim)))


def split(value: np.ndarray, count: int) -> list[np.ndarray]:
    """``count`` parts of a PyTorch array, below each other; equal where it divides."""
    return np.array_split(np.atleast_1d(value), count)


def in_head(path: str) -> bool:
    """Whether our ``path`` belongs to a head."""
    return path.split("/")[1] in ("head", "aux_head", "attention")
