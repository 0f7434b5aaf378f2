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

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lsr_jax import cli, files, report
from lsr_jax.data import sources
from lsr_jax.errors import InputError
from lsr_jax.evaluation import predictor
from lsr_jax.evaluation.predictor import PROTOCOLS
from lsr_jax.report import results
from lsr_jax.report.measure import Entry, Evaluation
from lsr_jax.training import compile, distributed, weights
from lsr_jax.training.stage import open_run
from lsr_jax.training.weights import Source
from lsr_jax.training.workdir import check_inputs, read_config

# Flag -> flags that cannot be combined with it, and what to do instead.
EXCLUDED = {
    "ensemble": {
        "checkpoint": "name it in --ensemble",
        "stages": "name WORKDIR:STAGE in --ensemble",
        "step": "name folders of checkpoints in --ensemble",
    },
    "checkpoint": {"stages": "name WORKDIR:STAGE in --checkpoint"},
    "figures": {
        **dict.fromkeys(
            ("checkpoint", "ensemble", "step"),
            "figures are drawn of the reported stages of a run",
        ),
        "distributed": "one process draws; evaluate again without --distributed",
    },
}


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
    flags.augmentation()
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


def evaluate(options) -> list[results.Row]:
    """Evaluate, print and write; returns the rows.

    Args:
      options: the values of the flags, see `define`; ``config`` is resolved, or None, and
        ``processes`` the keywords of `distributed.initialize`, or None for one process.

    Raises:
      InputError: flags that contradict each other, or unusable files.
    """
    check(options)
    augmentation = predictor.parse_augmentation(
        options.flip, options.scales, options.average, options.window
    )
    named = named_networks(options)
    found = [weights.resolve(name, step=options.step) for name, _ in named]
    config = data_config(options, found)
    compile.configure(config["cpu_devices"])
    if options.processes:
        distributed.initialize(**options.processes)
    data = config["data"]
    split = options.split or data["target"]["val"]
    target = {**data["target"], "val": split}
    config = {**config, "data": {**data, "target": target}}
    folder = output(options, found, augmentation.describe(), config["stages"])
    files.check_writable(folder)

    domains = ["source", "target"]
    if not sources.is_present(data["source"]):
        domains.remove("source")
    workdir = Path(options.workdir or folder)
    run = open_run(config, workdir, domains, training=False)
    for source in found or [run.source(config["stages"][-1])]:
        weights.check_classes(source, run.domains["target"].space.classes)
    if options.workdir and not options.config:
        meaning = sources.identities(run.domains, keys=sources.MEANING)
        check_inputs(run.workdir, {"data": meaning, "weights": {}})
    loaded = tuple(
        weights.load(source, mesh=run.mesh, config=config, split=split)
        for source in found
    )
    entries = [Entry(network.stage, (network,)) for network in loaded]
    if options.ensemble:
        entries = [Entry("ensemble", loaded, tuple(weight for _, weight in named))]
    protocols = PROTOCOLS if options.protocol == "both" else (options.protocol,)
    return report.write(
        run,
        options.stages,
        per_class=True,
        folder=folder.absolute(),
        evaluation=Evaluation(run, protocols=protocols, augmentation=augmentation),
        entries=entries,
        oracle=options.oracle,
        latent_figures=options.figures,
    )


def check(options) -> None:
    """Raise InputError for flags that contradict each other."""
    if not (options.workdir or options.checkpoint or options.ensemble):
        raise InputError("--workdir, --checkpoint or --ensemble is needed; see --help")
    given = {name for name in (*EXCLUDED, "stages") if getattr(options, name)}
    given |= {"step"} if options.step is not None else set()
    given |= {"distributed"} if options.processes else set()
    for flag in given & set(EXCLUDED):
        for other in given & set(EXCLUDED[flag]):
            remedy = EXCLUDED[flag][other]
            raise InputError(f"--{other}: cannot be combined with --{flag}; {remedy}")


def named_networks(options) -> list[tuple[str, float]]:
    """Names of the networks and their weights; empty if stages are evaluated.

    Raises:
      InputError: an ensemble that is not written NAME=WEIGHT,NAME=WEIGHT.
    """
    if options.checkpoint:
        return [(options.checkpoint, 1.0)]
    if not options.ensemble and options.step is not None:
        stages = options.stages or read_config(Path(options.workdir))["stages"]
        return [(f"{options.workdir}:{stage}", 1.0) for stage in stages]
    found = []
    for part in options.ensemble:
        name, _, weight = part.rpartition("=")
        try:
            weight = float(weight)
        except ValueError:
            weight = 0.0
        if not name or not 0 < weight < float("inf"):
            raise InputError(
                "--ensemble: expected NAME=WEIGHT,NAME=WEIGHT with positive weights, as "
                f"runs/a:lsr=0.7,runs/b=0.3, found {part!r}"
            )
        found.append((name, weight))
    return found


def data_config(options, found: Sequence[Source]) -> Mapping:
    """The config of the data: --config, else --workdir's, else that of the first run.

    Raises:
      InputError: there is none.
    """
    if options.config:
        return options.config
    if options.workdir:
        return read_config(Path(options.workdir))
    for source in found:
        if source.config:
            return source.config
    raise InputError(
        f"{found[0].path}: is outside of a run; name the data by --config or --workdir"
    )


def output(
    options, found: Sequence[Source], augmentation: str, stages: Sequence[str]
) -> Path:
    """The folder to write: --out, or ``report`` in the run with a suffix for each choice.

    ``stages`` are those of the config; to name them all is no choice.

    Raises:
      InputError: weights outside of a run, and no --out.
    """
    if options.out:
        return Path(options.out)
    words = [options.split, "ensemble" if options.ensemble else None]
    if options.checkpoint and found[0].config:
        words.append(found[0].stage)
    if set(options.stages) != set(stages):
        words += options.stages
    if any(source.step is not None for source in found):
        words.append(f"step{found[0].step}")
    words.append(options.protocol if options.protocol != "both" else None)
    if augmentation != "one view":
        words.append(augmentation.replace(",", "").replace(" ", "-"))
    runs = [source.path.parents[1] for source in found if source.config]
    if not options.workdir and not runs:
        raise InputError(
            f"{found[0].path}: is outside of a run; name the folder to write by --out"
        )
    return Path(options.workdir or runs[0]) / "-".join(["report", *filter(None, words)])


def command(options) -> None:
    """Evaluate what the flags say."""
    if options.config:
        options.config = cli.read_config(options.config, options.overrides)
    options.processes = cli.processes(options)
    evaluate(options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(define, command, argv)


if __name__ == "__main__":
    sys.exit(main())
