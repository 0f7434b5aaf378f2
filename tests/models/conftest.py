"""Name-seeded weights (tests/goldens/README.md) in the trees of this project."""

import json
import math
import pathlib
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
LEAVES = {"running_mean": "mean", "running_var": "var"}


def _seeded(name, shape, kind):
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    if kind == "conv":
        return draw.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    if kind == "head_conv":
        return draw.standard_normal(shape) * 0.01
    if kind in ("bn_weight", "running_var"):
        return draw.uniform(0.5, 1.5, shape)
    if kind == "bn_weight_res":
        return draw.uniform(0.5, 1.5, shape) * 0.15
    if kind == "counter":
        return np.zeros(shape)
    return draw.standard_normal(shape) * 0.1


def _state_dict(name):
    """``{torch name: float64 array}`` of ``<name>_params.json``."""
    entries = json.loads((GOLDENS / f"{name}_params.json").read_text())
    return {key: _seeded(key, shape, kind) for key, shape, kind in entries}


def _path(name, heads):
    """The place of a torch name: ``(collection, path)``, None for a counter."""
    *modules, leaf = name.split(".")
    if leaf == "num_batches_tracked":
        return None
    if modules[0] in heads:
        return "params", (heads[modules[0]], f"conv2d_list_{modules[2]}", _kernel(leaf))
    module = "/".join(modules)
    norm = "bn" in module or module.endswith("downsample/1")
    module = re.sub(r"^(layer\d|features)/(\d+)", r"\1_\2", module)
    module = module.replace("downsample/0", "downsample_conv")
    module = module.replace("downsample/1", "downsample_bn")
    collection = "batch_stats" if leaf in LEAVES else "params"
    leaf = LEAVES.get(leaf) or ("scale" if norm and leaf == "weight" else _kernel(leaf))
    return collection, ("backbone", *module.split("/"), leaf)


def _kernel(leaf):
    return "kernel" if leaf == "weight" else leaf


def _trees(state, heads, branches):
    trees = {"params": {}, "batch_stats": {}}
    for name, value in state.items():
        place = _path(name, heads)
        if place is None or _branch(name) >= branches or _dropped(name, heads):
            continue
        collection, (*modules, leaf) = place
        node = trees[collection]
        for module in modules:
            node = node.setdefault(module, {})
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        node[leaf] = jnp.asarray(value.astype(np.float32))
    return trees["params"], trees["batch_stats"]


def _branch(name):
    found = re.search(r"conv2d_list\.(\d)", name)
    return int(found[1]) if found else -1


def _dropped(name, heads):
    return "conv2d_list" in name and name.split(".")[0] not in heads


def _leaf(trees, name, heads):
    """The leaf of ``(params, model_state)`` that a torch name stands for."""
    collection, path = _path(name, heads)
    node = trees[0 if collection == "params" else 1]
    for key in path:
        node = node[key]
    return node


def _upsample_matrix(target, source):
    """Align-corners interpolation from ``source`` to ``target`` points."""
    position = np.arange(target) * (source - 1) / (target - 1)
    distance = np.abs(position[:, None] - np.arange(source))
    return np.maximum(0.0, 1.0 - distance)


def _cross_entropy(logits, labels):
    """Mean cross-entropy of the upsampled logits over the labelled pixels."""
    rows = _upsample_matrix(labels.shape[1], logits.shape[1])
    columns = _upsample_matrix(labels.shape[2], logits.shape[2])
    rows, columns = jnp.asarray(rows, logits.dtype), jnp.asarray(columns, logits.dtype)
    full = jnp.einsum("Hh,bhwc,Ww->bHWc", rows, logits, columns)
    valid = labels != 255
    classes = jnp.where(valid, labels, 0)
    picked = jax.nn.one_hot(classes, logits.shape[-1], dtype=logits.dtype)
    losses = -(jax.nn.log_softmax(full) * picked).sum(-1)
    return jnp.where(valid, losses, 0.0).sum() / valid.sum().astype(logits.dtype)


@pytest.fixture(scope="session")
def golden():
    return lambda name: np.load(GOLDENS / f"{name}.npz", allow_pickle=False)


@pytest.fixture(scope="session")
def state_dict():
    return _state_dict


@pytest.fixture(scope="session")
def seeded():
    """``(params, model_state)`` of a list of names; heads ``{torch: ours}``."""

    def build(name, *, heads, branches):
        return _trees(_state_dict(name), heads, branches)

    return build


@pytest.fixture(scope="session")
def leaf():
    return _leaf


@pytest.fixture(scope="session")
def cross_entropy():
    return _cross_entropy


@pytest.fixture(scope="session")
def assert_close():
    """``|found - expected|`` below ``tolerance`` of the norm of ``expected``."""

    def check(found, expected, tolerance, name=""):
        found, expected = np.asarray(found, np.float64), np.asarray(expected)
        assert found.shape == expected.shape, name
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < tolerance, f"{name}: relative error {error:.2e}"

    return check
