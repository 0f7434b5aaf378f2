"""Name-seeded weights (tests/goldens/README.md) in the trees of this project."""

import json
import math
import pathlib
import re
import zlib

import jax.numpy as jnp
import numpy as np

from lsr_jax.training import optimizer

GOLDENS = pathlib.Path(__file__).parent / "goldens"
LEAVES = {"running_mean": "mean", "running_var": "var"}


def state_dict(name):
    """``{torch name: float64 array}`` of ``<name>_params.json``, as torch lays it out."""
    entries = json.loads((GOLDENS / f"{name}_params.json").read_text())
    return {key: draw(key, shape, kind) for key, shape, kind in entries}


def trees(name, *, heads, branches, dtype=np.float32):
    """``(params, model_state)`` of a list of names.

    ``heads`` is ``{torch: ours}``; only the first ``branches`` of an ASPP exist here.
    The values are rounded to float32, then cast to ``dtype``.
    """
    found = {"params": {}, "batch_stats": {}}
    for torch_name, value in state_dict(name).items():
        if _absent(torch_name, heads, branches):
            continue
        collection, (*modules, last) = _place(torch_name, heads)
        node = found[collection]
        for module in modules:
            node = node.setdefault(module, {})
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        node[last] = jnp.asarray(value.astype(np.float32), dtype)
    return found["params"], found["batch_stats"]


def mmseg_trees(name, *, prefix="", dtype=np.float32):
    """``(params, model_state)`` of the DAFormer family, of the names below ``prefix``."""
    found = {"params": {}, "batch_stats": {}}
    for torch_name, value in state_dict(name).items():
        place = mmseg_place(torch_name.removeprefix(prefix), value.ndim)
        if place is None or not torch_name.startswith(prefix):
            continue
        collection, (*modules, last) = place
        node = found[collection]
        for module in modules:
            node = node.setdefault(module, {})
        axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim)
        node[last] = jnp.asarray(np.transpose(value, axes).astype(np.float32), dtype)
    return found["params"], found["batch_stats"]


def mmseg_place(name, rank):
    """The place of a torch name of the DAFormer family; None for a counter."""
    *modules, last = name.split(".")
    if last == "num_batches_tracked":
        return None
    path = re.sub(r"/(\d+)", r"_\1", "/".join(modules))
    path = path.replace("dwconv/dwconv", "dwconv").replace("decode_head", "head")
    path = re.sub(r"(embed_layers_\d)/proj", r"\1", path)
    if last in LEAVES:
        return "batch_stats", (*path.split("/"), LEAVES[last])
    weight = "scale" if rank == 1 else "kernel"
    return "params", (*path.split("/"), weight if last == "weight" else last)


def mmseg_leaf(params, name, rank):
    """The parameter that a torch name of the DAFormer family stands for."""
    for key in mmseg_place(name, rank)[1]:
        params = params[key]
    return params


def leaf(params, model_state, name, heads):
    """The leaf that a torch name stands for; None where this project has none."""
    place = _place(name, heads)
    if place is None:
        return None
    node = params if place[0] == "params" else model_state
    for key in place[1]:
        node = node.get(key)
        if node is None:
            return None
    return node


def groups(names, heads, choices):
    """The optimiser group, of ``choices``, of every torch name."""
    places = {name: _place(name, heads)[1] for name in names}
    tree = {name: "/".join(("model", *path)) for name, path in places.items()}
    found = []
    for name in names:
        number = optimizer.labels({tree[name]: 0}, choices)[tree[name]]
        found.append(choices[int(number)])
    return found


def draw(name, shape, kind):
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    if kind == "conv":
        return draw.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    if kind == "head_conv":
        return draw.standard_normal(shape) * 0.01
    if kind == "linear":
        return draw.standard_normal(shape) * math.sqrt(2 / shape[1])
    if kind in ("bn_weight", "ln_weight", "running_var"):
        return draw.uniform(0.5, 1.5, shape)
    if kind == "bn_weight_res":
        return draw.uniform(0.5, 1.5, shape) * 0.15
    if kind == "counter":
        return np.zeros(shape)
    return draw.standard_normal(shape) * 0.1


def _place(name, heads):
    """The place of a torch name: ``(collection, path)``, None for a counter."""
    *modules, last = name.split(".")
    if last == "num_batches_tracked":
        return None
    if modules[0] in heads:
        path = (heads[modules[0]], f"conv2d_list_{modules[2]}", _kernel(last))
        return "params", path
    module = "/".join(modules)
    norm = "bn" in module or module.endswith("downsample/1")
    module = re.sub(r"^(layer\d|features)/(\d+)", r"\1_\2", module)
    module = module.replace("downsample/0", "downsample_conv")
    module = module.replace("downsample/1", "downsample_bn")
    collection = "batch_stats" if last in LEAVES else "params"
    last = LEAVES.get(last) or ("scale" if norm and last == "weight" else _kernel(last))
    return collection, ("backbone", *module.split("/"), last)


def _kernel(last):
    return "kernel" if last == "weight" else last


def _absent(name, heads, branches):
    branch = re.search(r"conv2d_list\.(\d)", name)
    if branch is None:
        return name.endswith("num_batches_tracked")
    return name.split(".")[0] not in heads or int(branch[1]) >= branches
