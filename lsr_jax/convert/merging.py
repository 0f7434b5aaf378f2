"""Imported weights over a freshly initialised model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lsr_jax import errors, types
from lsr_jax.convert import checks, folder, names


def check_preprocessing(
    info: Mapping[str, Any], expected: str, *, allow: bool = False
) -> None:
    """Refuses weights that were trained on other input than the run will give them.

    ``allow`` lets them pass: LSR feeds BGR images to ImageNet weights for RGB.

    Raises:
      InputError: ``info["preprocessing"]`` is not ``expected``.
    """
    if info["preprocessing"] != expected and not allow:
        raise errors.InputError(
            f"{info['file']}: trained on {info['preprocessing']!r} input, the config "
            f"prepares {expected!r}; change the preprocessing or allow the mismatch"
        )


def overlay(
    params: types.PyTree,
    model_state: types.PyTree,
    imported: folder.Imported,
    *,
    skip_head: bool = False,
) -> tuple[types.PyTree, types.PyTree]:
    """Lays imported weights over a freshly initialised model, by name.

    What such a file never owns stays fresh (heads beside an ImageNet body), and what
    the model does not run is left out (further ASPP branches, a second head).

    Args:
      params: of ``Model.init``.
      model_state: of ``Model.init``.
      imported: of ``load``.
      skip_head: keep the fresh heads.

    Returns:
      ``(params, model_state)``; arrays of ``imported`` where it has them.

    Raises:
      InputError: a leaf that the file should own and does not, one that the model has
        no place for, or another shape (a 16-class head for 19 classes).
    """
    fresh = names.flatten(params, model_state)
    given = names.flatten(imported.params, imported.model_state)
    if skip_head:
        given = {path: leaf for path, leaf in given.items() if not names.in_head(path)}
    origin = imported.info["file"]
    unowned = set(imported.info["fresh"])
    missing = [
        path
        for path in fresh
        if path not in given
        and path not in unowned
        and not (names.in_head(path) and (skip_head or "head" not in imported.params))
    ]
    unexpected = [p for p in given if p not in fresh and not names.in_head(p)]
    shared = fresh.keys() & given.keys()
    _check_head_shapes(origin, fresh, given, shared)
    wrong = {
        path: (given[path].shape, fresh[path].shape)
        for path in sorted(shared)
        if given[path].shape != fresh[path].shape
    }
    checks.match(origin, missing, unexpected, wrong)
    return names.unflatten(fresh | {path: given[path] for path in shared})


def _check_head_shapes(origin, fresh, given, shared):
    for path in shared:
        if re.search(r"head/(conv2d_list_\d|classifier)/bias$", path):
            checks.classes(origin, len(given[path]), len(fresh[path]))
