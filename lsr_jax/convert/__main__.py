"""``python -m lsr_jax.convert from-torch FILE --model deeplabv2_resnet101 --out DIR``."""

import collections
import sys

from lsr_jax import commands
from lsr_jax.convert import anchors, exporting, folder, importing, layouts

MODELS = {
    f"{architecture}_{name}": (architecture, name)
    for architecture, backbones in {
        "deeplabv2": ("resnet101", "resnet50", "vgg16", "vgg13"),
        "deeplabv3plus": ("resnet101", "resnet50"),
    }.items()
    for name in backbones
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""

    def command() -> int:
        options = _parser().parse_args(arguments)
        options.run(options)
        return 0

    return commands.guarded(command)


def _parser():
    parser = commands.Parser(
        prog="python -m lsr_jax.convert",
        description="PyTorch weight files to lsr_jax weight folders and back.",
    )
    kinds = parser.add_subparsers(required=True)
    reader = kinds.add_parser("from-torch", help="FILE to a weight folder")
    reader.add_argument("file", help=".pth (needs PyTorch) or .safetensors")
    reader.add_argument("--model", required=True, choices=sorted(MODELS))
    reader.add_argument("--out", required=True, help="folder to create")
    reader.add_argument("--num-classes", type=int, default=19)
    reader.add_argument("--layout", choices=sorted(layouts.LAYOUTS))
    reader.add_argument("--skip-head", action="store_true", help="leave the heads out")
    reader.add_argument(
        "--all-branches", action="store_true", help="keep the ASPP branches 18 and 24"
    )
    reader.add_argument("--verbose", action="store_true", help="print every name")
    reader.set_defaults(run=_from_torch)
    writer = kinds.add_parser("to-torch", help="a weight folder to FILE")
    writer.add_argument("folder", help="as written by from-torch")
    writer.add_argument("--layout", required=True, choices=sorted(layouts.LAYOUTS))
    writer.add_argument("--out", required=True, help=".pth or .safetensors to create")
    writer.set_defaults(run=_to_torch)
    taker = kinds.add_parser("anchors", help="CAG's anchors for method.anchors")
    taker.add_argument("file", help="as CAG saved them; needs PyTorch")
    taker.add_argument("--out", required=True, help=".npz to create")
    taker.set_defaults(run=_anchors)
    return parser


def _from_torch(options):
    architecture, backbone = MODELS[options.model]
    imported = importing.load(
        options.file,
        layout=options.layout,
        architecture=architecture,
        backbone=backbone,
        num_classes=options.num_classes,
        skip_head=options.skip_head,
    )
    if not options.all_branches:
        imported = importing.running_branches(imported)
    folder.save(options.out, imported)
    _report(imported.info, options)


def _to_torch(options):
    imported = importing.load(options.folder)
    exporting.export(imported, options.out, layout=options.layout)
    print(f"{options.folder}: written to {options.out} in the layout {options.layout}")


def _anchors(options):
    vectors, count = anchors.convert(options.file, options.out)
    found = f"{(count > 0).sum()} of {len(count)} classes, {vectors.shape[1]} channels"
    print(f"{options.file}: anchors of {found}; written to {options.out}")


def _report(info, options):
    print(f"{info['file']}: layout {info['layout']}, sha256 {info['sha256']}")
    print(f"loaded and renamed: {len(info['loaded'])} arrays")
    for name, path in info["loaded"].items():
        if options.verbose:
            print(f"  {name} -> {path}")
    reasons = collections.Counter(info["ignored"].values())
    for reason, count in reasons.items():
        print(f"ignored: {count} arrays, {reason}")
        for name, why in info["ignored"].items():
            if why == reason and (options.verbose or count <= 8):
                print(f"  {name}")
    if info["fresh"]:
        print(
            f"not in such a file, initialised by the run: {len(info['fresh'])} arrays"
        )
    print(f"expects {info['preprocessing']} input; written to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
