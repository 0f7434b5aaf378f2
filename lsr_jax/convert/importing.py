"""From a PyTorch file to our trees, strictly by name."""

from __future__ import annotations

import pathlib
import re

from lsr_jax import errors
from lsr_jax.convert import checks, files, folder, layouts, names


def load(
    path: str | pathlib.Path,
    *,
    layout: str | None = None,
    architecture: str | None = None,
    backbone: str | None = None,
    num_classes: int | None = None,
    skip_head: bool = False,
) -> folder.Imported:
    """Reads a folder written by ``save``, or a ``.pth`` or ``.safetensors`` file.

    Every ASPP branch of a file is kept; ``overlay`` takes those that the model runs.

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
    path = pathlib.Path(path)
    if path.is_dir():
        return folder.read(path)
    raw = files.read(path)
    prefix, arrays = layouts.strip(raw.arrays)
    facts = layouts.facts(prefix, arrays, path)
    _check_backbone(path, facts.backbone, backbone)
    fitting = _fitting(path, facts, layout)
    chosen = layouts.LAYOUTS[fitting[0]]
    _check_architecture(path, chosen, architecture)
    headless = skip_head or chosen.initialisation
    if not headless:
        checks.classes(path, facts.num_classes, num_classes)
    arguments = {
        "backbone": backbone or facts.backbone,
        "num_classes": (num_classes or 19) if headless else facts.num_classes,
        "head": facts.head or "single",
        "aspp_dilations": layouts.FOUR[: facts.branches or len(layouts.TWO)],
        "batch_norm": chosen.batch_norm,
        "freeze_stem_affine": chosen.freeze_stem_affine,
    }
    if chosen.initialisation:
        arguments |= {"head": "single", "aspp_dilations": layouts.TWO}
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
    return folder.Imported(*names.unflatten(flat), info)


def running_branches(imported: folder.Imported) -> folder.Imported:
    """Leaves out the ASPP branches that the file's repository owns but never runs.

    Raises:
      InputError: repositories that share this layout differ in what they run.
    """
    info = imported.info
    fitting = info["layout"].split("|")
    dilations = {name: layouts.LAYOUTS[name].dilations for name in fitting}
    if len(set(dilations.values())) > 1:
        choices = [f"{name} runs {found}" for name, found in dilations.items()]
        raise errors.InputError(
            f"{info['file']}: fits several layouts ({'; '.join(choices)}); name one with "
            "--layout, or keep every branch with --all_branches"
        )
    running = dilations[fitting[0]]
    flat = names.flatten(imported.params, imported.model_state)
    dead = {path for path in flat if names.branch(path) >= len(running)}
    loaded = {n: path for n, path in info["loaded"].items() if path not in dead}
    ignored = {n: "a branch that never runs" for n in info["loaded"] if n not in loaded}
    kept = {path: leaf for path, leaf in flat.items() if path not in dead}
    arguments = info["arguments"] | {"aspp_dilations": running}
    info = info | {"arguments": arguments, "loaded": loaded}
    info |= {"ignored": info["ignored"] | ignored}
    return folder.Imported(*names.unflatten(kept), info)


def _match(path, arrays, arguments, layout, skip_head):
    """Pairs every leaf of the model with its array, strictly by name."""
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
    patterns = _ignorable(layout, skip_head)
    ignored, unexpected = {}, []
    for name in arrays.keys() - loaded.keys():
        reasons = [why for rule, why in patterns.items() if re.search(rule, name)]
        if reasons:
            ignored[name] = reasons[0]
        else:
            unexpected.append(name)
    checks.match(path, missing, sorted(unexpected), wrong)
    ignored = dict(sorted(ignored.items()))
    return flat, {"loaded": loaded, "ignored": ignored, "fresh": fresh}


def _ignorable(layout, skip_head):
    patterns = dict(layouts.LAYOUTS[layout].ignored) | layouts.COUNTERS
    if skip_head:
        patterns[r"conv2d_list\.|^(aspp|decoder)\."] = "a head, skipped on purpose"
    return patterns


def _fitting(path, facts, layout):
    fitting = layouts.candidates(facts)
    if layout is None and fitting:
        return fitting
    if layout is None:
        raise errors.InputError(
            f"{path}: a {facts.backbone} body without a head or classifier of any known "
            f"layout; name one of {', '.join(layouts.LAYOUTS)}"
        )
    if layout not in layouts.LAYOUTS or not layouts.fits(layout, facts):
        raise errors.InputError(
            f"{path}: layout {layout!r} does not fit; the file looks like "
            f"{' or '.join(fitting) or 'none that is known'}"
        )
    return [layout]


def _check_architecture(path, layout, expected):
    if layout.initialisation or expected in (None, layout.architecture):
        return
    raise errors.InputError(
        f"{path}: holds a {layout.architecture}, expected {expected}; choose the model "
        "that belongs to the file"
    )


def _check_backbone(path, found, expected):
    vgg = layouts.is_vgg(found) or layouts.is_vgg(expected)
    if expected in (None, found) or not vgg:
        return
    raise errors.InputError(
        f"{path}: holds a {'VGG' if layouts.is_vgg(found) else 'ResNet'} ({found}), "
        f"expected {expected}; choose the model that belongs to the file"
    )
