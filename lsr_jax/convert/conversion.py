"""PyTorch files to our trees and back, strictly by name."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from lsr_jax import types
from lsr_jax.convert import layouts, names, weight_files
from lsr_jax.convert.weight_files import CONVERTER, Imported
from lsr_jax.errors import InputError

SHOWN = 8  # names that an error lists
SKIPPED = "a head, skipped on purpose"
UNUSED_BRANCH = "a branch that never runs"
NAMED = ("vgg", "mit")  # families whose other sizes are named, not their arrays


def load(
    path: str | Path,
    *,
    layout: str | None = None,
    architecture: str | None = None,
    backbone: str | None = None,
    num_classes: int | None = None,
    skip_head: bool = False,
    skip_aux_head: bool = False,
    all_branches: bool = False,
    entry: str | None = None,
) -> Imported:
    """Read what ``save`` wrote, or a PyTorch or safetensors file.

    ASPP branches that the original repository never runs are left out.

    Args:
      path: the folder or file.
      layout: a key of ``layouts.LAYOUTS``; None detects it.
      architecture: what the file must hold, or what its ImageNet body is for; None takes
        what it holds.
      backbone: what the file must hold; None takes what it holds.
      num_classes: likewise.
      skip_head: leave the heads of the file out.
      skip_aux_head: leave the second head of the file out.
      all_branches: keep every ASPP branch.
      entry: see ``weight_files.read``; "ema_model" takes the teacher of DAFormer, HRDA or
        MIC instead of the student.

    Raises:
      InputError: an unreadable file, an unknown layout or entry, repositories that share
        the layout but not the branches that run, another architecture, backbone or number
        of classes, names that do not match one to one (missing, unexpected and wrong-shape
        names are listed), values that are not finite, or BatchNorm variances below 0.
    """
    path = Path(path)
    if path.exists() and weight_files.is_own(path):
        if entry is not None:
            raise InputError(
                f"{path}: has one network, no {entry!r}; convert the original file with "
                "--entry"
            )
        imported = weight_files.read_own(path)
        _check_own(path, imported, layout, architecture, backbone, num_classes)
        if all_branches and UNUSED_BRANCH in imported.info["ignored"].values():
            raise InputError(
                f"{path}: was converted without the ASPP branches that never run; convert "
                "the original file with --all_branches"
            )
        if skip_head:
            imported = _leave_out(imported, names.in_head, SKIPPED)
    else:
        model = architecture, backbone, num_classes
        imported = _read(path, layout, *model, skip_head, entry)
        if not (all_branches or skip_head):
            imported = _running_branches(path, imported)
    if skip_aux_head:
        imported = _leave_out(imported, lambda p: "/aux_head/" in p, SKIPPED)
        imported.info["arguments"]["head"] = "single"
    check_values(path, names.flatten(imported.params, imported.model_state))
    return imported


def _read(path, layout, architecture, backbone, num_classes, skip_head, entry):
    arrays = weight_files.read(path, entry=entry)
    copies = layouts.copies(arrays)
    if copies:
        arrays = copies.pop(entry if entry in copies else "model")
    prefix, arrays = layouts.strip(arrays)
    facts = layouts.facts(prefix, arrays, path)
    family = layouts.family(facts.backbone)
    differs = backbone not in (None, facts.backbone)
    if differs and (family in NAMED or layouts.family(backbone) != family):
        raise InputError(
            f"{path}: holds a {layouts.FAMILIES[family]} ({facts.backbone}), expected "
            f"{backbone}; choose the model that belongs to the file"
        )
    fitting = _fitting(path, facts, layout)
    chosen = layouts.LAYOUTS[fitting[0]]
    body = chosen.initialisation  # ImageNet weights, without a head
    found = facts.options.get("architecture", "deeplabv2")
    either = body and "daformer" not in (found, architecture)
    if not either and architecture not in (None, found):
        raise InputError(
            f"{path}: holds {'the body of ' if body else ''}a {found}, expected "
            f"{architecture}; choose the model that belongs to the file"
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
        **facts.options,
    }
    if body and architecture == "deeplabv3plus":
        arguments |= layouts.CAG_OPTIONS
    flat, match = _match(path, arrays, arguments, fitting[0], skip_head)
    info = {
        "file": path.name,
        "sha256": weight_files.fingerprint(path),
        "layout": "|".join(fitting),
        "preprocessing": chosen.preprocessing,
        "arguments": arguments,
        **match,
    }
    for key in sorted(copies):
        reason = f"{layouts.COPIES[key]} ({key})"
        info["ignored"] |= dict.fromkeys(copies[key], reason)
    return Imported(*names.unflatten(flat), info)


def _check_own(path, imported, layout, architecture, backbone, num_classes):
    info = imported.info
    known = {"architecture": "deeplabv2", **info["arguments"]}
    expected = {"backbone": backbone}
    if "head" in imported.params:  # that of a body alone is chosen when it is used
        expected |= {"architecture": architecture, "num_classes": num_classes}
    facts = {key: (known[key], value) for key, value in expected.items()}
    if layout not in (None, *info["layout"].split("|")):
        facts["layout"] = info["layout"], layout
    for key, (found, value) in facts.items():
        if value not in (None, found):
            raise InputError(
                f"{path}: has the {key} {found}, expected {value}; choose what belongs to "
                "it, or convert the original file"
            )


def _running_branches(path, imported):
    """Leave out the ASPP branches that the original repository never runs."""
    info = imported.info
    dilations = {
        name: layouts.LAYOUTS[name].dilations for name in info["layout"].split("|")
    }
    if len(set(dilations.values())) > 1:
        choices = [f"{name} runs {found}" for name, found in dilations.items()]
        raise InputError(
            f"{path}: fits several layouts with different ASPP branches "
            f"({'; '.join(choices)}); convert it with {CONVERTER} and --layout, or keep "
            "every branch with --all_branches"
        )
    running = next(iter(dilations.values()))
    body = layouts.LAYOUTS[info["layout"].split("|")[0]].initialisation
    if body or not running:
        return imported
    info["arguments"]["aspp_dilations"] = running
    dead = re.compile(rf"/conv2d_list_[{len(running)}-9]/").search
    return _leave_out(imported, dead, UNUSED_BRANCH)


def _leave_out(imported: Imported, chosen: Callable[[str], object], reason: str):
    info, flat = imported.info, names.flatten(imported.params, imported.model_state)
    gone = {name for name, path in info["loaded"].items() if chosen(path)}
    info = info | {
        "loaded": {n: p for n, p in info["loaded"].items() if n not in gone},
        "ignored": info["ignored"] | dict.fromkeys(sorted(gone), reason),
    }
    rest = {path: leaf for path, leaf in flat.items() if not chosen(path)}
    return Imported(*names.unflatten(rest), info)


def check_values(origin: object, weights: Mapping[str, np.ndarray]) -> None:
    """Check that weights can be those of a trained network.

    Raises:
      InputError: a value that is not finite, or a BatchNorm variance below 0. Both would
        be scored without an error, as one class everywhere.
    """
    variances = {p: np.asarray(x) for p, x in weights.items() if p.endswith("/var")}
    broken = {
        "not finite": [p for p, x in weights.items() if not np.isfinite(x).all()],
        "variances below 0": [p for p, x in variances.items() if (x < 0).any()],
    }
    if any(broken.values()):
        raise InputError(
            f"{origin}: damaged weights; {_listed(broken)}; use another checkpoint"
        )


def overlay(
    params: types.PyTree, model_state: types.PyTree, imported: Imported
) -> tuple[types.PyTree, types.PyTree]:
    """Lay imported weights over ``params`` and ``model_state`` of ``Model.init``, by name.

    What such a file never has stays fresh: heads beside an ImageNet body, and heads that
    were skipped.

    Returns:
      ``(params, model_state)``; arrays of ``imported`` where it has them.

    Raises:
      InputError: a leaf that the file should have and does not, one that the model has
        no place for, or another shape (a 16-class head for 19 classes).
    """
    fresh = names.flatten(params, model_state)
    given = names.flatten(imported.params, imported.model_state)
    origin = imported.info["file"]
    headless = "head" not in imported.params
    absent = set(imported.info["fresh"]) | given.keys()
    missing = [p for p in fresh if p not in absent]
    if headless:
        missing = [p for p in missing if not names.in_head(p)]
    shared = sorted(fresh.keys() & given.keys())
    for path in shared:
        if re.search(r"head/(conv2d_list_\d|classifier|conv_seg)/bias$", path):
            _check_classes(origin, len(given[path]), len(fresh[path]))
    wrong = {
        path: (given[path].shape, fresh[path].shape)
        for path in shared
        if given[path].shape != fresh[path].shape
    }
    _check_match(origin, missing, sorted(given.keys() - fresh.keys()), wrong)
    return names.unflatten(fresh | {path: given[path] for path in shared})


def _match(path, arrays, arguments, layout, skip_head):
    chosen = layouts.LAYOUTS[layout]
    flat, places, fresh, missing, wrong = {}, defaultdict(dict), [], {}, {}
    shapes = names.shapes(arguments)
    pieces = {place: names.pieces(place, arguments, layout) for place in shapes}
    parts = Counter(piece.name for found in pieces.values() for piece in found)
    for place, shape in shapes.items():
        if not pieces[place] or (skip_head and names.in_head(place)):
            fresh.append(place)
            continue
        due = (*shape[:-1], shape[-1] // len(pieces[place]))
        rows = []
        for name, part in pieces[place]:
            if name not in arrays:
                missing[name] = None
                continue
            places[name][place] = None
            row = names.to_ours(names.split(arrays[name], parts[name])[part])
            expected = (1, 1, *due) if re.search(chosen.pointwise, name) else due
            if row.shape == expected:
                rows.append(row.reshape(due))
            else:
                wrong[name] = (row.shape, expected)
        if len(rows) == len(pieces[place]):
            flat[place] = np.concatenate(rows, axis=-1)
    loaded = {name: ", ".join(found) for name, found in places.items()}
    patterns = {**chosen.ignored, **layouts.COUNTERS}
    if skip_head:
        patterns[r"conv2d_list\.|^(aspp|decoder|decode_head)\."] = SKIPPED
    ignored = {}
    for name in sorted(arrays.keys() - loaded.keys()):
        reasons = (why for rule, why in patterns.items() if re.search(rule, name))
        ignored[name] = next(reasons, None)
    unexpected = [name for name in ignored if not ignored[name]]
    _check_match(path, missing, unexpected, wrong)
    return flat, {"loaded": loaded, "ignored": ignored, "fresh": fresh}


def _fitting(path, facts, layout):
    """The layouts that the file may have: the named one, or all that fit."""
    fitting = {n: x for n, x in layouts.LAYOUTS.items() if layouts.fits(n, facts)}
    exact = [name for name, x in fitting.items() if x.prefix == facts.prefix]
    likely = exact or [*fitting]
    if layout is None and not likely:
        raise InputError(
            f"{path}: a {facts.backbone} body without a head or classifier of any known "
            f"layout; convert it with {CONVERTER} and --layout, one of "
            f"{', '.join(layouts.LAYOUTS)}"
        )
    if layout not in (None, *fitting):
        raise InputError(
            f"{path}: layout {layout!r} does not fit; the file looks like "
            f"{' or '.join(likely) or 'none that is known'}"
        )
    return [layout] if layout else likely


def _check_classes(origin: object, found: int | None, expected: int | None) -> None:
    if found and expected and found != expected:
        raise InputError(
            f"{origin}: its head has {found} classes, the model {expected}; set "
            f"num_classes to {found} or skip the head"
        )


def _check_match(origin, missing, unexpected, wrong) -> None:
    """Raise InputError for names without partner, or ``wrong`` shapes: found, expected."""
    shapes = [
        f"{name} {found} instead of {due}" for name, (found, due) in wrong.items()
    ]
    lists = {"missing": missing, "unexpected": unexpected, "wrong shape": shapes}
    if any(lists.values()):
        raise InputError(f"{origin}: does not match the model; {_listed(lists)}")


def _listed(lists: Mapping[str, Collection[str]]) -> str:
    """``label count: name, name, ...`` of the lists that are not empty."""
    return "; ".join(
        f"{label} {len(items)}: {', '.join([*items][:SHOWN])}"
        + (", ..." if len(items) > SHOWN else "")
        for label, items in lists.items()
        if items
    )


def export(imported: weight_files.Imported, path: str | Path, *, layout: str) -> None:
    """Write weights for PyTorch, with the names and the order of axes of ``layout``.

    ``load`` of the result gives the same arrays, bit for bit. ASPP branches that our
    model does not run, and counters, are written as zeros, because the original modules
    have them.

    Raises:
      InputError: ``layout`` cannot hold this network, or ``path`` exists.
    """
    arguments = imported.info["arguments"]
    if layout not in layouts.LAYOUTS:
        raise InputError(
            f"--layout: expected one of {', '.join(layouts.LAYOUTS)}; found {layout!r}"
        )
    chosen = layouts.LAYOUTS[layout]
    family, head = layouts.family(arguments["backbone"]), layouts.kind(arguments)
    known = head in chosen.heads or (family == "vgg" and head == "single")
    network = arguments.get("architecture", "deeplabv2")
    fits = chosen.initialisation or (known and network in chosen.architectures)
    if family not in chosen.backbones or not fits:
        raise InputError(
            f"--layout {layout}: cannot hold a {network} on {arguments['backbone']} with "
            f"head {head!r}"
        )
    arrays = defaultdict(dict)
    for place, leaf in names.flatten(imported.params, imported.model_state).items():
        if pieces := names.pieces(place, arguments, layout):
            rows = names.split(names.to_torch(leaf), len(pieces))
            for (name, part), row in zip(pieces, rows, strict=True):
                arrays[name][part] = row
    state = {}
    for name, rows in arrays.items():
        value = np.concatenate([rows[part] for part in sorted(rows)])
        pointwise = re.search(chosen.pointwise, name)
        state[name] = value[..., None, None] if pointwise else value
        if name.endswith("running_var") and layout != "deeplab_init":
            counter = name.replace("running_var", "num_batches_tracked")
            state[counter] = np.zeros((), np.int64)
    for name in [n for n in state if ".conv2d_list.0." in n]:
        for branch in range(4):
            dead = name.replace(".conv2d_list.0.", f".conv2d_list.{branch}.")
            state.setdefault(dead, np.zeros_like(state[name]))
    named = {chosen.prefix + name: value for name, value in state.items()}
    weight_files.write(path, named, wrapped=chosen.wrapped)
