"""What the flags of evaluate.py mean, and evaluations of two fresh networks."""

import contextlib
import dataclasses
import io
import json

import numpy as np
import pytest
import saved

from lsr_jax import cli, evaluate, streets
from lsr_jax.data import label_spaces
from lsr_jax.errors import InputError
from lsr_jax.report import results
from lsr_jax.training import weights

PRESET = dataclasses.replace(
    streets.PRESETS["tiny"],
    name="smallest",
    size=(32, 64),
    counts=streets.Counts(4, 5, 4, 5, 6),
)


def ask(**given):
    """The options of evaluate.py, with these values."""
    flags = cli.Flags()
    evaluate.define(flags)
    options, _ = cli.parse(flags, [])
    vars(options).update({"processes": None, **given})
    return options


def oracle_of(path, dataset):
    """A file with the row of an oracle on the target of a data set."""
    facts = dict.fromkeys(results.IDENTITY, "-")
    facts |= {"method": "target_only", "domain": "target", "bn": "running"}
    facts |= {"split": "val", "protocol": "native", "dataset": dataset}
    matrix, names = np.eye(19, dtype=int), label_spaces.NAMES
    row = results.make(matrix, classes=names, subsets={}, recorded="train", **facts)
    results.write(path, [row])
    return str(path)


@pytest.fixture(scope="module")
def run(load_config, tmp_path_factory):
    """A workdir of untrained stages on very few images."""
    config = load_config("streets", "lsr,tiny")
    for domain in ("source", "target"):
        config["data"][domain] |= {
            "preset": PRESET.name,
            "root": str(tmp_path_factory.mktemp("data")),
        }
    config["num_devices"] = 2
    config["evaluation"] |= {"batch_size": 4, "batchnorm_images": 4, "panel_images": 1}
    config["adapt"]["init_from"] = "/gone/since"
    rows = tmp_path_factory.mktemp("recorded") / "rows.json"
    config["recorded"] = [oracle_of(rows, "camvid")]  # of other data: left out
    folder = tmp_path_factory.mktemp("runs") / "run"
    return saved.run(folder, config, {"source": (1, 2), "adapt": (3,)})


@pytest.fixture(scope="module")
def chosen(run):
    """The same of one stage, whose step 1 was chosen on the test split."""
    config = json.loads((run / "config.json").read_text())
    best = {"step": 1, "score": 0.5, "rule": "target_heldout", "split": "test"}
    return saved.run(run.parent / "chosen", config, {"source": (1, 2)}, best)


@pytest.fixture(scope="module", autouse=True)
def _preset():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(streets.PRESETS, PRESET.name, PRESET)
        # JAX is already in use here.
        patch.setattr(evaluate.compile, "configure", lambda cpu_devices: None)
        yield


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    """The rows of both stages, and what was printed."""
    rows = tmp_path_factory.mktemp("oracle") / "rows.json"
    oracle = oracle_of(rows, "streets_camera smallest")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        found = evaluate.evaluate(ask(workdir=str(run), oracle=oracle))
    return found, printed.getvalue()


def by_kind(found):
    return {(row["stage"], row["domain"], row["bn"]): row for row in found}


def test_stages_of_a_run(run, evaluated):
    found, printed = evaluated
    assert len(by_kind(found)) == len(found) == 8
    assert {row["same_as"] for row in found} == {"resized"}
    row = by_kind(found)["adapt", "target", "running"]
    assert (row["step"], row["seed"], row["selection"]) == (3, 0, "last")
    place = weights.resolve(str(run))
    assert len(row["data"]) == len(row["weights"]) == 64
    assert place.stage == "adapt"
    assert row["masr"] == pytest.approx(row["miou"])
    assert {p.name for p in (run / "report").iterdir()} == {
        *("metrics.json", "metrics.csv", "table.md", "table.tex", "panel.png"),
        *("index.html", "model_card.md", "tensorboard"),
    }
    assert "protocol native (= resized), seed 0" in printed
    assert row["weights"][:8] in printed
    assert row["data"][:8] in printed


def test_a_step_and_a_checkpoint_are_that_network(run):
    by_step = evaluate.evaluate(ask(workdir=str(run), stages=["source"], step=1))
    kept = results.read(run / "report-source-step1" / "metrics.json")
    path = run / "source" / "checkpoints" / "1"
    by_path = evaluate.evaluate(ask(checkpoint=str(path)))
    np.testing.assert_equal(by_step, by_path)
    np.testing.assert_equal(by_step, kept)
    assert {row["selection"] for row in by_step} == {"named"}


def test_an_ensemble_of_one_network_twice_is_that_network(run, evaluated, tmp_path):
    name = f"{run}:source"
    alone = [row for row in evaluated[0] if row["stage"] == "source"]
    found = evaluate.evaluate(
        ask(ensemble=[f"{name}=0.7", f"{name}=0.3"], out=str(tmp_path / "twice"))
    )
    assert {row["stage"] for row in found} == {"ensemble"}
    for one, other in zip(alone, found, strict=True):
        assert other["pixel_accuracy"] == pytest.approx(one["pixel_accuracy"], abs=1e-3)
    row = found[0]
    assert row["method"] == "0.7 source_only + 0.3 source_only"
    assert [member["weight"] for member in row["members"]] == [0.7, 0.3]
    assert row["members"][0]["weights"] == alone[0]["weights"] != row["weights"]
    assert "0.7 of source" in (tmp_path / "twice" / "table.md").read_text()


def test_views_reach_the_network(run, evaluated):
    flipped = evaluate.evaluate(
        ask(checkpoint=str(run), protocol="native", flip=True, split="test")
    )
    assert {row["averaging"] for row in flipped} == {"flip, probabilities"}
    assert {row["split"] for row in flipped} == {"test", "val"}
    assert not any("same_as" in row for row in flipped)
    kind = "adapt", "source", "running"
    assert by_kind(flipped)[kind]["iou"] != by_kind(evaluated[0])[kind]["iou"]
    assert (run / "report-test-adapt-native-flip-probabilities").is_dir()


def test_windows_of_the_config_reach_the_network(run, evaluated, tmp_path):
    config = json.loads((run / "config.json").read_text())
    config["evaluation"]["window"] = (32, 32)
    windowed = saved.run(tmp_path / "run", config, {"source": (1,), "adapt": (3,)})
    found = evaluate.evaluate(ask(checkpoint=str(windowed), protocol="native"))
    assert {row["averaging"] for row in found} == {"windows 32x32, logits"}
    kind = "adapt", "source", "running"
    assert by_kind(found)[kind]["iou"] != by_kind(evaluated[0])[kind]["iou"]
    assert (windowed / "report-adapt-native").is_dir()


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({}, "report"),
        ({"stages": ["adapt", "source"]}, "report"),
        ({"stages": ["source"]}, "report-source"),
        ({"stages": ["adapt"], "split": "test"}, "report-test-adapt"),
    ],
)
def test_only_a_report_of_all_stages_is_the_report(flags, name, run):
    given = ask(workdir=str(run), **flags)
    assert evaluate.output(given, [], "one view", ["source", "adapt"]) == run / name


@pytest.mark.parametrize(
    "flags",
    [
        {"workdir": "{}", "checkpoint": "{}:source"},
        {"workdir": "{}", "stages": ["source"]},
        {"ensemble": ["{}:source=1", "{}:source=1"]},
    ],
)
def test_a_choice_on_the_split_of_the_flag_is_an_oracles(flags, chosen, monkeypatch):
    flags = json.loads(json.dumps(flags).replace("{}", str(chosen)))

    def selections(experiment, stages, *, entries, evaluation, **_):
        entries = entries or [evaluation.entry(stage) for stage in stages]
        return [m.selection for entry in entries for m in entry.members]

    monkeypatch.setattr(evaluate.report, "write", selections)
    for split, rule in (("test", "oracle"), (None, "target_heldout")):
        assert set(evaluate.evaluate(ask(split=split, **flags))) == {rule}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "--workdir, --checkpoint or --ensemble is needed"),
        (
            {"ensemble": ["a=1"], "stages": ["b"]},
            "--stages: cannot be combined with --ensemble",
        ),
        (
            {"ensemble": ["a=1"], "checkpoint": "b"},
            "--checkpoint: cannot be combined with --ensemble",
        ),
        (
            {"ensemble": ["a=1"], "step": 1},
            "--step: cannot be combined with --ensemble",
        ),
        (
            {"workdir": "a", "figures": True, "processes": {"num_processes": 2}},
            "--distributed: cannot be combined with --figures",
        ),
        (
            {"workdir": "a", "figures": True, "step": 1},
            "--step: cannot be combined with --figures",
        ),
        ({"checkpoint": "a", "stages": ["b"]}, "name WORKDIR:STAGE in --checkpoint"),
        ({"ensemble": ["a"]}, "NAME=WEIGHT.* found 'a'"),
        ({"ensemble": ["a=x"]}, "NAME=WEIGHT.* found 'a=x'"),
        ({"ensemble": ["a=0"]}, "NAME=WEIGHT.* found 'a=0'"),
        ({"ensemble": ["=1"]}, "NAME=WEIGHT.* found '=1'"),
        ({"checkpoint": "a", "scales": ["b"]}, "--scales: expected positive numbers"),
        ({"workdir": "{run}", "out": "{run}/config.json"}, "cannot be written"),
        ({"workdir": "{run}", "stages": ["b"]}, "found b"),
    ],
)
def test_wrong_flags_are_one_line(flags, message, run):
    flags = {
        name: value.format(run=run) if isinstance(value, str) else value
        for name, value in flags.items()
    }
    with pytest.raises(InputError, match=message) as caught:
        evaluate.evaluate(ask(**flags))
    assert "\n" not in str(caught.value)


def test_processes_meet_before_anything_is_read(run, monkeypatch):
    class MetError(Exception):
        pass

    def initialize(**given):
        raise MetError(given)

    monkeypatch.setattr(evaluate.distributed, "initialize", initialize)
    given = {"num_processes": 2, "process_id": 1}
    with pytest.raises(MetError, match="'process_id': 1"):
        evaluate.evaluate(ask(workdir=str(run), processes=given))


def test_weights_outside_of_a_run_need_data_and_a_folder(run, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"")
    place = weights.resolve(str(tmp_path / "w.safetensors"))
    given = ask(checkpoint=str(place.path))
    with pytest.raises(InputError, match="name the data by --config"):
        evaluate.data_config(given, [place])
    with pytest.raises(InputError, match="folder to write by --out"):
        evaluate.output(given, [place], "one view", ["source"])
    config = json.loads((run / "config.json").read_text())
    assert evaluate.data_config(ask(config=config), [place]) is config


def test_a_network_of_other_classes_is_named(run, load_config):
    config = load_config("streets", "lsr,tiny")
    config["model"]["num_classes"] = 16
    other = saved.run(run.parent / "other", config, {"source": (1,)})
    with pytest.raises(InputError, match=r"labels have 19 classes, the network 16"):
        evaluate.evaluate(ask(workdir=str(run), checkpoint=f"{other}:source"))
