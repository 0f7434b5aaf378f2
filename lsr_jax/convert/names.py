"""Our paths and PyTorch's names, one to one.

Only this direction is written: reading a file looks up the name that each leaf of our tree
should have, so nothing is matched by accident.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax
import numpy as np

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

# Modules of DeepLabV3+'s head, and their names in CAG's checkpoints.
CAG = {
    **{
        f"aspp{number}/{ours}": f"aspp.aspp{number}.{theirs}"
        for number in (1, 2, 3, 4)
        for ours, theirs in (("conv", "atrous_conv"), ("bn", "bn"))
    },
    "pooled/conv": "aspp.global_avg_pool.1",
    "pooled/bn": "aspp.global_avg_pool.2",
    "fused/conv": "aspp.conv1",
    "fused/bn": "aspp.bn1",
    "details/conv": "decoder.conv1",
    "details/bn": "decoder.bn1",
    "decoder1/conv": "decoder.last_conv.0",
    "decoder1/bn": "decoder.last_conv.1",
    "decoder2/conv": "decoder.last_conv.4",
    "decoder2/bn": "decoder.last_conv.5",
    "classifier": layouts.CAG_HEAD["head"],
}


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
    trees = {"params": {}, "model_state": {}}
    for path, leaf in flat.items():
        *modules, name = path.split("/")
        node = trees
        for module in modules:
            node = node.setdefault(module, {})
        node[name] = leaf
    return trees["params"], trees["model_state"]


def shapes(arguments: Mapping) -> dict[str, tuple[int, ...]]:
    """Path and shape of every leaf of ``models.build(**arguments)``."""
    model = models.build(**arguments)
    trees = jax.eval_shape(lambda: model.init(jax.random.key(0), (32, 32)))
    return {path: leaf.shape for path, leaf in flatten(*trees).items()}


def torch_name(path: str, arguments: Mapping, layout: str) -> str | None:
    """The name of our leaf ``path`` in a file of ``layout``, without its prefix.

    None for a leaf that such a file does not have: the heads beside an ImageNet body,
    and fc6 and fc7 of a VGG beside ImageNet's.
    """
    _, part, *modules, leaf = path.split("/")
    if part != "backbone":
        if layouts.LAYOUTS[layout].initialisation:
            return None
        if arguments.get("architecture") == "deeplabv3plus" and part == "head":
            return f"{CAG['/'.join(modules)]}.{LEAVES[leaf]}"
        if layouts.is_vgg(arguments["backbone"]):
            head = layouts.VGG_HEAD[part]
        else:
            head = layouts.LAYOUTS[layout].heads[arguments["head"]][part]
        return f"{head}.conv2d_list.{modules[0][-1]}.{LEAVES[leaf]}"
    module = re.sub(r"^(layer\d|features)_", r"\1.", ".".join(modules))
    module = module.replace("downsample_conv", "downsample.0")
    module = module.replace("downsample_bn", "downsample.1")
    if layout == "torchvision_vgg":
        module = _torchvision_vgg(int(module.split(".")[1]), arguments["backbone"])
    if layout == "cag":
        module = layouts.CAG_BODY + module
    return module and f"{module}.{LEAVES[leaf]}"


def _torchvision_vgg(index, backbone):
    """Our indices lack the pool before the last group of convolutions."""
    *early, last = models.BACKBONES[backbone].groups
    first = 2 * sum(early) + vgg.POOLED_GROUPS
    if index < first:
        return f"features.{index}"
    return f"features.{index + 1}" if index < first + 2 * last else None


def to_ours(value: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, float32."""
    value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    return np.ascontiguousarray(value, np.float32)


def to_torch(value: np.ndarray) -> np.ndarray:
    """HWIO to OIHW."""
    value = np.asarray(value)
    value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
    return np.ascontiguousarray(value)


def in_head(path: str) -> bool:
    """Whether our ``path`` belongs to a head."""
    return path.split("/")[1] in ("head", "aux_head")


def branch(path: str) -> int:
    """The ASPP branch of our ``path``, -1 for another leaf."""
    found = re.search(r"/conv2d_list_(\d)/", path)
    return int(found[1]) if found else -1
