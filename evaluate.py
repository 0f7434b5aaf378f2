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

from absl import flags

from lsr_jax import command_line


def define() -> None:
    """Define the flags; `request.Request` has a field for each of these."""
    command_line.define_path("workdir", "Folder of the run.")
    command_line.define_path(
        "checkpoint",
        "Instead of stages: WORKDIR:STAGE, a folder of checkpoints or one of them, or a "
        "weight file (.pth, .safetensors, lsr_jax.convert).",
    )
    flags.DEFINE_list("ensemble", [], "Instead of stages: NAME=WEIGHT,NAME=WEIGHT.")
    flags.DEFINE_list("stages", [], "Stages to evaluate; default: all.")
    flags.DEFINE_integer("step", None, "A kept step; default: the newest.")
    flags.DEFINE_string("split", None, "Split of the target; default: the config's.")
    flags.DEFINE_enum("protocol", "both", ("both", "native", "resized"), "See above.")
    flags.DEFINE_boolean("flip", False, "Average with the mirrored image.")
    flags.DEFINE_list("scales", ["1"], "Average over sizes of the input: 0.75,1,1.25.")
    flags.DEFINE_enum(
        "average",
        None,
        ("logits", "probabilities", "pixel_probabilities"),
        "What is averaged over views and runs: see lsr_jax/evaluation/predictor.py. "
        "Default: probabilities of several views, logits of one.",
    )
    flags.DEFINE_string(
        "oracle",
        None,
        "Ratios (mASR) to: a workdir with target_only, a JSON file of rows, or published "
        "(LSR, Table 1); default: target_only among the rows.",
    )
    flags.DEFINE_boolean(
        "figures", False, "Draw the figures of the feature space too; takes minutes."
    )
    command_line.define_path("out", "Folder to write; default: report in the run.")


def main() -> None:
    """Restore networks and report."""
    # Imported here: bad flags are answered without waiting for JAX.
    from lsr_jax.report import request

    read = {"config": read_config(), "processes": read_processes()}
    names = [name for name in request.Request._fields if name not in read]
    given = {name: flags.FLAGS[name].value for name in names}
    request.evaluate(request.Request(**given, **read))


if __name__ == "__main__":
    define()
    read_config = command_line.define_data_config()
    read_processes = command_line.define_processes()
    command_line.run(main)
