"""Evaluate networks: tables of every class under both protocols, pictures, report/.

python evaluate.py --workdir runs/streets
python evaluate.py --workdir runs/streets --stages source,lsr --split test
python evaluate.py --workdir runs/streets --stages source,lsr --figures
python evaluate.py --workdir runs/gta2cs --flip --scales 0.75,1,1.25
python evaluate.py --checkpoint runs/gta2cs/adapt/checkpoints/20000
python evaluate.py --checkpoint lsr.pth --config configs/gta2cs.py --out reports/lsr
python evaluate.py --workdir runs/gta2cs --distributed                on every host
python evaluate.py --ensemble runs/a:clan=0.7,runs/b:max_square=0.3 --flip

Protocols: "native" enlarges predictions to the labels as stored (AdaptSegNet, CLAN),
"resized" shrinks labels to the network input (MaxSquare, OCE, LSR); both are printed.

Exit codes: 0 done, 2 bad input.
"""

import sys
from collections.abc import Sequence

from lsr_jax import cli


def define(flags: cli.Flags) -> None:
    """Define the flags."""
    flags.path("workdir", "Folder of the run.")
    flags.string(
        "checkpoint",
        None,
        "Instead of stages: WORKDIR:STAGE, a folder of checkpoints or one of them, or a "
        "weight file (.pth, .safetensors, lsr_jax.convert).",
    )
    flags.config()
    flags.list("ensemble", [], "Instead of stages: NAME=WEIGHT,NAME=WEIGHT.")
    flags.list("stages", [], "Stages to evaluate; default: all.")
    flags.integer("step", None, "A saved step; default: the newest.")
    flags.string("split", None, "Split of the target; default: the config's.")
    flags.enum("protocol", "both", ("both", "native", "resized"), "See above.")
    flags.boolean("flip", False, "Average with the mirrored image.")
    flags.list("scales", ["1"], "Average over sizes of the input: 0.75,1,1.25.")
    flags.enum(
        "average",
        None,
        ("logits", "probabilities", "pixel_probabilities"),
        "What is averaged over views and networks: see lsr_jax/evaluation/predictor.py. "
        "Default: probabilities of several views, logits of one.",
    )
    flags.string(
        "oracle",
        None,
        "Ratios (mASR) to: a workdir with target_only, a JSON file of rows, or published "
        "(LSR, Table 1); default: target_only among the rows.",
    )
    flags.boolean("figures", False, "Draw the feature-space figures; takes minutes.")
    flags.path("out", "Folder to write; default: report in the run.")
    flags.distributed()


def evaluate(options) -> None:
    """Restore networks and report."""
    # Imported here: bad flags are answered without waiting for JAX.
    from lsr_jax.report import request

    if options.config:
        options.config = cli.read_config(options.config, options.overrides)
    options.processes = cli.processes(options)
    request.evaluate(options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(define, evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
