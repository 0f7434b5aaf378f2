"""Our trees to the files of the PyTorch originals."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lsr_jax.convert import files, layouts, names
from lsr_jax.errors import InputError


def export(imported: files.Imported, path: str | Path, *, layout: str) -> None:
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
    _check_layout(layout, chosen, arguments)
    state = {}
    for place, leaf in names.flatten(imported.params, imported.model_state).items():
        name = names.torch_name(place, arguments, layout)
        if name is None:
            continue
        state[name] = names.to_torch(leaf)
        if name.endswith("running_var") and layout != "deeplab_init":
            counter = name.replace("running_var", "num_batches_tracked")
            state[counter] = np.zeros((), np.int64)
    for name in [n for n in state if ".conv2d_list.0." in n]:
        for branch in range(4):
            dead = name.replace(".conv2d_list.0.", f".conv2d_list.{branch}.")
            state.setdefault(dead, np.zeros_like(state[name]))
    named = {chosen.prefix + name: value for name, value in state.items()}
    files.write(path, named, wrapped=chosen.wrapped)


def _check_layout(name: str, layout: layouts.Layout, arguments: dict) -> None:
    kind = "vgg" if layouts.is_vgg(arguments["backbone"]) else "resnet"
    head = arguments["head"]
    headed = layout.initialisation or (kind == "vgg" and head == "single")
    network = arguments.get("architecture", "deeplabv2")
    fits = layout.initialisation or network == layout.architecture
    if kind not in layout.backbones or not (headed or head in layout.heads) or not fits:
        raise InputError(
            f"--layout {name}: cannot hold a {network} on {arguments['backbone']} with "
            f"head {head!r}"
        )
