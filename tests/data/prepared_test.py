"""Prepared folders: what is written, and damage that must not pass unnoticed."""

import hashlib
import itertools
import json
import pathlib
import pickle
import tempfile

import numpy as np
import pytest

from lsr_jax.data import image_io, pipeline, prepare, prepared, sources
from lsr_jax.data.label_spaces import SPACES
from lsr_jax.data.layouts import LAYOUTS
from lsr_jax.errors import InputError

LAYOUT = LAYOUTS["gta5"]
OPTIONS = sources.ReadOptions(SPACES["cityscapes"], None, "stop")


@pytest.fixture
def folder(downloads, tmp_path):
    root = downloads / "gta5"
    return prepare.prepare(LAYOUT, root, size=(32, 64), out=tmp_path, progress=False)


def read(folder, split="train"):
    data = sources.Prepared(LAYOUT, folder, OPTIONS)
    return [record["id"] for record in data.open(split)]


CHANGES = {
    "missing": None,
    "one line more": lambda lines: [*lines, "images/00009.png"],
    "one line less": lambda lines: lines[:-1],
    "another order": lambda lines: lines[::-1],
    "another name": lambda lines: ["images/00000.png", *lines[1:]],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("older", [False, True])
def test_a_changed_list_is_one_line(change, older, folder):
    path = folder / prepared.NAMES.format("train")
    names = path.read_text().splitlines()
    if older:  # a folder that was prepared before lists had a hash
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["splits"]["train"]["names_sha256"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
    assert read(folder) == names
    path.unlink()
    if CHANGES[change]:
        path.write_text("".join(f"{name}\n" for name in CHANGES[change](names)))
    for split in ("train", "val_lsr"):
        if older and (change, split) == ("another name", "val_lsr"):
            continue  # it is not among those that are read
        with pytest.raises(InputError, match=f"^{folder}: .*prepare gta5$") as caught:
            read(folder, split)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["dataset", "ids", "size", "splits"])
@pytest.mark.parametrize("value", [3, None])
def test_a_changed_manifest_is_one_line(key, value, folder):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest.pop(key)
    path.write_text(json.dumps(manifest if value is None else {**manifest, key: value}))
    with pytest.raises(InputError, match=f"^{folder}.*: expected .* found") as caught:
        read(folder)
    assert "\n" not in str(caught.value)


COUNT, SIZE = 6, (8, 12)


def records():
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        label = np.full(SIZE, index, np.uint8)
        yield prepared.Record(
            id=f"r{index}",
            image=image_io.png(image),
            label=image_io.png(label),
            sha256=prepared.digest(image, label),
            pixels=np.bincount(label.ravel(), minlength=256),
        )


def write(target):
    prepared.write_once(
        target,
        name="set",
        splits={"train": records},
        size=SIZE,
        manifest={"dataset": "set"},
        facts=lambda split, pixels: {"pixels": pixels.tolist()},
        texts={"notes": "text"},
    )
    return target


@pytest.fixture
def stored(tmp_path):
    return write(tmp_path / "set" / "1.0.0")


def opened(stored):
    manifest = prepared.read_manifest(stored, command="make")
    counts = {name: facts["count"] for name, facts in manifest["splits"].items()}
    return prepared.open_split(stored, "train", command="make", counts=counts)


def damage_shard(stored):
    """Flips a bit of every 64 bytes of the records' content."""
    (shard,) = stored.glob("*.array_record*")
    data = np.frombuffer(shard.read_bytes(), np.uint8).copy()
    used = np.flatnonzero(data)
    data[used[0] + 200 : used[used < 60_000][-1] : 64] ^= 1
    shard.write_bytes(data.tobytes())


def test_records_are_read_as_written_without_temporary_files(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "own"))
    source = opened(write(tmp_path / "set" / "1.0.0"))
    for same in (source, pickle.loads(pickle.dumps(source))):
        found = [(record["id"].decode(), record["image"]) for record in same]
        assert found == [(record.id, record.image) for record in records()]
    with pytest.raises(IndexError):
        source[COUNT]
    assert not list((tmp_path / "own").iterdir())


MANIFESTS = ["", "{}", "[]", "[" * 100_000, '{"splits": {"a": 1}, "sha256": ""}']


@pytest.mark.parametrize("text", MANIFESTS)
def test_a_damaged_manifest_is_one_line(text, stored):
    (stored / prepared.MANIFEST).write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json: expected .*make$") as caught:
        opened(stored)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_contradicts_the_records_is_an_error(stored):
    path = stored / prepared.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["splits"]["train"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="a sha256 that is not that of its splits"):
        opened(stored)
    with pytest.raises(InputError, match="found: 6 instead of 7 in train"):
        prepared.open_split(stored, "train", command="make", counts={"train": 7})


@pytest.mark.parametrize(
    "name", ["dataset_info.json", "features.json", "*.array_record*"]
)
def test_a_missing_file_is_named_when_it_is_opened(name, stored):
    for path in stored.glob(name):
        path.unlink()
    with pytest.raises(
        InputError, match=f"^{stored}: .*; remove {stored} and run make$"
    ):
        opened(stored)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_damaged_record_ends_training_with_one_line(workers, stored):
    source = opened(stored)
    options = {"batch_size": 2, "seed": 0, "workers": workers}
    with pipeline.train_batches(source, None, **options) as batches:
        assert len(list(itertools.islice(batches, 3))) == 3
    damage_shard(stored)
    source = opened(stored)

    def train():
        with pipeline.train_batches(source, None, **options) as batches:
            next(batches)

    with pytest.raises(InputError, match=f"^{stored}: .* found: .*Riegeli") as caught:
        train()
    assert "\n" not in str(caught.value)
    assert pathlib.Path(stored).is_dir()


def test_the_manifest_counts_and_hashes_the_records(stored):
    manifest = json.loads((stored / "manifest.json").read_text())
    lines = "".join(f"{record.id} {record.sha256}\n" for record in records())
    split = hashlib.sha256(lines.encode()).hexdigest()
    pixels = [SIZE[0] * SIZE[1]] * COUNT + [0] * (256 - COUNT)
    assert manifest == {
        "dataset": "set",
        "sha256": hashlib.sha256(f"train {split}\n".encode()).hexdigest(),
        "splits": {"train": {"count": COUNT, "sha256": split, "pixels": pixels}},
    }
    assert (stored / "notes").read_text() == "text"


def test_digest_is_over_image_then_label():
    image, label = np.ones((1, 2, 3), np.uint8), np.zeros((1, 2), np.uint8)
    expected = hashlib.sha256(b"\1" * 6 + b"\0" * 2).hexdigest()
    assert prepared.digest(image, label) == expected
