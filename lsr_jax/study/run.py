"""Run or resume a study: methods times seeds, then one comparison.

python -m lsr_jax.study --config configs/streets.py --methods source_only,batchnorm_only,lsr
python -m lsr_jax.study --config configs/streets.py --ablate lsr --seeds 0,1,2
python -m lsr_jax.study --config configs/streets.py:tiny --methods source_only,lsr

Every cell is an ordinary run below the workdir; one pre-training a seed serves all methods
with the same network. The same command skips what is finished and goes on with what was
interrupted. Exit codes: 0 done, 1 a cell failed (the others went on), 2 bad input,
3 stopped before the end by a signal.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lsr_jax import cli
from lsr_jax.errors import InputError, TrainingError, one_line
from lsr_jax.training import ranges
from lsr_jax.training.stop import Stop


def define(flags: cli.Flags) -> None:
    """Define the flags."""
    flags.config(required=True)
    flags.path("workdir", "Folder of the study; default: studies/NAME.")
    flags.list("methods", [], "Keys of METHODS.")
    flags.list("seeds", ["0", "1", "2"], "Seeds of each method.")
    flags.string("ablate", None, "A method to run without each of its terms.")


def study(options) -> int:
    """Run all cells and write the comparison; returns the exit code.

    Raises:
      InputError: an unusable config, method, seed or workdir.
      Stopped: by a signal; the cell that was training is saved.
    """
    with Stop() as stop:
        return carry_out(options, stop)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(define, study, argv)


def carry_out(options, stop: Stop) -> int:
    """The body of `study`."""
    overrides = options.overrides
    if any(word.startswith("--config.seed=") for word in overrides):
        raise InputError("--config.seed: name seeds by --seeds=0,1,2")
    # Imported here: bad flags are answered without waiting for JAX.
    from lsr_jax.study import outcome, plan
    from lsr_jax.training import sharding, workdir

    seeds = numbers(options.seeds)
    named = list(filter(None, dict.fromkeys([*options.methods, options.ablate])))
    check_methods(named)
    load = loader(options.config, overrides, named)
    folder = options.workdir or Path("studies", cli.run_name(options.config))
    sharding.share_cpu(load(named[0], seeds[0])["cpu_devices"])
    lines = comparison_lines(named, options.ablate, load, seeds[0])
    cells = plan.cells(load, lines, seeds, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise workdir.unwritable(folder, error) from error

    errors = {}
    for run in plan.runs(cells):
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


def check_methods(named: Sequence[str]) -> None:
    """Raise InputError where no method is named, or an unknown one."""
    from lsr_jax.methods import METHODS

    if not named:
        raise InputError("--methods: expected at least one, or --ablate METHOD")
    for name in named:
        if name not in METHODS:
            raise InputError(
                f"--methods: expected some of {', '.join(METHODS)}, found {name!r}"
            )


def comparison_lines(
    named: Sequence[str], ablate: str | None, load: Callable, seed: int
) -> list:
    """The lines of the study: methods, then a method without each of its terms.

    Raises:
      InputError: a method to ablate without terms to remove.
    """
    from lsr_jax.study import terms
    from lsr_jax.study.plan import Line

    lines = [Line(name, name) for name in named]
    if ablate:
        config = load(ablate, seed)
        stages = [s for s in config["stages"] if config[s]["method"]["name"] == ablate]
        weights = terms.weights(config, stages[-1])
        if not weights:
            raise InputError(f"--ablate: {ablate} has no term that can be removed")
        lines += [Line(f"{ablate} without {name}", ablate, name) for name in weights]
    return lines


def loader(
    name: str, overrides: Sequence[str], methods: Sequence[str]
) -> Callable[[str, int], dict]:
    """``(method, seed) -> resolved config``.

    An override of a stage that the run of another method has is left out of the runs
    that have no such stage.

    Raises:
      InputError: no such file; when called: a key that no run has.
    """
    file, _, argument = name.partition(":")

    def full(method):
        return f"{file}:{','.join(filter(None, [method, argument]))}"

    own = {method: cli.read_config(full(method)) for method in methods}
    known = set().union(*own.values())

    def load(method: str, seed: int) -> dict:
        kept = [
            word
            for word in overrides
            if section(word) in own[method] or section(word) not in known
        ]
        return cli.read_config(full(method), [*kept, f"--config.seed={seed}"])

    return load


def section(override: str) -> str:
    """``adapt`` of ``--config.adapt.steps=10``."""
    return override.removeprefix("--config.").partition("=")[0].partition(".")[0]


def attempt(run, errors: Mapping[Path, str], stop: Stop) -> str | None:
    """Train and evaluate a run unless that is done; returns what went wrong, if so.

    The traceback of what is no error of a user goes to stderr, as that of ``train.py``.
    """
    import jax

    from lsr_jax.report import report
    from lsr_jax.study import outcome
    from lsr_jax.training import loop, workdir

    if run.needs and run.needs.folder in errors:
        return f"its pre-training failed: {run.needs.folder}"
    try:
        workdir.check(run.folder, run.config)
        if outcome.finished(run):
            print(f"{run.folder}: finished")
            return None
        print(f"{run.folder}:")
        loop.train(run.config, run.folder, stop, finish=report.write)
    except (InputError, TrainingError) as error:
        return one_line(error)
    except Exception as error:  # a study of hours does not end at one cell
        traceback.print_exc()
        text = one_line(error)[:300]
        return f"{type(error).__name__}: {text}"
    finally:
        jax.clear_caches()  # the next run compiles its own functions
    return None


def numbers(words: Sequence[str]) -> list[int]:
    """Seeds.

    Raises:
      InputError: not whole numbers, none, or one that no run has.
    """
    try:
        found = [int(word) for word in dict.fromkeys(words)]
    except ValueError:
        found = []
    if not found:
        raise InputError(f"--seeds: expected numbers such as 0,1,2, found {words}")
    for seed in found:
        ranges.CONFIG["seed"].check("--seeds", seed)
    return found
