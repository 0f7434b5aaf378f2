"""`prepare`, `open_split`: the data are what `draw` draws, whatever came before."""

import dataclasses
import hashlib
import os
import pathlib
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest

from lsr_jax import errors
from lsr_jax.data import labels, streets
from lsr_jax.data.streets import builder, presets, records

PRESET = dataclasses.replace(
    streets.PRESETS["tiny"],
    name="dozen",
    size=(32, 64),
    counts=streets.Counts(20, 2, 3, 2, 1),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    return builder.prepare(PRESET, data_dir=data_dir, progress=False)


def decoded(record):
    def decode(name, flag):
        return cv2.imdecode(np.frombuffer(record[name], np.uint8), flag)

    image = decode("image", cv2.IMREAD_COLOR_RGB)
    return image, decode("label", cv2.IMREAD_UNCHANGED)


def test_records_are_what_is_drawn_and_in_order(prepared):
    for split in streets.SPLITS:
        source = builder.open_split(prepared, split)
        assert len(source) == getattr(PRESET.counts, split)
        domain, part = presets.domain_and_part(split)
        for index in range(len(source)):
            record = source[index]
            image, label = decoded(record)
            assert record["id"] == f"{domain}-{part}-{index:06d}".encode()
            expected = streets.draw(index, domain=domain, split=part, preset=PRESET)
            np.testing.assert_array_equal(image, expected[0])
            np.testing.assert_array_equal(label, expected[1])


def test_a_source_can_be_sent_to_another_process(prepared):
    source = builder.open_split(prepared, "camera_train")
    assert pickle.loads(pickle.dumps(source))[2] == source[2]


def test_manifest_agrees_with_the_records(prepared):
    manifest = builder.read_manifest(prepared)
    whole = {}
    for split, facts in manifest["splits"].items():
        source = builder.open_split(prepared, split)
        lines, pixels = "", np.zeros(256, int)
        for index in range(len(source)):
            image, label = decoded(source[index])
            name = source[index]["id"].decode()
            lines += f"{name} {records.digest(image, label)}\n"
            pixels += np.bincount(label.ravel(), minlength=256)
        assert facts["count"] == len(source)
        assert facts["sha256"] == hashlib.sha256(lines.encode()).hexdigest()
        assert list(facts["pixels"]) == [*labels.NAMES, "ignore"]
        assert list(facts["pixels"].values()) == [*pixels[:19], pixels[255]]
        whole[split] = f"{split} {facts['sha256']}\n"
    text = "".join(whole[split] for split in sorted(whole))
    assert manifest["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert manifest["preset"]["knobs"] == dataclasses.asdict(PRESET.knobs)


def test_a_second_call_draws_nothing(prepared, monkeypatch):
    def fail(*_):
        raise AssertionError("drawn again")

    monkeypatch.setattr(records, "render", fail)
    before = {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    data_dir = prepared.parents[2]
    assert builder.prepare(PRESET, data_dir=data_dir, progress=False) == prepared
    assert {path: path.stat().st_mtime_ns for path in prepared.iterdir()} == before


def test_leftovers_of_a_killed_run_are_removed(prepared, tmp_path):
    folder = tmp_path / "streets" / records.config_name(PRESET)
    scratch = folder / ".partial" / "streets" / "1.0.0"
    scratch.mkdir(parents=True)
    (scratch / "streets-camera_val.array_record-00000-of-00001").write_bytes(b"half")
    (folder / "1.0.0").mkdir()
    (folder / "1.0.0" / "features.json").write_text("{}")
    again = builder.prepare(PRESET, data_dir=tmp_path, progress=False)
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "1.0.0"]
    digests = [builder.read_manifest(path)["sha256"] for path in (prepared, again)]
    assert digests[0] == digests[1]


def test_two_processes_with_workers_prepare_the_same_once(prepared, tmp_path):
    script = f"""
import sys
from lsr_jax.data.streets import Counts, Knobs, Preset, builder
if __name__ == "__main__":
    path = builder.prepare({PRESET!r}, data_dir={str(tmp_path)!r}, workers=2,
                           progress=False)
    assert "tensorflow" not in sys.modules and "jax" not in sys.modules
    print(path, len(builder.open_split(path, "rendered_train")))
"""
    path = tmp_path / "prepare_both.py"
    path.write_text(script)
    root = pathlib.Path(streets.__file__).parents[3]
    options = {"env": os.environ | {"PYTHONPATH": str(root)}, "text": True}
    both = [
        subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, **options)
        for _ in range(2)
    ]
    answers = {process.communicate()[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    target = tmp_path / "streets" / records.config_name(PRESET) / "1.0.0"
    assert answers == {f"{target} 20\n"}
    digests = [builder.read_manifest(path)["sha256"] for path in (prepared, target)]
    assert digests[0] == digests[1]


def test_unknown_split_unprepared_folder_and_damaged_manifest(prepared, tmp_path):
    with pytest.raises(errors.InputError, match=r"camera_val.*found 'camera_vall'"):
        builder.open_split(prepared, "camera_vall")
    with pytest.raises(errors.InputError, match="--prepare"):
        builder.open_split(tmp_path, "camera_val")
    manifest = (prepared / builder.MANIFEST).read_text()
    (tmp_path / builder.MANIFEST).write_text(manifest[:-40])
    with pytest.raises(errors.InputError, match=r"manifest\.json"):
        builder.read_manifest(tmp_path)


def test_a_cache_folder_that_is_a_file_is_one_clear_line(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(errors.InputError, match=f"{path}: expected a folder") as caught:
        builder.prepare(PRESET, data_dir=path, progress=False)
    assert "\n" not in str(caught.value)


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LSR_JAX_DATA", str(tmp_path))
    assert builder.default_data_dir() == tmp_path
    monkeypatch.delenv("LSR_JAX_DATA")
    assert builder.default_data_dir().parts[-1] == "lsr_jax"
