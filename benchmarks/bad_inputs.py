"""Run commands with mistakes in them and list their one-line error messages.

    python -m benchmarks.bad_inputs                            # about a minute
    python -m benchmarks.bad_inputs --write docs/reliability.md

Every row is a real run of a script, in a fork of one process that has done the imports. The
exit code is 1 if a script does not exit with code 2 and a single line.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import fcntl
import json
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from benchmarks import pages
from lsr_jax import cli
from lsr_jax.training import checkpoint, workdir

ROOT = Path(__file__).parents[1]
PART = "bad inputs"
TINY = "--config=configs/streets.py:lsr,tiny"
CAMVID = "--config=configs/streets2camvid.py:lsr,tiny"


class Case(NamedTuple):
    """A mistake, the script, its arguments; ``{}`` is replaced by a temporary folder."""

    mistake: str
    script: str
    arguments: tuple[str, ...]


def train(mistake: str, *arguments: str, config: str = TINY) -> Case:
    """A mistake in a ``train.py`` command."""
    default = () if any("workdir" in a for a in arguments) else ("--workdir={}/new",)
    return Case(mistake, "train.py", (config, *default, *arguments))


CASES = (
    Case("no config file", "train.py", ()),
    Case("unknown config file", "train.py", ("--config=configs/nope.py",)),
    train("unknown method", config="--config=configs/streets.py:lrs"),
    train("unknown key", "--config.sead=1"),
    train("unknown key of a stage", "--config.adapt.log_evry=1"),
    train("a word for a number", "--config.adapt.steps=many"),
    train("a fraction for an integer", "--config.adapt.batch_size=1.5"),
    train("a flag without dashes", "surplus"),
    train("--max_steps of 0", "--max_steps=0"),
    train("0 steps", "--config.adapt.steps=0"),
    train("a checkpoint every 0 steps", "--config.adapt.checkpoint_every=0"),
    train("0 micro-batches", "--config.adapt.micro_batches=0"),
    train(
        "micro-batches with BatchNorm over the whole batch",
        "--config.adapt.micro_batches=2",
    ),
    train("0 devices", "--config.cpu_devices=0"),
    train("0 images in the panel", "--config.evaluation.panel_images=0"),
    train("a seed beyond 32 bits", "--config.seed=99999999999999999999"),
    train("no stages", "--config.stages=()"),
    train("a weight below 0", "--config.adapt.method.clustering=-1.0"),
    train("a weight of NaN", "--config.adapt.method.entropy=nan"),
    train(
        "all loss weights are 0",
        "--config.adapt.method.segmentation=0",
        "--config.adapt.method.entropy=0",
        config="--config=configs/streets.py:max_square,tiny",
    ),
    train(
        "class frequencies of another data set",
        "--config.adapt.method.class_frequency=synthia",
    ),
    train("a crop with one number", "--config.adapt.augment.source.crop=(8,)"),
    train("missing recorded rows", "--config.recorded=('nope.json',)"),
    train(
        "missing anchors file",
        "--config.stage_1.method.anchors=nope.npz",
        config="--config=configs/streets.py:cag,tiny",
    ),
    train("unknown distance", "--config.adapt.method.clustering_distance=l2"),
    train(
        "source and target images of different sizes in DACS",
        "--config.adapt.augment.target.crop=(32,64)",
        config="--config=configs/streets.py:dacs,tiny",
    ),
    train("a learning rate of 0", "--config.adapt.optimizer.learning_rate=0.0"),
    train("unknown optimizer", "--config.adapt.optimizer.name=adm"),
    train("unknown backbone", "--config.model.backbone=resnet18"),
    train("unknown dtype", "--config.model.dtype=float16"),
    train("unknown head", "--config.model.head=double"),
    train("unknown initialization", "--config.model.initialisation=random"),
    train("unknown preprocessing", "--config.data.preprocessing=bgr"),
    train(
        "a stage without a section in the config", "--config.stages=('source','adap')"
    ),
    train(
        "a method that needs two heads, with one head",
        "--config.model.head=single",
        config="--config=configs/streets.py:clan,tiny",
    ),
    train("another number of classes than the data", "--config.model.num_classes=16"),
    train("a crop larger than the image", "--config.adapt.augment.source.crop=(96,96)"),
    train(
        "a random scale without a crop", "--config.adapt.augment.source.scale=(0.5,1.5)"
    ),
    train(
        "a batch size that is no multiple of the devices",
        "--config.cpu_devices=2",
        "--config.adapt.batch_size=3",
    ),
    train("more devices than available", "--config.num_devices=9"),
    train(
        "a BatchNorm group size that does not divide the batch size",
        "--config.model.bn_group_size=3",
    ),
    train("unknown data set", "--config.data.source.name=gta6"),
    train("unknown preset", "--config.data.source.preset=huge"),
    train("unknown split", "--config.data.target.val=nope"),
    train("missing data", config="--config=configs/gta2cs.py"),
    train(
        "another release of CamVid",
        "--config.data.target.root={}/stills",
        config=CAMVID,
    ),
    train(
        "a split of CamVid that is missing",
        "--config.data.target.root={}/camvid",
        "--config.data.target.val=test",
        config=CAMVID,
    ),
    train("unknown selection", "--config.evaluation.selection=best"),
    train(
        "selection on the reported split",
        "--config.evaluation.selection=target_heldout",
        "--config.evaluation.heldout=val",
    ),
    train("unknown on_nonfinite", "--config.adapt.on_nonfinite=ignore"),
    train("init_from with an unknown name", "--config.adapt.init_from=lsr_nope"),
    train(
        "init_from with an error page saved as .pth",
        "--config.source.init_from={}/page.pth",
    ),
    train(
        "init_from with a damaged checkpoint",
        "--config.source.init_from={}/foreign/checkpoints/5",
    ),
    train("a workdir with another config", "--workdir={}/other"),
    train("a workdir of lsr_jax 0.1", "--workdir={}/old"),
    train("a workdir with a damaged config", "--workdir={}/damaged"),
    train("a workdir in which another process trains", "--workdir={}/busy"),
    train("a workdir that is a file", "--workdir={}/file"),
    train("a workdir below a file", "--workdir={}/file/run"),
    Case("evaluation without a workdir", "evaluate.py", ()),
    Case("evaluation of a folder without a run", "evaluate.py", ("--workdir={}/new",)),
    Case(
        "evaluation with an unknown protocol",
        "evaluate.py",
        ("--workdir={}/other", "--protocol=both_of_them"),
    ),
    Case("evaluation of a damaged run", "evaluate.py", ("--workdir={}/damaged",)),
)


class Outcome(NamedTuple):
    """Exit code and output of a script."""

    case: Case
    code: int
    text: str

    @property
    def lines(self) -> list[str]:
        """The error messages."""
        return [x for x in self.text.splitlines() if x.startswith("error: ")]

    @property
    def good(self) -> bool:
        """Whether the output is one error message and the exit code is 2."""
        lines = self.text.strip().splitlines()
        return self.code == 2 and len(self.lines) == 1 and lines == self.lines


@contextlib.contextmanager
def fixtures(folder: Path) -> Iterator[None]:
    """Create the files and folders that the cases name, and lock the workdir "busy"."""
    (folder / "file").write_text("")
    (folder / "page.pth").write_text("404")
    other = cli.read_config(TINY.removeprefix("--config="), ["--config.seed=7"])
    other[workdir.FORMAT_KEY] = checkpoint.FORMAT
    configs = {"other": json.dumps(other), "old": '{"seed": 0}', "damaged": "{"}
    for name, config in configs.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(config)
    photograph = Image.new("RGB", (128, 64))
    for split in ("stills/701_StillsRaw_full", "camvid/train", "camvid/val"):
        (folder / split).mkdir(parents=True)
        photograph.save(folder / split / "1.png")
        (folder / f"{split}annot").mkdir()
        photograph.convert("L").save(folder / f"{split}annot" / "1.png")
    (folder / "busy").mkdir()
    (folder / "foreign" / "checkpoints" / "5" / "state").mkdir(parents=True)
    with (folder / "busy" / ".lock").open("w") as lock:
        lock.write("process 1234 on somewhere")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_case(case: Case, folder: Path) -> Outcome:
    """Run a case in a fork."""
    output = folder / "output"
    child = os.fork()
    if not child:
        code = 70
        try:
            with output.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            arguments = [a.replace("{}", str(folder)) for a in case.arguments]
            os.chdir(ROOT)
            sys.path.insert(0, str(ROOT))
            sys.argv = [str(ROOT / case.script), *arguments]
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    text = output.read_text()
    for path, name in (
        (os.environ["LSR_JAX_DATA"], "DATA"),
        (str(folder), "DIR"),
        (str(ROOT), "."),
    ):
        text = text.replace(path, name)
    return Outcome(case, os.waitstatus_to_exitcode(status), text)


def run_cases(folder: Path, cases: Iterable[Case] = CASES) -> list[Outcome]:
    """Run cases one after another in ``folder``."""
    # Imported for the forks, so that each starts at once. JAX starts in the forks only: a
    # process with threads cannot be forked safely.
    import lsr_jax.report
    import lsr_jax.training.loop  # noqa: F401

    os.environ.setdefault("LSR_JAX_DATA", str(folder / "data"))
    prepare = ("--prepare", "--preset=tiny", "--workers=1")
    run_case(Case("", "lsr_jax/streets/__main__.py", prepare), folder)
    with fixtures(folder):
        return [run_case(case, folder) for case in cases]


def run_in_new_process(folder: Path, cases: Iterable[Case] = CASES) -> list[Outcome]:
    """`run_cases` for callers that already have threads or use JAX."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(run_cases, folder, tuple(cases)).result()


def table(outcomes: Iterable[Outcome]) -> str:
    """Mistakes and messages as a Markdown table."""
    lines = ["| mistake | message |", "|---|---|"]
    for outcome in outcomes:
        text = " ".join(outcome.lines).removeprefix("error: ").replace("|", "\\|")
        lines.append(f"| {outcome.case.mistake} | {text} |")
    return "\n".join(lines)


def main() -> int:
    """Run, print, write; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bad_inputs")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run_cases(Path(folder))
    print(table(outcomes))
    bad = [outcome for outcome in outcomes if not outcome.good]
    for outcome in bad:
        print(f"\n{outcome.case.mistake}: exit code {outcome.code}\n{outcome.text}")
    if options.write and not bad:
        pages.replace(options.write, PART, table(outcomes))
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
