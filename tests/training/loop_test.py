"""Runs of the smallest `streets` config: resumed, on other devices, refused."""

import contextlib
import dataclasses
import itertools
import json
import shutil

import chex
import eventfiles
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import saved
from PIL import Image

from lsr_jax import convert, report
from lsr_jax.errors import InputError, TrainingError
from lsr_jax.evaluation import confusion
from lsr_jax.methods import common
from lsr_jax.models import BACKBONES
from lsr_jax.training import distributed, loop, workdir
from lsr_jax.training.checkpoint import FORMAT, Checkpointer
from lsr_jax.training.loop import profiling
from lsr_jax.training.metrics import MetricsLog, Monitor
from lsr_jax.training.stage import Snapshot, build_stage, build_stages, open_run
from lsr_jax.training.stop import Stop, Stopped

# float32 sums over a batch in another order, over eight steps of AdamW.
DEVICE_TOLERANCE = {"rtol": 2e-2, "atol": 2e-3}


@pytest.fixture(scope="module", autouse=True)
def _standard_promotion():
    """optax's AdamW mixes integer counts and float rates."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module", autouse=True)
def _data(tmp_path_factory):
    """Data drawn once for all runs of this module; a network that compiles fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "nano", quick.ThreeLayers())
        patch.setenv("LSR_JAX_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="module")
def config(load_config):
    config = load_config("streets", "lsr,tiny")
    config["num_devices"] = 1
    config["model"] |= {"backbone": "nano", "aspp_dilations": (2, 4)}
    for stage in config["stages"]:
        config[stage] |= {"steps": 4, "log_every": 1, "checkpoint_every": 2}
    return config


@contextlib.contextmanager
def seen():
    """The steps and ids of source images that are watched inside."""
    found = []

    def add(self, number, metrics, ids, original=Monitor.add):
        found.append((number, ids["source"]))
        original(self, number, metrics, ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "add", add)
        yield found


@pytest.fixture(scope="module")
def watched(config, tmp_path_factory):
    """A run, and what it saw."""
    with seen() as found:
        run = loop.train(config, tmp_path_factory.mktemp("unbroken"))
    return run, found


@pytest.fixture(scope="module")
def unbroken(watched):
    return watched[0]


def build(run, stage="adapt"):
    """A stage of a run."""
    return build_stage(run, stage)


def final(run, stage="adapt"):
    built = build(run, stage)
    with Checkpointer(built.checkpoints, read_only=True) as checkpoints:
        state = built.restore(checkpoints).state
    return jax.device_get(state.replace(rng=jax.random.key_data(state.rng)))


def copy_without(stage, run, folder):
    """A run as it was before ``stage`` began."""
    ignored = shutil.ignore_patterns(stage)
    shutil.copytree(run, folder, ignore=ignored, dirs_exist_ok=True)


def logged(experiment, stage="adapt"):
    lines = (experiment.folder(stage) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_every_step_is_logged_with_every_term(unbroken):
    lines = logged(unbroken)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"segmentation", "clustering_target", "entropy", "total"} < set(lines[0])
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    manifest = json.loads((unbroken.workdir / "manifest.json").read_text())
    assert manifest["versions"]["jax"] == jax.__version__
    domains = {"source", "target"}
    assert set(manifest["data"]) == domains | {f"{name}.classes" for name in domains}


def test_tensorboard_shows_what_the_record_does_not_hold(unbroken):
    found = eventfiles.shown(unbroken.folder("adapt"))
    steps = {}
    for step, tag, _ in found:
        steps.setdefault(tag, []).append(step)
    assert steps["total"] == [1, 2, 3, 4]
    at_the_start = ("before_augmentation/source", "before_augmentation/target")
    assert [steps[tag] for tag in at_the_start] == [[1], [1]]
    saved = ("prototypes/norms", "prototypes/angles", "goodput", "lost_compile_seconds")
    assert [steps[tag] for tag in saved] == [[2, 4]] * 4
    assert not set(at_the_start + saved) & set(logged(unbroken)[0])

    last = {tag: value for _, tag, value in found}
    prototypes = final(unbroken).method_state.prototypes
    vectors = np.float64(prototypes.mean[prototypes.seen])
    lengths = np.linalg.norm(vectors, axis=1)
    norms, angles = (last[f"prototypes/{kind}"].histo for kind in ("norms", "angles"))
    assert (norms.min, norms.max) == pytest.approx((lengths.min(), lengths.max()))
    assert angles.num == len(vectors) * (len(vectors) - 1) / 2
    cosines = (vectors / lengths[:, None]) @ (vectors / lengths[:, None]).T
    widest = np.degrees(np.arccos(cosines.min()))
    assert angles.max == pytest.approx(widest)
    image, _ = eventfiles.pixels(last["before_augmentation/source"])
    height, width = unbroken.sizes["source"]
    assert image.shape == (height, 2 * width, 3)


def test_only_process_0_has_a_log(unbroken, tmp_path, monkeypatch):
    stage = build(dataclasses.replace(unbroken, workdir=tmp_path))
    start = Snapshot(build(unbroken).start())
    for main, files in ((False, 0), (True, 2)):
        monkeypatch.setattr(distributed, "is_main", lambda main=main: main)
        with loop.open_log(stage, start) as log:
            assert (log is not None) == main
        assert len(list(tmp_path.glob("adapt/*"))) == files


def test_adaptation_starts_from_the_source_stage(unbroken):
    source = unbroken.trained("source")
    start = build(unbroken).start()
    chex.assert_trees_all_equal(
        jax.device_get(start.params["model"]), jax.device_get(source.params)
    )
    chex.assert_trees_all_equal(
        jax.device_get(start.model_state), jax.device_get(source.model_state)
    )


@pytest.mark.slow
@pytest.mark.parametrize("broken_at", [1, 3])
def test_an_interrupted_run_continues_bit_by_bit(
    config, unbroken, broken_at, tmp_path, monkeypatch
):
    """A run that ends in step 1 has no checkpoint yet, one in step 3 has that of step 2."""

    class Interrupted(Exception):
        pass

    write = MetricsLog.write

    def interrupting(self, step, metrics):
        write(self, step, metrics)
        if step == broken_at:
            raise Interrupted

    copy_without("adapt", unbroken.workdir, tmp_path)
    monkeypatch.setattr(MetricsLog, "write", interrupting)
    with pytest.raises(Interrupted):
        loop.train(config, tmp_path)
    monkeypatch.undo()
    continued = loop.train(config, tmp_path)

    chex.assert_trees_all_equal(final(continued), final(unbroken))
    assert logged(continued) == logged(unbroken)


@pytest.mark.long  # checkpoint_test.py holds what is stored and restored
def test_a_run_with_a_frozen_encoder_continues_bit_by_bit(
    config, unbroken, load_config, tmp_path
):
    method = dict(load_config("streets", "dacs,tiny")["adapt"]["method"])
    method["feature_distance"] = 1.0
    origin = str(unbroken.folder("source"))
    adapt = config["adapt"] | {"method": method, "init_from": origin}
    config = config | {"stages": ("adapt",), "adapt": adapt}
    whole = loop.train(config, tmp_path / "whole")
    with pytest.raises(Stopped):
        loop.train(config, tmp_path / "broken", Stop(max_steps=3))
    folder = tmp_path / "broken" / "adapt" / "checkpoints"
    shutil.move(folder / "frozen", tmp_path / "frozen")
    with pytest.raises(
        InputError, match="adapt/checkpoints/frozen: cannot be restored"
    ):
        loop.train(config, tmp_path / "broken")
    shutil.move(tmp_path / "frozen", folder / "frozen")
    continued = loop.train(config, tmp_path / "broken")
    chex.assert_trees_all_equal(final(continued), final(whole))
    assert logged(continued) == logged(whole)
    # What is evaluated and exported needs no frozen part.
    shutil.rmtree(folder / "frozen")
    assert continued.trained("adapt").weights == whole.trained("adapt").weights


def test_a_finished_run_is_left_alone(config, unbroken):
    before = {
        path: path.stat().st_mtime_ns for path in unbroken.folder("adapt").rglob("*")
    }
    loop.train(config, unbroken.workdir)
    after = {
        path: path.stat().st_mtime_ns for path in unbroken.folder("adapt").rglob("*")
    }
    assert before == after


def test_a_changed_record_of_a_finished_run_is_noticed(config, unbroken, tmp_path):
    shutil.copytree(unbroken.workdir, tmp_path / "run")
    log = tmp_path / "run" / "adapt" / "metrics.jsonl"
    for damaged in (log.read_bytes().replace(b"1", b"2", 1), b""):
        log.write_bytes(damaged)
        with pytest.raises(InputError, match=r"adapt/metrics\.jsonl: its first"):
            loop.train(config, tmp_path / "run")
        assert log.read_bytes() == damaged


def test_report_has_every_row_and_file(unbroken, capsys):
    rows = report.write(unbroken, per_class=True)
    kinds = {(r["stage"], r["method"], r["domain"], r["bn"]) for r in rows}
    assert kinds == {
        (stage, method, domain, bn)
        for stage, method in (("source", "source_only"), ("adapt", "lsr"))
        for domain in ("source", "target")
        for bn in ("running", "target")
    }
    assert all(row["step"] == 4 and row["selection"] == "last" for row in rows)
    assert all(0 <= row["miou"] <= 1 and "road" in row["iou"] for row in rows)
    folder = unbroken.workdir / "report"
    names = {path.name for path in folder.iterdir()}
    assert {
        "metrics.json",
        "metrics.csv",
        "table.md",
        "table.tex",
        "panel.png",
    } <= names
    printed = capsys.readouterr().out
    assert "adapt (lsr)" in printed
    assert "bicycle" in printed
    text = (folder / "metrics.json").read_text()
    report.write(unbroken)
    assert (folder / "metrics.json").read_text() == text
    # One event file, though the report was written twice.
    ((step, tag, value),) = eventfiles.shown(folder / "tensorboard")
    assert (step, tag) == (4, "panel")
    panel = np.asarray(Image.open(folder / "panel.png").convert("RGB"))
    np.testing.assert_array_equal(eventfiles.pixels(value)[0], panel)


def test_unknown_stage_is_named(unbroken):
    with pytest.raises(InputError, match="found nope"):
        report.write(unbroken, ["nope"])


def test_another_config_is_refused(config, unbroken):
    other = {**config, "seed": 1}
    with pytest.raises(InputError, match="seed is 0 there and 1 here"):
        loop.train(other, unbroken.workdir)


def test_a_damaged_last_checkpoint_is_trained_again(config, unbroken, tmp_path, capfd):
    shutil.copytree(unbroken.workdir, tmp_path / "run")
    checkpoint = tmp_path / "run" / "source" / "checkpoints" / "4"
    for path in (checkpoint / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run = open_run(config, tmp_path / "run")
    # The next stage would start from other weights: no silent step back.
    with pytest.raises(InputError, match=r"checkpoint .*source/checkpoints/4"):
        build(run).start()
    # A report names the step that it reports.
    assert run.trained("source").step == 2
    assert "using step 2" in capfd.readouterr().err
    again = loop.train(config, tmp_path / "run")
    chex.assert_trees_all_equal(final(again, "source"), final(unbroken, "source"))
    assert logged(again, "source") == logged(unbroken, "source")


def test_another_network_is_named(config, unbroken):
    for dilations, message in (
        ((2,), r"source/checkpoints/4.*also has .*head/conv2d_list_1"),
        ((1, 2, 3), r"source/checkpoints/4.*has no .*head/conv2d_list_2"),
    ):
        other = {**config, "model": {**config["model"], "aspp_dilations": dilations}}
        with pytest.raises(InputError, match=message):
            open_run(other, unbroken.workdir).trained("source")


def test_init_from_finds_workdirs_and_stages(config, unbroken, tmp_path):
    folder = unbroken.workdir
    for path, stage in (
        (folder, "adapt"),
        (folder / "source", "source"),
        (folder / "source" / "checkpoints", "source"),
        (folder / "source" / "checkpoints" / "4", "source"),
    ):
        alone = {**config, "stages": ("adapt",)}
        alone["adapt"] = {**config["adapt"], "init_from": str(path)}
        start = build(open_run(alone, tmp_path)).start()
        wanted = unbroken.trained(stage).params
        chex.assert_trees_all_equal(
            jax.device_get(start.params["model"]), jax.device_get(wanted)
        )
    alone["adapt"]["init_from"] = str(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"init_from .*nothing"):
        build(open_run(alone, tmp_path))


def test_weights_that_change_while_an_earlier_stage_trains_are_refused(
    config, unbroken, tmp_path
):
    other = shutil.copytree(unbroken.folder("source"), tmp_path / "other")
    named = {**config, "adapt": {**config["adapt"], "init_from": str(other)}}
    run = open_run(named, tmp_path / "run")
    stages = build_stages(run)
    with workdir.locked(run.workdir, named, loop.inputs(run, stages)):
        shutil.rmtree(other / "checkpoints" / "4")
        with pytest.raises(InputError, match=r"different weights: adapt\.init_from"):
            loop.begin(stages[1])


def test_a_loss_that_is_not_finite_stops_the_run(
    config, unbroken, tmp_path, monkeypatch
):
    monkeypatch.setattr(common, "sharpness", lambda *_, **__: jnp.array(jnp.nan))
    broken = {**config, "adapt": {**config["adapt"], "log_every": 100}}
    copy_without("adapt", unbroken.workdir, tmp_path)
    stored = {**broken, workdir.FORMAT_KEY: FORMAT}
    (tmp_path / "config.json").write_text(workdir.to_json(stored))
    with pytest.raises(
        TrainingError,
        match=r"stage adapt, step 1: not finite: .*total; examples: source \w+.*; target",
    ):
        loop.train(broken, tmp_path)


def test_a_run_goes_on_with_other_devices_and_workers(config, watched, tmp_path):
    """The batches are the same; sums over them differ in their order."""
    unbroken, both_stages = watched
    config = {**config, "stages": ("source",)}
    other = {**config, "num_devices": 8, "data": {**config["data"], "workers": 1}}
    with seen() as found:
        with pytest.raises(Stopped, match="--max_steps after step 3 of source"):
            loop.train(config, tmp_path / "run", Stop(max_steps=3))
        other = loop.train(other, tmp_path / "run")
    assert found == both_stages[:4]
    lines, found = logged(unbroken, "source"), logged(other, "source")
    assert lines[:3] == found[:3]
    chex.assert_trees_all_close(lines[3], found[3], rtol=2e-3, atol=1e-4)
    chex.assert_trees_all_close(
        final(unbroken, "source").model_state,
        final(other, "source").model_state,
        **DEVICE_TOLERANCE,
    )


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_and_reported(
    config, tmp_path, monkeypatch, capsys
):
    scores = iter([0.1, 0.4, 0.4, 0.3])
    monkeypatch.setattr(confusion, "mean_iou", lambda *_: next(scores))
    chosen = {"selection": "source_val", "every": 1}
    chosen = {**config, "evaluation": {**config["evaluation"], **chosen}}
    chosen |= {"stages": ("source",), "source": {**config["source"]}}
    chosen["source"]["checkpoint_every"] = 4
    with pytest.raises(Stopped):
        loop.train(chosen, tmp_path, Stop(max_steps=3))
    experiment = loop.train(chosen, tmp_path)
    monkeypatch.undo()
    checkpoints = tmp_path / "source" / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"2", "3", "4"}
    network = experiment.trained("source")
    assert (network.step, network.newest) == (2, 4)
    rows = report.write(experiment)
    assert {(row["step"], row["selection"]) for row in rows} == {(2, "source_val")}
    assert "selection source_val" in capsys.readouterr().out


def test_init_from_takes_a_weight_folder(config, unbroken, tmp_path):
    network = unbroken.trained("source")
    params, model_state = jax.device_get((network.params, network.model_state))
    info = saved.weight_info(config["model"])
    folder = tmp_path / "weights"
    convert.save(folder, convert.Imported(params, model_state, info))
    alone = {**config, "stages": ("adapt",)}
    alone["adapt"] = {**config["adapt"], "init_from": str(folder)}
    start = build(open_run(alone, tmp_path)).start()
    chex.assert_trees_all_equal(jax.device_get(start.params["model"]), dict(params))
    alone["data"] = {**config["data"], "preprocessing": "caffe"}
    with pytest.raises(InputError, match="trained on 'imagenet' input"):
        build(open_run(alone, tmp_path)).check_inputs()


def test_two_batches_are_under_way_before_they_are_asked_for():
    started = []

    def put(number):
        started.append(number)
        return 10 * number

    batches = loop.prefetch(itertools.count(), put, depth=2)
    assert next(batches) == 0
    assert started == [0, 1, 2]
    assert next(batches) == 10
    assert started == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_last_batches_are_not_lost(count):
    batches = loop.prefetch(range(count), lambda x: x, depth=2)
    assert list(batches) == list(range(count))


@pytest.fixture
def calls(monkeypatch):
    made = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: made.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: made.append("stop"))
    return made


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (2, []),
        (3, ["folder", "stop"]),
        (9, ["folder", 0, 0, "stop", 0, 0, 0, 0]),
    ],
)
def test_steps_between_the_calls(calls, tmp_path, steps, expected):
    with profiling(tmp_path, skip=2, count=2) as before_step:
        for number in range(steps):
            before_step()
            if number >= 2:
                calls.append(0)
    wanted = [tmp_path if call == "folder" else call for call in expected]
    if steps == 3:
        wanted.insert(1, 0)
    assert calls[: len(wanted)] == wanted
    assert calls.count("stop") == expected.count("stop")


def test_without_a_folder_nothing_is_traced(calls):
    with profiling(None) as before_step:
        for _ in range(20):
            before_step()
    assert calls == []
