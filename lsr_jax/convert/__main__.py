"""Convert PyTorch weight files to lsr_jax weight folders and back.

python -m lsr_jax.convert from-torch FILE --model deeplabv2_resnet101 --out DIR
python -m lsr_jax.convert to-torch DIR --layout lsr --out FILE     or of lsr_jax.export
python -m lsr_jax.convert anchors FILE --out FILE.npz        CAG's, for method.anchors

Files of torch.save (needs PyTorch; .pth, .pkl, .ckpt, .pth.tar) or safetensors.
"""

import collections
import sys
from collections.abc import Sequence

from lsr_jax import cli
from lsr_jax.convert import conversion, layouts, weight_files
from lsr_jax.errors import InputError

MODELS = {
    f"{architecture}_{name}": (architecture, name)
    for architecture, backbones in {
        "deeplabv2": ("resnet101", "resnet50", "resnet101_v1c", "vgg16", "vgg13"),
        "deeplabv3plus": ("resnet101", "resnet50"),
        "daformer": tuple(f"mit_b{size}" for size in range(6)),
    }.items()
    for name in backbones
}
FROM_TORCH = ("model", "num_classes", "skip_head", "skip_aux_head", "all_branches")
FROM_TORCH += ("entry", "verbose")  # flags of this command alone


def define(flags: cli.Flags) -> None:
    """Define the flags."""
    flags.path("out", "File or folder to create.", required=True)
    flags.enum("model", None, sorted(MODELS), "from-torch: the network, required.")
    flags.enum(
        "layout",
        None,
        sorted(layouts.LAYOUTS),
        "Whose names the PyTorch file has. to-torch: required; from-torch: as found.",
    )
    flags.integer("num_classes", 19, "from-torch: classes of the network.")
    flags.boolean("skip_head", False, "from-torch: leave the heads out.")
    flags.boolean("skip_aux_head", False, "from-torch: leave the second head out.")
    flags.boolean("all_branches", False, "from-torch: keep every ASPP branch.")
    flags.string(
        "entry",
        None,
        "from-torch: key of the network in a training checkpoint, as ema_model for the "
        "teacher; default: the only network, or the student of DAFormer, HRDA and MIC.",
    )
    flags.boolean("verbose", False, "from-torch: print every name.")


def convert(options, command: str, source: str) -> None:
    """Carry out one of the three commands."""
    if command not in COMMANDS:
        raise InputError(f"expected one of {', '.join(COMMANDS)} (found {command!r})")
    if command != "from-torch":
        cli.refuse(options, FROM_TORCH, command)
    if command == "anchors":
        cli.refuse(options, ["layout"], command)
    COMMANDS[command](options, source)


def _from_torch(options, file: str) -> None:
    if options.model is None:
        raise InputError("--model: required by from-torch; see --help")
    architecture, backbone = MODELS[options.model]
    imported = conversion.load(
        file,
        layout=options.layout,
        architecture=architecture,
        backbone=backbone,
        num_classes=options.num_classes,
        skip_head=options.skip_head,
        skip_aux_head=options.skip_aux_head,
        all_branches=options.all_branches,
        entry=options.entry,
    )
    weight_files.save(options.out, imported)
    info = imported.info
    print(f"{info['file']}: layout {info['layout']}, sha256 {info['sha256']}")
    print(f"loaded and renamed: {len(info['loaded'])} arrays")
    for name, path in info["loaded"].items():
        if options.verbose:
            print(f"  {name} -> {path}")
    for reason, count in collections.Counter(info["ignored"].values()).items():
        print(f"ignored: {count} arrays, {reason}")
        for name, why in info["ignored"].items():
            if why == reason and (options.verbose or count <= 8):
                print(f"  {name}")
    if info["fresh"]:
        print(f"not in the file, initialised by the run: {len(info['fresh'])} arrays")
    print(f"expects {info['preprocessing']} input; written to {options.out}")


def _to_torch(options, directory: str) -> None:
    if options.layout is None:
        raise InputError("--layout: required by to-torch; see --help")
    imported = conversion.load(directory)
    conversion.export(imported, options.out, layout=options.layout)
    print(f"{directory}: written to {options.out} in the layout {options.layout}")


def _anchors(options, file: str) -> None:
    vectors, count = weight_files.convert_anchors(file, options.out)
    found = f"{(count > 0).sum()} of {len(count)} classes, {vectors.shape[1]} channels"
    print(f"{file}: anchors of {found}; written to {options.out}")


COMMANDS = {"from-torch": _from_torch, "to-torch": _to_torch, "anchors": _anchors}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(define, convert, argv, arguments=["COMMAND", "FILE"])


if __name__ == "__main__":
    sys.exit(main())
