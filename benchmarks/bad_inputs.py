"""What a user can get wrong, and the one line that each mistake is answered with.

    python -m benchmarks.bad_inputs                            # about a minute
    python -m benchmarks.bad_inputs --write docs/reliability.md

Every row is a real run of a script, forked from one process that has its imports done.
The exit code is 1 where a script does not end with code 2 and one line.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import fcntl
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from lsr_jax.report import html

ROOT = Path(__file__).parents[1]
PART = "bad inputs"
TINY = "--config=configs/streets.py:lsr,tiny"


class Case(NamedTuple):
    """A mistake: what it is, the script, its arguments; ``{}`` stands for a folder."""

    mistake: str
    script: str
    arguments: tuple[str, ...]


def train(mistake: str, *arguments: str, config: str = TINY) -> Case:
    """A mistake in a command of training."""
    workdir = () if any("workdir" in a for a in arguments) else ("--workdir={}/new",)
    return Case(mistake, "train.py", (config, *workdir, *arguments))


CASES = (
    Case("no config", "train.py", ()),
    Case("no such config", "train.py", ("--config=configs/nope.py",)),
    train("no such method", config="--config=configs/streets.py:lrs"),
    train("unknown key", "--config.sead=1"),
    train("unknown key of a stage", "--config.adapt.log_evry=1"),
    train("a word for a number", "--config.adapt.steps=many"),
    train("a fraction for a whole number", "--config.adapt.batch_size=1.5"),
    train("a flag without dashes", "surplus"),
    train("a limit of 0", "--max_steps=0"),
    train("0 steps", "--config.adapt.steps=0"),
    train("a checkpoint every 0 steps", "--config.adapt.checkpoint_every=0"),
    train("no part of a batch", "--config.adapt.micro_batches=0"),
    train("parts of a batch under one BatchNorm", "--config.adapt.micro_batches=2"),
    train("no device", "--config.cpu_devices=0"),
    train("no image for a picture", "--config.evaluation.panel_images=0"),
    train("a seed beyond 32 bits", "--config.seed=99999999999999999999"),
    train("no stage", "--config.stages=()"),
    train("a weight below 0", "--config.adapt.method.clustering=-1.0"),
    train("a weight that is no number", "--config.adapt.method.entropy=nan"),
    train(
        "no weight that is not 0",
        "--config.adapt.method.segmentation=0",
        "--config.adapt.method.entropy=0",
        config="--config=configs/streets.py:max_square,tiny",
    ),
    train("shares of other classes", "--config.adapt.method.class_frequency=synthia"),
    train("a crop with one side", "--config.adapt.augment.source.crop=(8,)"),
    train("recorded rows that are not there", "--config.recorded=('nope.json',)"),
    train(
        "anchors that are not there",
        "--config.stage_1.method.anchors=nope.npz",
        config="--config=configs/streets.py:cag,tiny",
    ),
    train("no such distance", "--config.adapt.method.clustering_distance=l2"),
    train(
        "a method's terms on two sizes of images",
        "--config.adapt.augment.target.crop=(32,64)",
        config="--config=configs/streets.py:dacs,tiny",
    ),
    train("a learning rate of 0", "--config.adapt.optimizer.learning_rate=0.0"),
    train("no such optimiser", "--config.adapt.optimizer.name=adm"),
    train("no such backbone", "--config.model.backbone=resnet18"),
    train("no such dtype", "--config.model.dtype=float16"),
    train("no such kind of head", "--config.model.head=double"),
    train("no such initialisation", "--config.model.initialisation=random"),
    train("no such preprocessing", "--config.data.preprocessing=bgr"),
    train("a stage that is not there", "--config.stages=('source','adap')"),
    train(
        "a method for two heads on a network with one",
        "--config.model.head=single",
        config="--config=configs/streets.py:clan,tiny",
    ),
    train("another number of classes", "--config.model.num_classes=16"),
    train("a crop that does not fit", "--config.adapt.augment.source.crop=(96,96)"),
    train("a scale without crop", "--config.adapt.augment.source.scale=(0.5,1.5)"),
    train(
        "a batch that the devices do not divide",
        "--config.cpu_devices=2",
        "--config.adapt.batch_size=3",
    ),
    train("more devices than there are", "--config.num_devices=9"),
    train("a group that does not divide the batch", "--config.model.bn_group_size=3"),
    train("no such data set", "--config.data.source.name=gta6"),
    train("no such preset", "--config.data.source.preset=huge"),
    train("no such split", "--config.data.target.val=nope"),
    train("data that are not there", config="--config=configs/gta2cs.py"),
    train("no such selection", "--config.evaluation.selection=best"),
    train(
        "selection by the labels that are reported",
        "--config.evaluation.selection=target_heldout",
        "--config.evaluation.heldout=val",
    ),
    train("no such answer to NaN", "--config.adapt.on_nonfinite=ignore"),
    train("init_from nothing", "--config.adapt.init_from=lsr_nope"),
    train("init_from a page that says 404", "--config.source.init_from={}/page.pth"),
    train(
        "init_from a damaged checkpoint",
        "--config.source.init_from={}/foreign/checkpoints/5",
    ),
    train("a workdir with another config", "--workdir={}/other"),
    train("a workdir with a damaged config", "--workdir={}/damaged"),
    train("a workdir in which another process trains", "--workdir={}/busy"),
    train("a workdir that is a file", "--workdir={}/file"),
    train("a workdir below a file", "--workdir={}/file/run"),
    Case("evaluation of nothing", "evaluate.py", ()),
    Case("evaluation without a run", "evaluate.py", ("--workdir={}/new",)),
    Case(
        "evaluation under no protocol",
        "evaluate.py",
        ("--workdir={}/other", "--protocol=both_of_them"),
    ),
    Case("evaluation of a damaged run", "evaluate.py", ("--workdir={}/damaged",)),
)


class Answer(NamedTuple):
    """What a script did about a mistake."""

    case: Case
    code: int
    text: str

    @property
    def lines(self) -> list[str]:
        """The lines that say what is wrong."""
        return [x for x in self.text.splitlines() if x.startswith("error: ")]

    @property
    def good(self) -> bool:
        """One line, the right code, no traceback."""
        lines = self.text.strip().splitlines()
        return self.code == 2 and len(self.lines) == 1 and lines == self.lines


@contextlib.contextmanager
def scene(folder: Path) -> Iterator[None]:
    """The folders and files that the cases name; one of them is locked inside."""
    (folder / "file").write_text("")
    (folder / "page.pth").write_text("404")
    for name, config in (("other", '{"seed": 7}'), ("damaged", "{"), ("busy", None)):
        (folder / name).mkdir()
        if config:
            (folder / name / "config.json").write_text(config)
    (folder / "foreign" / "checkpoints" / "5" / "state").mkdir(parents=True)
    with (folder / "busy" / ".lock").open("w") as lock:
        lock.write("process 1234 on somewhere")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ask(case: Case, folder: Path) -> Answer:
    """Runs a case in a fork."""
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
    for path, name in ((data(), "DATA"), (str(folder), "DIR"), (str(ROOT), ".")):
        text = text.replace(path, name)
    return Answer(case, os.waitstatus_to_exitcode(status), text)


def data() -> str:
    """Where the benchmark of the runs lies."""
    return os.environ["LSR_JAX_DATA"]


def answers(folder: Path, cases: Iterable[Case] = CASES) -> list[Answer]:
    """What the scripts answer; nothing else may be left in ``folder`` by them."""
    # The parent has no thread and no device: JAX starts in the children.
    import lsr_jax.report.report
    import lsr_jax.training.loop  # noqa: F401

    os.environ.setdefault("LSR_JAX_DATA", str(folder / "data"))
    drawn = ("--prepare", "--preset=tiny", "--workers=1")
    ask(Case("", "lsr_jax/streets/__main__.py", drawn), folder)
    with scene(folder):
        return [ask(case, folder) for case in cases]


def in_a_process_of_its_own(folder: Path) -> list[Answer]:
    """`answers`, for a caller that has threads or devices, which a fork would lose."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(answers, folder).result()


def table(found: Iterable[Answer]) -> str:
    """The answers in Markdown."""
    lines = ["| mistake | answer |", "|---|---|"]
    for answer in found:
        text = " ".join(answer.lines).removeprefix("error: ").replace("|", "\\|")
        lines.append(f"| {answer.case.mistake} | {text} |")
    return "\n".join(lines)


def main() -> int:
    """Runs, prints, writes; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bad_inputs")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = answers(Path(folder))
    print(table(found))
    bad = [answer for answer in found if not answer.good]
    for answer in bad:
        print(f"\n{answer.case.mistake}: code {answer.code}\n{answer.text}")
    if options.write and not bad:
        html.replace(options.write, PART, table(found))
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
