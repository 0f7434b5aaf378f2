"""The folder of a run: one config, one process."""

import subprocess
import sys

import pytest

from lsr_jax.errors import InputError
from lsr_jax.training import workdir

CONFIG = {"a": {"b": 1}, "num_devices": None, "data": {"workers": 0}}


def test_flatten():
    assert workdir.flatten({"a": {"b": 1}, "c": [2]}) == {"a.b": 1, "c": [2]}


def test_the_first_key_that_differs_is_named(tmp_path):
    with workdir.claimed(tmp_path, CONFIG, {}):
        pass
    workdir.check(tmp_path, CONFIG)
    with pytest.raises(InputError, match=r"a\.b is 1 there and 2 here"):
        workdir.check(tmp_path, {**CONFIG, "a": {"b": 2}})


def test_devices_and_workers_may_change(tmp_path):
    with workdir.claimed(tmp_path, CONFIG, {}):
        pass
    other = {**CONFIG, "num_devices": 2, "data": {"workers": 4}}
    with workdir.claimed(tmp_path, other, {}):
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
with workdir.claimed(Path(sys.argv[1]), {}, {}):
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
            workdir.claimed(tmp_path, {}, {}),
        ):
            pass
        process.kill()
    with workdir.claimed(tmp_path, {}, {}):
        pass


def test_other_data_or_weights_than_at_the_beginning_are_refused(tmp_path):
    facts = {"data": {"source": "a1", "target": "b2"}, "weights": {"source": "c3"}}
    with workdir.claimed(tmp_path, CONFIG, facts):
        pass
    before = (tmp_path / "manifest.json").read_text()
    for kind, name in (("data", "target"), ("weights", "source")):
        changed = {**facts, kind: {**facts[kind], name: "new"}}
        with (
            pytest.raises(
                InputError, match=rf"other {kind}: {kind}\.{name} was .* new"
            ),
            workdir.claimed(tmp_path, CONFIG, changed),
        ):
            pass
    assert (tmp_path / "manifest.json").read_text() == before
    with workdir.claimed(tmp_path, CONFIG, facts):
        pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(workdir.fcntl, "flock", refuse)
    with (
        pytest.raises(InputError, match=r"cannot be locked: .*No locks available"),
        workdir.claimed(tmp_path, {}, {}),
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
