"""Run or resume a study: methods times seeds, then one comparison.

python -m lsr_jax.study --config configs/streets.py --methods source_only,batchnorm_only,lsr
python -m lsr_jax.study --config configs/streets.py --ablate lsr --seeds 0,1,2
python -m lsr_jax.study --config configs/streets.py:tiny --methods source_only,lsr+masked

Every cell is an ordinary run below the workdir; one pre-training a seed serves all methods
with the same network. The same command skips what is finished and goes on with what was
interrupted. Exit codes: 0 done, 1 a cell failed (the others went on), 2 bad input,
3 stopped before the end by a signal.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from lsr_jax import cli, keywords, report
from lsr_jax.errors import InputError, TrainingError, one_line
from lsr_jax.methods import METHODS
from lsr_jax.study import outcome, plan
from lsr_jax.study.plan import Line, Run
from lsr_jax.training import compile, loop, workdir
from lsr_jax.training.stop import Stop

# Weights of terms that a method does not add itself.
GIVEN = ("segmentation", "auxiliary", "discriminator")


def define(flags: cli.Flags) -> None:
    """Define the flags."""
    flags.config(required=True)
    flags.path("workdir", "Folder of the study; default: studies/NAME.")
    flags.list("methods", [], "Keys of METHODS or other words, as lsr+paper.")
    flags.list("seeds", ["0", "1", "2"], "Seeds of each method.")
    flags.string("ablate", None, "One of those, to run without each of its terms.")


def study(options) -> int:
    """Run all cells and write the comparison; returns the exit code.

    Raises:
      InputError: an unusable config, method, seed or workdir.
      Stopped: by a signal; the cell that was training is saved.
    """
    if any(word.startswith("--config.seed=") for word in options.overrides):
        raise InputError("--config.seed: name seeds by --seeds=0,1,2")
    seeds = parse_seeds(options.seeds)
    methods = list(filter(None, dict.fromkeys([*options.methods, options.ablate])))
    if not methods:
        raise InputError("--methods: name at least one, or --ablate METHOD")
    load = loader(options.config, options.overrides, methods)
    folder = options.workdir or Path("studies", cli.run_name(options.config))
    compile.configure(load(methods[0], seeds[0])["cpu_devices"])
    lines = [Line(words, words) for words in methods]
    if options.ablate:
        lines += ablation(options.ablate, load(options.ablate, seeds[0]))
    cells = plan.plan_cells(load, lines, seeds, folder)
    for cell in cells:
        check_cell(cell)
    with workdir.creating(folder):
        folder.mkdir(parents=True, exist_ok=True)
    errors = {}
    with Stop() as stop:
        for run in plan.plan_runs(cells):
            error = attempt(run, errors, stop)
            if error:
                errors[run.folder] = error
                print(f"error: {run.folder}: {error}; going on", file=sys.stderr)
    results = [outcome.Result(cell, errors.get(cell.run.folder)) for cell in cells]
    print(outcome.write(results, folder, ablated=options.ablate))
    print(f"\nwrote {folder / 'index.html'} and study.json, .md, .tex, .csv")
    for path, error in errors.items():
        print(f"error: {path}: {error}", file=sys.stderr)
    return 1 if errors else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(define, study, argv)


def check_cell(cell: plan.Cell) -> None:
    """Raise InputError unless the stages after the pre-training have one method."""
    config = cell.run.config
    names = [config[stage]["method"]["name"] for stage in config["stages"]]
    if len(found := dict.fromkeys(names)) > 1:
        raise InputError(
            f"--methods: {cell.line.words!r}: expected one method, found "
            f"{', '.join(found)}; name one"
        )


def ablation(words: str, config: Mapping) -> list[Line]:
    """The lines of a method without each of its terms.

    Raises:
      InputError: it has no term that can be removed.
    """
    weights = term_weights(config[config["stages"][-1]]["method"])
    if not weights:
        raise InputError(f"--ablate: {words} has no term that can be removed")
    return [Line(f"{words} without {name}", words, name) for name in weights]


def term_weights(method: Mapping) -> list[str]:
    """The keywords of a method's section that weigh a term of its own and are not 0."""
    kinds = keywords.annotations(METHODS[method["name"]].make)
    weights = (keywords.Weight, keywords.MaximisedWeight)
    own = [name for name in sorted(kinds) if name not in GIVEN and method[name]]
    return [name for name in own if kinds[name] in weights]


def loader(
    name: str, overrides: Sequence[str], methods: Sequence[str]
) -> Callable[[str, int], dict]:
    """Build ``(words, seed) -> resolved config``.

    Overrides of a stage are left out of the methods that have no such stage.

    Raises:
      InputError: no such file or word; when called: a key that no method has.
    """
    file, _, argument = name.partition(":")
    names = {
        words: f"{file}:{','.join([*words.split('+'), *filter(None, [argument])])}"
        for words in methods
    }
    sections = {words: set(cli.read_config(name)) for words, name in names.items()}
    every = set().union(*sections.values())

    def load(words: str, seed: int) -> dict:
        kept = [
            override
            for override in overrides
            if re.split("[.=]", override.removeprefix("--config."))[0]
            not in every - sections[words]
        ]
        return cli.read_config(names[words], [*kept, f"--config.seed={seed}"])

    return load


def attempt(run: Run, errors: Mapping[Path, str], stop: Stop) -> str | None:
    """Train and evaluate a run unless that is done; returns the error, if any.

    The traceback of an error in the code goes to stderr, as that of ``train.py``.
    """
    if run.needs and run.needs.folder in errors:
        return f"its pre-training failed: {run.needs.folder}"
    try:
        workdir.check(run.folder, run.config)
        if outcome.finished(run):
            print(f"{run.folder}: finished")
        else:
            print(f"{run.folder}:")
            steps = {"check": report.check, "finish": report.write}
            loop.train(run.config, run.folder, stop, **steps)
    except (InputError, TrainingError) as error:
        return one_line(error)
    except Exception as error:  # one cell must not end a study of hours
        traceback.print_exc()
        return f"{type(error).__name__}: {one_line(error)[:300]}"
    finally:
        jax.clear_caches()  # the next run compiles its own functions
    return None


def parse_seeds(words: Sequence[str]) -> list[int]:
    """The seeds, once each; raises InputError unless all are numbers in range."""
    try:
        found = [int(word) for word in dict.fromkeys(words)]
    except ValueError:
        found = []
    if not found:
        raise InputError(f"--seeds: expected numbers such as 0,1,2, found {words}")
    for seed in found:
        keywords.check_value("--seeds", seed, keywords.Seed)
    return found


if __name__ == "__main__":
    sys.exit(main())
