"""From our trees to the files of the PyTorch originals."""

from __future__ import annotations

import pathlib

import numpy as np

from lsr_jax import errors
from lsr_jax.convert import files, folder, layouts, names


def export(imported: folder.Imported, path: str | pathlib.Path, *, layout: str) -> None:
    """Writes weights for PyTorch in the names and order of axes of ``layout``.

    ``load`` of the result gives the same arrays, bit for bit. ASPP branches that our
    model does not run, and counters, are written as zeros, because the originals'
    modules own them.

    Raises:
      InputError: ``layout`` cannot hold this network, or ``path`` exists.
    """
    arguments = imported.info["arguments"]
    chosen = _exportable(layout, arguments)
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


def _exportable(layout, arguments):
    chosen = layouts.LAYOUTS.get(layout)
    if chosen is None:
        raise errors.InputError(
            f"--layout: expected one of {', '.join(layouts.LAYOUTS)}; found {layout!r}"
        )
    kind = "vgg" if layouts.is_vgg(arguments["backbone"]) else "resnet"
    single_vgg = kind == "vgg" and arguments["head"] == "single"
    headed = chosen.initialisation or single_vgg or arguments["head"] in chosen.heads
    network = arguments.get("architecture", "deeplabv2")
    fits = chosen.initialisation or network == chosen.architecture
    if kind not in chosen.backbones or not headed or not fits:
        raise errors.InputError(
            f"--layout {layout}: cannot hold a {network} on {arguments['backbone']} with "
            f"head {arguments['head']!r}"
        )
    return chosen
