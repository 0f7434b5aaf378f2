"""What a checkpoint holds, as hashes: a flipped bit is found when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import jax
import numpy as np

from lsr_jax.types import PyTree


def paths(tree: PyTree) -> dict[str, PyTree]:
    """Leaves by name, as ``params/model/head/conv2d_list_0/kernel``."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def digests(tree: PyTree) -> dict[str, str]:
    """sha256 of every array of a tree by its name: of dtype, shape and bytes."""
    return {
        name: digest(np.asarray(leaf))
        for name, leaf in jax.device_get(jax.tree.map(plain, paths(tree))).items()
    }


def plain(leaf: jax.Array) -> jax.Array:
    """The array itself, or the numbers of a key."""
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def digest(array: np.ndarray) -> str:
    """sha256 of one array."""
    head = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    # As bytes: hashlib does not take every dtype of JAX (bfloat16).
    head.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return head.hexdigest()


def seal(facts: Mapping, tree: PyTree) -> dict:
    """``facts`` with ``arrays``, the digests of a tree, and ``sha256`` over it all."""
    whole = {**facts, "arrays": digests(tree)}
    return {**whole, "sha256": seal_of(whole)}


def seal_of(facts: Mapping) -> str:
    """sha256 of facts without their own seal."""
    rest = {name: value for name, value in facts.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_seal(facts: Mapping) -> None:
    """Raise ValueError unless ``facts`` are as `seal` made them."""
    if not isinstance(facts, dict) or "arrays" not in facts:
        raise ValueError("it has no content hash, so another program wrote it")
    if facts.get("sha256") != seal_of(facts):
        raise ValueError("its facts are not what was saved")


def check_step(facts: Mapping, step: int) -> None:
    """Raise ValueError unless ``facts`` are of the step that their folder is named for."""
    saved = facts.get("step")
    if saved != step:
        raise ValueError(f"it was saved as that of step {saved}")


def check_types(wanted: PyTree, found: PyTree) -> None:
    """Raise ValueError where a leaf has another dtype or shape than is wanted.

    A key that lost its type comes back as numbers, whose hash is that of the key.
    """
    found = paths(found)
    for name, leaf in paths(wanted).items():
        expected, got = (f"{x.dtype}{list(x.shape)}" for x in (leaf, found[name]))
        if expected != got:
            raise ValueError(f"{name} is {got} there and {expected} here")


def check_arrays(facts: Mapping, tree: PyTree, *, whole: bool) -> None:
    """Raise ValueError unless the arrays are those that were saved.

    Args:
      facts: sealed.
      tree: as read.
      whole: whether it holds everything that was saved.
    """
    found = digests(tree)
    if whole and found.keys() != facts["arrays"].keys():
        odd = sorted(found.keys() ^ facts["arrays"].keys())
        raise ValueError(f"it holds another state: {', '.join(odd[:3])}")
    changed = [name for name in found if found[name] != facts["arrays"].get(name)]
    if changed:
        raise ValueError(
            f"the content of {', '.join(changed[:3])} is not what was saved "
            f"({len(changed)} of {len(found)} arrays)"
        )


def check_network(wanted: PyTree, stored: PyTree) -> None:
    """Raise ValueError where the stored network has other leaves or other shapes.

    Args:
      wanted: a state, or a dict with ``params/model`` and ``model_state``.
      stored: the same of a checkpoint, with shapes.
    """
    wanted, stored = shapes(wanted), shapes(stored)
    for what, names in (
        ("has no", sorted(wanted.keys() - stored.keys())),
        ("also has", sorted(stored.keys() - wanted.keys())),
    ):
        if names:
            raise ValueError(f"it {what} {', '.join(names[:3])} ({len(names)} such)")
    for name, shape in wanted.items():
        if shape != stored[name]:
            raise ValueError(f"{name} is {stored[name]} there and {shape} here")


def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Path -> shape of the leaves of the network in a state."""
    return {
        name: tuple(leaf.shape)
        for name, leaf in paths(tree).items()
        if name.startswith(("params/model/", "model_state/"))
    }
