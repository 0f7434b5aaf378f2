"""`prepare` and `open_split`: the records are what `draw` draws."""

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

from lsr_jax import errors, streets
from lsr_jax.data import label_spaces
from lsr_jax.data import prepared as data_prepared
from lsr_jax.streets import dataset

PRESET = dataclasses.replace(
    streets.PRESETS["tiny"],
    name="dozen",
    size=(32, 64),
    counts=streets.Counts(20, 2, 3, 2, 1),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    return dataset.prepare(PRESET, data_dir=data_dir, progress=False)


def decoded(record):
    def decode(name, flag):
        return cv2.imdecode(np.frombuffer(record[name], np.uint8), flag)

    image = decode("image", cv2.IMREAD_COLOR_RGB)
    return image, decode("label", cv2.IMREAD_UNCHANGED)


def test_records_are_what_is_drawn_and_in_order(prepared):
    for split in streets.SPLITS:
        source = dataset.open_split(prepared, split)
        assert len(source) == getattr(PRESET.counts, split)
        domain, part = split.split("_")
        for index in range(len(source)):
            record = source[index]
            image, label = decoded(record)
            assert record["id"] == f"{domain}-{part}-{index:06d}".encode()
            expected = streets.draw(index, domain=domain, split=part, preset=PRESET)
            np.testing.assert_array_equal(image, expected[0])
            np.testing.assert_array_equal(label, expected[1])


def test_a_source_can_be_sent_to_another_process(prepared):
    source = dataset.open_split(prepared, "camera_train")
    assert pickle.loads(pickle.dumps(source))[2] == source[2]


def test_manifest_agrees_with_the_records(prepared):
    manifest = dataset.read_manifest(prepared)
    whole = {}
    for split, facts in manifest["splits"].items():
        source = dataset.open_split(prepared, split)
        lines, pixels = "", np.zeros(256, int)
        for index in range(len(source)):
            image, label = decoded(source[index])
            name = source[index]["id"].decode()
            lines += f"{name} {data_prepared.digest(image, label)}\n"
            pixels += np.bincount(label.ravel(), minlength=256)
        assert facts["count"] == len(source)
        assert facts["sha256"] == hashlib.sha256(lines.encode()).hexdigest()
        assert list(facts["pixels"]) == [*label_spaces.NAMES, "ignore"]
        assert list(facts["pixels"].values()) == [*pixels[:19], pixels[255]]
        whole[split] = f"{split} {facts['sha256']}\n"
    text = "".join(whole[split] for split in sorted(whole))
    assert manifest["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert manifest["preset"]["knobs"] == dataclasses.asdict(PRESET.knobs)


def test_a_second_call_draws_nothing(prepared, monkeypatch):
    def fail(*_):
        raise AssertionError("drawn again")

    monkeypatch.setattr(dataset, "render", fail)
    before = {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    data_dir = prepared.parents[2]
    assert dataset.prepare(PRESET, data_dir=data_dir, progress=False) == prepared
    assert {path: path.stat().st_mtime_ns for path in prepared.iterdir()} == before


def test_leftovers_of_a_killed_run_are_removed(prepared, tmp_path):
    folder = tmp_path / "streets" / dataset.config_name(PRESET)
    scratch = folder / ".partial" / "streets" / "1.0.0"
    scratch.mkdir(parents=True)
    (scratch / "streets-camera_val.array_record-00000-of-00001").write_bytes(b"half")
    (folder / "1.0.0").mkdir()
    (folder / "1.0.0" / "features.json").write_text("{}")
    again = dataset.prepare(PRESET, data_dir=tmp_path, progress=False)
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "1.0.0"]
    digests = [dataset.read_manifest(path)["sha256"] for path in (prepared, again)]
    assert digests[0] == digests[1]


def test_two_processes_with_workers_prepare_the_same_once(prepared, tmp_path):
    script = f"""
import sys
from lsr_jax.streets import Counts, Knobs, Preset, dataset
if __name__ == "__main__":
    path = dataset.prepare({PRESET!r}, data_dir={str(tmp_path)!r}, workers=2,
                           progress=False)
    assert "tensorflow" not in sys.modules and "jax" not in sys.modules
    print(path, len(dataset.open_split(path, "rendered_train")))
"""
    path = tmp_path / "prepare_both.py"
    path.write_text(script)
    root = pathlib.Path(streets.__file__).parents[2]
    options = {"env": os.environ | {"PYTHONPATH": str(root)}, "text": True}
    both = [
        subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, **options)
        for _ in range(2)
    ]
    answers = {process.communicate()[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    target = tmp_path / "streets" / dataset.config_name(PRESET) / "1.0.0"
    assert answers == {f"{target} 20\n"}
    digests = [dataset.read_manifest(path)["sha256"] for path in (prepared, target)]
    assert digests[0] == digests[1]


def test_unknown_split_unprepared_folder_and_damaged_manifest(prepared, tmp_path):
    with pytest.raises(errors.InputError, match=r"camera_val.*found 'camera_vall'"):
        dataset.open_split(prepared, "camera_vall")
    with pytest.raises(errors.InputError, match="--prepare"):
        dataset.open_split(tmp_path, "camera_val")
    manifest = (prepared / dataset.MANIFEST).read_text()
    (tmp_path / dataset.MANIFEST).write_text(manifest[:-40])
    with pytest.raises(errors.InputError, match=r"manifest\.json"):
        dataset.read_manifest(tmp_path)


def test_a_cache_folder_that_is_a_file_is_one_clear_line(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(errors.InputError, match=f"{path}: cannot be written") as caught:
        dataset.prepare(PRESET, data_dir=path, progress=False)
    assert "\n" not in str(caught.value)


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LSR_JAX_DATA", str(tmp_path))
    assert dataset.default_data_dir() == tmp_path
    monkeypatch.delenv("LSR_JAX_DATA")
    assert dataset.default_data_dir().parts[-1] == "lsr_jax"


RECORDS = streets.PRESETS["tiny"]


def test_a_record_holds_the_drawn_pixels():
    record = dataset.render(RECORDS, "rendered_val", 3)
    image, label = streets.draw(3, domain="rendered", split="val", preset=RECORDS)
    assert record.id == "rendered-val-000003"
    assert record.sha256 == data_prepared.digest(image, label)
    assert record.pixels.sum() == label.size
    stored = (
        np.frombuffer(record.image, np.uint8),
        np.frombuffer(record.label, np.uint8),
    )
    np.testing.assert_array_equal(cv2.imdecode(stored[0], cv2.IMREAD_COLOR_RGB), image)
    np.testing.assert_array_equal(cv2.imdecode(stored[1], cv2.IMREAD_UNCHANGED), label)


def test_digest_sees_every_pixel():
    image, label = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8)
    other_image, other_label = image.copy(), label.copy()
    other_image[3, 5, 2] = other_label[0, 0] = 1
    pairs = (image, label), (other_image, label), (image, other_label)
    assert len({data_prepared.digest(*pair) for pair in pairs}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"size": (32, 96)},
        {"seed": 1},
        {"proportions": "ordinary"},
        {"counts": RECORDS.counts._replace(camera_test=2)},
        {"knobs": dataclasses.replace(RECORDS.knobs, photometry=0.25)},
    ],
)
def test_whatever_changes_the_data_changes_their_folder(change):
    changed = dataclasses.replace(RECORDS, **change)
    assert dataset.config_name(changed) != dataset.config_name(RECORDS)


# Image 1 of a preset and split. Where the drawing code changed on purpose, raise
# `GENERATOR_VERSION` and replace these; where only OpenCV or NumPy are new, say so in the
# commit that replaces them.
DRAWN = {
    ("tiny", "rendered", "train"): "dc520667ff14d0a8e0c627ab6f358b673cbd6d432d776e83",
    ("tiny", "camera", "train"): "341ca23fe671b601b19fd1b8a9e496d01b77d47daaad83f6",
    ("tiny", "camera", "test"): "9124a0ffebd00ed477a71a2d484ef40220ea156326cd7063",
    ("streets", "camera", "val"): "586b352f52a8f060d14b07f702cb0514fac70e3488b5f73c",
    (
        "photometric",
        "camera",
        "val",
    ): "701badb0eab54a8c3cc7a6fc42a8bcbab2de6c0fd098506c",
    ("large", "camera", "val"): "d00a6b953a204a31c3391aaeead07e8b2c7cdbf8e2fdf9cf",
}


@pytest.mark.parametrize("which", DRAWN)
def test_drawn_images_change_only_with_the_generator_version(which):
    name, domain, split = which
    pair = streets.draw(1, domain=domain, split=split, preset=streets.PRESETS[name])
    assert dataset.GENERATOR_VERSION == 1
    assert data_prepared.digest(*pair).startswith(DRAWN[which])


def test_the_folder_depends_on_preset_and_generator_version_only(monkeypatch):
    assert dataset.config_name(RECORDS) == "tiny-64x128-aaff77ba"
    monkeypatch.setattr(dataset, "GENERATOR_VERSION", dataset.GENERATOR_VERSION + 1)
    assert dataset.config_name(RECORDS) != "tiny-64x128-aaff77ba"
