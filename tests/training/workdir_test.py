"""The folder of a run: one config, one process."""

import json
import subprocess
import sys

import pytest

from lsr_jax.errors import InputError
from lsr_jax.training import weights as trained_weights
from lsr_jax.training import workdir
from lsr_jax.training.checkpoint import FORMAT

STAGE = {"method": {"name": "lsr"}, "init_from": "previous"}
CONFIG = workdir.with_defaults({"stages": ["one"], "one": {**STAGE, "steps": 4}})
FACTS = {"data": {"source": "a1", "target": "b2"}, "weights": {"one.init_from": "c3"}}


def test_the_first_key_that_differs_is_named(tmp_path):
    with workdir.locked(tmp_path, CONFIG, FACTS):
        pass
    workdir.check(tmp_path, CONFIG)
    with pytest.raises(InputError, match=r"one\.steps is 4 there and 5 here"):
        workdir.check(tmp_path, {**CONFIG, "one": {**CONFIG["one"], "steps": 5}})


def test_devices_and_workers_may_change(tmp_path):
    with workdir.locked(tmp_path, CONFIG, FACTS):
        pass
    other = {**CONFIG, "num_devices": 2, "data": {**CONFIG["data"], "workers": 4}}
    with workdir.locked(tmp_path, other, FACTS):
        pass
    assert workdir.read_config(tmp_path) == other


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b"[" * 10**5]
)
def test_a_damaged_config_is_named(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    for call in (workdir.check, lambda path, _: workdir.read_config(path)):
        with pytest.raises(
            InputError, match=r"config\.json: expected the config of a run, found"
        ):
            call(tmp_path, CONFIG)


HOLD = """
import sys
from pathlib import Path
from lsr_jax.training import workdir
facts = {"data": {"source": "a1", "target": "b2"}, "weights": {}}
config = workdir.with_defaults({"stages": ["one"], "one": {"method": {"name": "lsr"}}})
with workdir.locked(Path(sys.argv[1]), config, facts):
    print("held", flush=True)
    sys.stdin.read()
"""
HELD = workdir.with_defaults({"stages": ["one"], "one": {"method": {"name": "lsr"}}})


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(
                InputError, match=rf"trains in it \(process {process.pid} on"
            ),
            workdir.locked(tmp_path, HELD, FACTS),
        ):
            pass
        process.kill()
    with workdir.locked(tmp_path, HELD, FACTS):
        pass


def test_other_data_or_weights_than_at_the_beginning_are_refused(tmp_path):
    with workdir.locked(tmp_path, CONFIG, FACTS):
        pass
    before = (tmp_path / "manifest.json").read_text()
    for kind, name in (("data", "target"), ("weights", "one.init_from")):
        changed = {**FACTS, kind: {**FACTS[kind], name: "new"}}
        with (
            pytest.raises(
                InputError, match=rf"different {kind}: {name} \(\w+ != new\)"
            ),
            workdir.locked(tmp_path, CONFIG, changed),
        ):
            pass
    assert (tmp_path / "manifest.json").read_text() == before
    with workdir.locked(tmp_path, CONFIG, FACTS):
        pass


def test_weights_that_are_no_longer_looked_at_stay_in_the_manifest(tmp_path):
    for weights in (FACTS["weights"], {}, {"one.pseudo_labeler": "d4"}):
        with workdir.locked(tmp_path, CONFIG, {**FACTS, "weights": weights}):
            pass
    known = workdir.manifest(tmp_path)["weights"]
    assert known == {"one.init_from": "c3", "one.pseudo_labeler": "d4"}


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_checkpoints_of_nobody_knows_which_run_are_refused(name, tmp_path):
    with workdir.locked(tmp_path, CONFIG, FACTS):
        (tmp_path / "one" / "checkpoints").mkdir(parents=True)
    workdir.check(tmp_path, CONFIG)
    (tmp_path / name).unlink()
    message = f"it has one/checkpoints but no {name}; restore that, or"
    with pytest.raises(InputError, match=message):
        workdir.check(tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stages": []}, r"\[\] for 'stages'"),
        ({"stages": [[]]}, r"\[\[\]\] for 'stages'"),
        ({"stages": ["two"]}, "None for 'two'"),
        ({"one": 5}, "5 for 'one'"),
        ({"one": {"method": {}}}, r"{} for 'one\.method'"),
        ({"one": {"method": {"name": "lrs"}}}, "unknown method 'lrs'"),
        ({"data": {"preprocessing": "caffe", "source": 5}}, r"5 for 'data\.source'"),
    ],
)
def test_a_config_without_what_readers_need_is_named(changed, message, tmp_path):
    stored = {**CONFIG, **changed, workdir.FORMAT_KEY: FORMAT}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match=rf"of a run, found: {message}; restore it"):
        workdir.read_config(tmp_path)


def test_keys_that_an_older_config_lacks_have_their_defaults(tmp_path):
    with workdir.locked(tmp_path, CONFIG, FACTS):
        pass
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    del stored["evaluation"]["every"], stored["one"]["keep_every"]
    del stored["one"]["method"]["clustering"]
    path.write_text(json.dumps(stored))
    assert workdir.read_config(tmp_path) == CONFIG
    workdir.check(tmp_path, CONFIG)
    other = {**CONFIG, "one": {**CONFIG["one"], "keep_every": 5}}
    with pytest.raises(InputError, match=r"one\.keep_every is 0 there and 5 here"):
        workdir.check(tmp_path, other)


@pytest.mark.parametrize(
    ("version", "writer"),
    [(None, r"0\.1 \(found format 1"), (9, r"of a later version \(found format 9")],
)
def test_a_run_of_another_version_is_refused(version, writer, tmp_path):
    stored = {**CONFIG, workdir.FORMAT_KEY: version}
    if version is None:
        del stored[workdir.FORMAT_KEY]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    for call in (workdir.check, lambda path, _: workdir.read_config(path)):
        with pytest.raises(
            InputError, match=f"written by lsr_jax {writer}, expected 2"
        ):
            call(tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": 5}, "5 for 'data'"),
        ({"weights": None}, "None for 'weights'"),
        ({"command": 1}, "1 for 'command'"),
    ],
)
def test_a_manifest_without_what_readers_need_is_named(changed, message, tmp_path):
    with workdir.locked(tmp_path, CONFIG, FACTS):
        pass
    path, whole = tmp_path / "manifest.json", workdir.manifest(tmp_path)
    path.write_text(json.dumps({**whole, **changed}))
    with (
        pytest.raises(InputError, match=rf"manifest of a run, found: {message}; rest"),
        workdir.locked(tmp_path, CONFIG, FACTS),
    ):
        pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(workdir.fcntl, "flock", refuse)
    with (
        pytest.raises(InputError, match=r"cannot be locked: .*No locks available"),
        workdir.locked(tmp_path, HELD, FACTS),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for call in (
        lambda: workdir.check(tmp_path / "file", {}),
        lambda: workdir.locked(tmp_path / "file" / "run", {}, {}).__enter__(),
    ):
        with pytest.raises(InputError, match="cannot be written"):
            call()


def test_what_differs_in_the_data_is_named(tmp_path):
    data = {"source": "1", "source.classes": "water, sky", "source.files": "9 images"}
    inputs = {"data": data, "weights": {}, "seed": 0}
    with workdir.locked(tmp_path, CONFIG, inputs):
        pass
    other = {**data, "source": "2", "source.classes": "sky, water"}
    found = r"source.classes \(water, sky != sky, water\); use those data"
    with pytest.raises(InputError, match=f"created with different data: {found}"):
        workdir.check_inputs(tmp_path, {**inputs, "data": other})


def test_weights_of_other_classes_are_refused(tmp_path):
    data = {"target": "1", "target.classes": "water, sky"}
    with workdir.locked(tmp_path, CONFIG, {"data": data, "weights": {}, "seed": 0}):
        pass
    source = trained_weights.Source(tmp_path / "adapt" / "checkpoints", "adapt", CONFIG)
    trained_weights.check_classes(source, ["water", "sky"])
    with pytest.raises(InputError, match="classes water, sky; found sky, water in the"):
        trained_weights.check_classes(source, ["sky", "water"])
    trained_weights.check_classes(source._replace(config=None), ["sky", "water"])
