"""The folder of a run: one config, one process."""

import json
import subprocess
import sys

import pytest

from lsr_jax.errors import InputError
from lsr_jax.training import workdir

STAGE = {"method": {"name": "lsr"}, "init_from": "previous"}
CONFIG = {
    "a": {"b": 1},
    "num_devices": None,
    "seed": 0,
    "stages": ["one"],
    "one": {**STAGE, "steps": 4},
    "model": {},
    "data": {"preprocessing": "caffe", "source": {}, "target": {}, "workers": 0},
    "evaluation": {},
}
FACTS = {"data": {"source": "a1", "target": "b2"}, "weights": {"one.init_from": "c3"}}


def test_flatten():
    assert workdir.flatten({"a": {"b": 1}, "c": [2]}) == {"a.b": 1, "c": [2]}


def test_the_first_key_that_differs_is_named(tmp_path):
    with workdir.claimed(tmp_path, CONFIG, FACTS):
        pass
    workdir.check(tmp_path, CONFIG)
    with pytest.raises(InputError, match=r"a\.b is 1 there and 2 here"):
        workdir.check(tmp_path, {**CONFIG, "a": {"b": 2}})


def test_devices_and_workers_may_change(tmp_path):
    with workdir.claimed(tmp_path, CONFIG, FACTS):
        pass
    other = {**CONFIG, "num_devices": 2, "data": {**CONFIG["data"], "workers": 4}}
    with workdir.claimed(tmp_path, other, FACTS):
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
with workdir.claimed(Path(sys.argv[1]), {}, facts):
    print("held", flush=True)
    sys.stdin.read()
"""


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
            pytest.raises(InputError, match=f"trains in it, process {process.pid} on"),
            workdir.claimed(tmp_path, {}, FACTS),
        ):
            pass
        process.kill()
    with workdir.claimed(tmp_path, {}, FACTS):
        pass


def test_other_data_or_weights_than_at_the_beginning_are_refused(tmp_path):
    with workdir.claimed(tmp_path, CONFIG, FACTS):
        pass
    before = (tmp_path / "manifest.json").read_text()
    for kind, name in (("data", "target"), ("weights", "one.init_from")):
        changed = {**FACTS, kind: {**FACTS[kind], name: "new"}}
        with (
            pytest.raises(InputError, match=rf"other {kind}: {name} was .* new"),
            workdir.claimed(tmp_path, CONFIG, changed),
        ):
            pass
    assert (tmp_path / "manifest.json").read_text() == before
    with workdir.claimed(tmp_path, CONFIG, FACTS):
        pass


def test_weights_that_are_no_longer_looked_at_stay_in_the_manifest(tmp_path):
    for weights in (FACTS["weights"], {}, {"one.pseudo_labeler": "d4"}):
        with workdir.claimed(tmp_path, CONFIG, {**FACTS, "weights": weights}):
            pass
    known = workdir.manifest(tmp_path)["weights"]
    assert known == {"one.init_from": "c3", "one.pseudo_labeler": "d4"}


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_checkpoints_of_nobody_knows_which_run_are_refused(name, tmp_path):
    with workdir.claimed(tmp_path, CONFIG, FACTS):
        (tmp_path / "one" / "checkpoints").mkdir(parents=True)
    workdir.check(tmp_path, CONFIG)
    (tmp_path / name).unlink()
    message = f"expected {name} beside one/checkpoints, found none; restore it, or"
    with pytest.raises(InputError, match=message):
        workdir.check(tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": "7"}, "'7' for 'seed'"),
        ({"stages": []}, r"\[\] for 'stages'"),
        ({"stages": [[]]}, r"\[\[\]\] for 'stages'"),
        ({"stages": ["two"]}, "no 'two'"),
        ({"one": 5}, "5 for 'one'"),
        ({"one": {"method": {}}}, r"no 'one\.method\.name'"),
        ({"data": {"preprocessing": "caffe"}}, r"no 'data\.source'"),
    ],
)
def test_a_config_without_what_readers_need_is_named(changed, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **changed}))
    with pytest.raises(InputError, match=rf"of a run, found: {message}; restore it"):
        workdir.read_config(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": 5}, "5 for 'data'"),
        ({"data": {}}, r"no 'data\.source'"),
        ({"weights": None}, "None for 'weights'"),
        ({"command": 1}, "1 for 'command'"),
    ],
)
def test_a_manifest_without_what_readers_need_is_named(changed, message, tmp_path):
    with workdir.claimed(tmp_path, CONFIG, FACTS):
        pass
    path, whole = tmp_path / "manifest.json", workdir.manifest(tmp_path)
    path.write_text(json.dumps({**whole, **changed}))
    with (
        pytest.raises(InputError, match=rf"manifest of a run, found: {message}; rest"),
        workdir.claimed(tmp_path, CONFIG, FACTS),
    ):
        pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(workdir.fcntl, "flock", refuse)
    with (
        pytest.raises(InputError, match=r"cannot be locked: .*No locks available"),
        workdir.claimed(tmp_path, {}, FACTS),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for call in (
        lambda: workdir.check(tmp_path / "file", {}),
        lambda: workdir.claimed(tmp_path / "file" / "run", {}, {}).__enter__(),
    ):
        with pytest.raises(InputError, match="cannot be written"):
            call()
