"""PyTorch files to our trees, strictly by name, and laid over a fresh model."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lsr_jax import types
from lsr_jax.convert import files, layouts, names
from lsr_jax.convert.files import Imported
from lsr_jax.errors import InputError

SHOWN = 8  # names that an error lists


def load(
    path: str | Path,
    *,
    layout: str | None = None,
    architecture: str | None = None,
    backbone: str | None = None,
    num_classes: int | None = None,
    skip_head: bool = False,
) -> Imported:
    """Read a folder written by ``save``, or a ``.pth`` or ``.safetensors`` file.

    Every ASPP branch of a file is loaded; ``overlay`` takes those that the model runs.

    Args:
      path: the folder or file.
      layout: a key of ``layouts.LAYOUTS``; None detects it.
      architecture: what the file must hold, or what its ImageNet body is for; None takes
        what it holds.
      backbone: what the file must hold; None takes what it holds.
      num_classes: likewise.
      skip_head: leave the heads of the file out.

    Raises:
      InputError: an unreadable file, an unknown layout, another architecture, backbone
        or number of classes, or names that do not match one to one (missing, unexpected
        and wrong-shape names are listed).
    """
    path = Path(path)
    if path.is_dir():
        return files.read_folder(path)
    raw = files.read(path)
    prefix, arrays = layouts.strip(raw.arrays)
    facts = layouts.facts(prefix, arrays, path)
    vgg = layouts.is_vgg(facts.backbone)
    if backbone not in (None, facts.backbone) and (vgg or layouts.is_vgg(backbone)):
        raise InputError(
            f"{path}: holds a {'VGG' if vgg else 'ResNet'} ({facts.backbone}), expected "
            f"{backbone}; choose the model that belongs to the file"
        )
    fitting = _fitting(path, facts, layout)
    chosen = layouts.LAYOUTS[fitting[0]]
    body = chosen.initialisation  # ImageNet weights, without a head
    if not body and architecture not in (None, chosen.architecture):
        raise InputError(
            f"{path}: holds a {chosen.architecture}, expected {architecture}; choose the "
            "model that belongs to the file"
        )
    headless = skip_head or body
    if not headless:
        _check_classes(path, facts.num_classes, num_classes)
    dilations = layouts.FOUR[: facts.branches or len(layouts.TWO)]
    arguments = {
        "backbone": backbone or facts.backbone,
        "num_classes": (num_classes or 19) if headless else facts.num_classes,
        "head": "single" if body else facts.head or "single",
        "aspp_dilations": layouts.TWO if body else dilations,
        "batch_norm": chosen.batch_norm,
        "freeze_stem_affine": chosen.freeze_stem_affine,
    }
    if "deeplabv3plus" in (architecture, chosen.architecture):
        arguments |= {
            "architecture": "deeplabv3plus",
            "aspp_dilations": layouts.LAYOUTS["cag"].dilations,
        }
    flat, match = _match(path, arrays, arguments, fitting[0], skip_head)
    info = {
        "file": path.name,
        "sha256": raw.sha256,
        "layout": "|".join(fitting),
        "preprocessing": chosen.preprocessing,
        "arguments": arguments,
        **match,
    }
    return Imported(*names.unflatten(flat), info)


def running_branches(imported: Imported) -> Imported:
    """Leave out the ASPP branches that the original repository never runs.

    Raises:
      InputError: repositories that share this layout differ in what they run.
    """
    info = imported.info
    fitting = info["layout"].split("|")
    dilations = {name: layouts.LAYOUTS[name].dilations for name in fitting}
    if len(set(dilations.values())) > 1:
        choices = [f"{name} runs {found}" for name, found in dilations.items()]
        raise InputError(
            f"{info['file']}: fits several layouts ({'; '.join(choices)}); name one with "
            "--layout, or keep every branch with --all_branches"
        )
    running = dilations[fitting[0]]
    flat = names.flatten(imported.params, imported.model_state)
    dead = {path for path in flat if names.branch(path) >= len(running)}
    loaded = {n: path for n, path in info["loaded"].items() if path not in dead}
    ignored = {n: "a branch that never runs" for n in info["loaded"] if n not in loaded}
    info = info | {
        "arguments": info["arguments"] | {"aspp_dilations": running},
        "loaded": loaded,
        "ignored": info["ignored"] | ignored,
    }
    rest = {path: leaf for path, leaf in flat.items() if path not in dead}
    return Imported(*names.unflatten(rest), info)


def check_preprocessing(
    info: Mapping[str, Any], expected: str, *, allow: bool = False
) -> None:
    """Check that weights were trained on the input that the run will give them.

    ``allow`` accepts others: LSR feeds BGR images to ImageNet weights for RGB.

    Raises:
      InputError: ``info["preprocessing"]`` is not ``expected``.
    """
    if info["preprocessing"] != expected and not allow:
        raise InputError(
            f"{info['file']}: trained on {info['preprocessing']!r} input, the config "
            f"prepares {expected!r}; change the preprocessing or allow the mismatch"
        )


def overlay(
    params: types.PyTree,
    model_state: types.PyTree,
    imported: Imported,
    *,
    skip_head: bool = False,
) -> tuple[types.PyTree, types.PyTree]:
    """Lay imported weights over a freshly initialised model, by name.

    What such a file never has stays fresh (heads beside an ImageNet body), and what the
    model does not run is left out (further ASPP branches, a second head).

    Args:
      params: of ``Model.init``.
      model_state: of ``Model.init``.
      imported: of ``load``.
      skip_head: keep the fresh heads.

    Returns:
      ``(params, model_state)``; arrays of ``imported`` where it has them.

    Raises:
      InputError: a leaf that the file should have and does not, one that the model has
        no place for, or another shape (a 16-class head for 19 classes).
    """
    fresh = names.flatten(params, model_state)
    given = names.flatten(imported.params, imported.model_state)
    if skip_head:
        given = {path: leaf for path, leaf in given.items() if not names.in_head(path)}
    origin = imported.info["file"]
    keeps_head = skip_head or "head" not in imported.params
    absent = set(imported.info["fresh"]) | given.keys()
    missing = [
        path
        for path in fresh
        if path not in absent and not (keeps_head and names.in_head(path))
    ]
    unexpected = [p for p in given if p not in fresh and not names.in_head(p)]
    shared = sorted(fresh.keys() & given.keys())
    for path in shared:
        if re.search(r"head/(conv2d_list_\d|classifier)/bias$", path):
            _check_classes(origin, len(given[path]), len(fresh[path]))
    wrong = {
        path: (given[path].shape, fresh[path].shape)
        for path in shared
        if given[path].shape != fresh[path].shape
    }
    _check_match(origin, missing, unexpected, wrong)
    return names.unflatten(fresh | {path: given[path] for path in shared})


def _match(path, arrays, arguments, layout, skip_head):
    """Pair every leaf of the model with its array, strictly by name."""
    flat, loaded, fresh, missing, wrong = {}, {}, [], [], {}
    for place, shape in names.shapes(arguments).items():
        name = names.torch_name(place, arguments, layout)
        if name is None or (skip_head and names.in_head(place)):
            fresh.append(place)
        elif name not in arrays:
            missing.append(name)
        else:
            value = names.to_ours(arrays[name])
            loaded[name], flat[place] = place, value
            if value.shape != shape:
                wrong[name] = (value.shape, shape)
    patterns = {**layouts.LAYOUTS[layout].ignored, **layouts.COUNTERS}
    if skip_head:
        patterns[r"conv2d_list\.|^(aspp|decoder)\."] = "a head, skipped on purpose"
    ignored, unexpected = {}, []
    for name in sorted(arrays.keys() - loaded.keys()):
        reasons = [why for rule, why in patterns.items() if re.search(rule, name)]
        if reasons:
            ignored[name] = reasons[0]
        else:
            unexpected.append(name)
    _check_match(path, missing, unexpected, wrong)
    return flat, {"loaded": loaded, "ignored": ignored, "fresh": fresh}


def _fitting(path, facts, layout):
    """The layouts that the file may have: the named one, or all that fit."""
    fitting = layouts.candidates(facts)
    if layout is None and fitting:
        return fitting
    if layout is None:
        raise InputError(
            f"{path}: a {facts.backbone} body without a head or classifier of any known "
            f"layout; name one of {', '.join(layouts.LAYOUTS)}"
        )
    if layout not in layouts.LAYOUTS or not layouts.fits(layout, facts):
        raise InputError(
            f"{path}: layout {layout!r} does not fit; the file looks like "
            f"{' or '.join(fitting) or 'none that is known'}"
        )
    return [layout]


def _check_classes(origin: object, found: int | None, expected: int | None) -> None:
    if found and expected and found != expected:
        raise InputError(
            f"{origin}: its head has {found} classes, the model {expected}; set "
            f"num_classes to {found} or skip the head"
        )


def _check_match(
    origin: object,
    missing: Collection[str],
    unexpected: Collection[str],
    wrong: Mapping[str, tuple],
) -> None:
    """Raise InputError where names have no partner on a side, or another shape.

    ``wrong`` maps a name to the shape found and the shape expected.
    """
    shapes = [
        f"{name} {found} instead of {due}" for name, (found, due) in wrong.items()
    ]
    lists = {"missing": missing, "unexpected": unexpected, "wrong shape": shapes}
    parts = [
        f"{label} {len(items)}: {', '.join([*items][:SHOWN])}"
        + (", ..." if len(items) > SHOWN else "")
        for label, items in lists.items()
        if items
    ]
    if parts:
        raise InputError(f"{origin}: does not match the model; {'; '.join(parts)}")
