"""Two processes of four devices each against one process of eight."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import one_of_two
import pytest

from lsr_jax import report
from lsr_jax.data import pseudo_label_store
from lsr_jax.errors import InputError
from lsr_jax.evaluation.unsupervised import CRITERIA
from lsr_jax.models import BACKBONES
from lsr_jax.training import distributed, loop, stage
from lsr_jax.training.checkpoint import Checkpointer
from lsr_jax.training.workdir import read_config

ROOT = Path(__file__).parents[2]
SECONDS = 600
# The same program on the same eight shards; only the sums between processes may be
# taken in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
OVERRIDES = {
    "stages": ("adapt",),
    "adapt.init_from": "scratch",
    "adapt.steps": 4,
    "adapt.checkpoint_every": 2,
    "adapt.log_every": 1,
    "adapt.batch_size": 8,
    "model.aspp_dilations": (2,),
    "model.backbone": "nano",  # as in one_of_two.py: the network matters little here
}


@pytest.fixture(scope="module", autouse=True)
def _standard_promotion():
    """optax's AdamW mixes integer counts and float rates."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module", autouse=True)
def _unoptimized():
    """Ten programs are compiled here, in three processes, and run for four steps each."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSR_JAX_DATA", str(folder))
        patch.setitem(BACKBONES, "nano", BACKBONES["mini"])  # restored at the end
        one_of_two.add_tiny()
        yield folder


@pytest.fixture(scope="module")
def one(load_config, tmp_path_factory):
    """The run in this process, on eight devices."""
    config = load_config("streets", "lsr,tiny")
    for key, value in OVERRIDES.items():
        *sections, name = key.split(".")
        place = config
        for section in sections:
            place = place[section]
        place[name] = value
    return loop.train(config, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Runs of stages that prepare themselves, in this process."""
    return {
        name: loop.train(one_of_two.preparing(name), tmp_path_factory.mktemp(name))
        for name in one_of_two.PREPARING
    }


def in_two_processes(*command):
    """What two processes with the same flags print: ``[(stdout, stderr), ...]``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = (f"--coordinator_address={address}", "--num_processes=2")
    processes = [
        subprocess.Popen(
            [sys.executable, *command, *flags, f"--process_id={number}"],
            cwd=ROOT,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        printed = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0, 0], printed
    return printed


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of the same runs in two processes, and what they wrote to stderr."""
    folder = tmp_path_factory.mktemp("two")
    printed = in_two_processes(
        "tests/one_of_two.py",
        "--config=configs/streets.py:lsr,tiny",
        "--config.cpu_devices=4",
        *(f"--config.{key}={value}" for key, value in OVERRIDES.items()),
        f"--workdir={folder}",
    )
    return folder, [errors for _, errors in printed]


def logged(folder, stage="adapt"):
    lines = (folder / stage / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def final(folder, run):
    """The last checkpoint of a run of one stage, read by this process."""
    (built,) = stage.build_stages(run)
    with Checkpointer(folder / built.name / "checkpoints") as checkpoints:
        state, _ = checkpoints.restore_newest(built.shapes)
    return jax.device_get(state.replace(rng=jax.random.key_data(state.rng)))


@pytest.mark.long
def test_two_processes_give_what_one_gives(one, two):
    folder, _ = two
    lines = logged(folder / "unbroken")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for found, expected in zip(lines, logged(one.workdir), strict=True):
        chex.assert_trees_all_close(found, expected, **TOLERANCE)
    found, expected = (final(f, one) for f in (folder / "unbroken", one.workdir))
    chex.assert_trees_all_close(found.model_state, expected.model_state, **TOLERANCE)
    chex.assert_trees_all_close(found.method_state, expected.method_state, **TOLERANCE)


@pytest.mark.long
def test_two_processes_continue_bit_by_bit(one, two):
    folder, _ = two
    chex.assert_trees_all_equal(
        final(folder / "continued", one), final(folder / "unbroken", one)
    )
    assert logged(folder / "continued") == logged(folder / "unbroken")


@pytest.mark.long
def test_two_processes_find_the_anchors_that_one_finds(prepared, two):
    one, (folder, _) = prepared["cag"], two
    found, expected = (
        final(f, one).method_state for f in (folder / "cag", one.workdir)
    )
    assert expected.count.sum() > len(expected.count)
    chex.assert_trees_all_equal(found.count, expected.count)
    chex.assert_trees_all_close(found, expected, **TOLERANCE)


@pytest.mark.long
def test_two_processes_write_the_labels_that_one_writes(prepared, two):
    folders = two[0] / "bdl", prepared["bdl"].workdir
    found, expected = (
        contents(f / "round_1" / pseudo_label_store.FOLDER) for f in folders
    )
    assert found == expected
    kept = [row["kept"] for row in json.loads(found["summary.json"])]
    assert 0 < max(kept) < 1
    (found,), (expected,) = (logged(f, "round_1") for f in folders)
    assert expected["self_training"] > 0
    chex.assert_trees_all_close(found, expected, **TOLERANCE)


@pytest.mark.long
def test_two_processes_count_what_one_counts(two, tmp_path):
    workdir = two[0] / "unbroken"
    program = (
        "import one_of_two, runpy; one_of_two.add_tiny(); "
        "runpy.run_path('evaluate.py', run_name='__main__')"
    )
    printed = in_two_processes("-c", program, f"--workdir={workdir}")
    assert [text.count("metrics.json") for text, _ in printed] == [1, 0]
    report.write(stage.open_run(read_config(workdir), workdir), folder=tmp_path)
    found, expected = (
        json.loads((folder / "metrics.json").read_text())
        for folder in (workdir / "report", tmp_path)
    )
    assert [row["bn"] for row in found] == ["running"] * 2 + ["target"] * 2

    def counted(rows):
        return [{k: x for k, x in row.items() if k not in CRITERIA} for row in rows]

    assert counted(found[:2]) == counted(expected[:2])
    # Statistics of the target and its criteria are sums between processes: a pixel on
    # which two classes agree to the last bits may change.
    for row, other in zip(found, expected, strict=True):
        assert jax.tree.structure(row) == jax.tree.structure(other)
        leaves = list(zip(jax.tree.leaves(row), jax.tree.leaves(other), strict=True))
        numbers = [pair for pair in leaves if isinstance(pair[1], float)]
        np.testing.assert_allclose(*zip(*numbers, strict=True), **TOLERANCE)
        assert all(a == b for a, b in leaves if not isinstance(b, float))


@pytest.mark.long
def test_only_the_first_process_writes(two):
    folder, errors = two
    assert len(list((folder / "unbroken" / "adapt").glob("events.*"))) == 1
    assert ["adapt 4/4" in text for text in errors] == [True, False]


def test_an_impossible_process_is_named():
    with pytest.raises(InputError, match=r"--process_id: out of range .found 2, "):
        distributed.initialize(num_processes=2, process_id=2)
    with pytest.raises(InputError, match=r"--process_id: out of range .found -1, "):
        distributed.initialize(process_id=-1)


def test_what_no_cluster_tells_is_asked_for():
    names = ("JAX_COORDINATOR_ADDRESS", "SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST")
    command = ["--config=configs/streets.py:lsr,tiny", "--distributed"]
    process = subprocess.run(
        [sys.executable, "train.py", *command],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k not in names},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert process.returncode == 2
    assert process.stderr.startswith("error: --distributed: coordinator_address")
    assert "--num_processes" in process.stderr
