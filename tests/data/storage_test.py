"""Folders of records that somebody damaged: one line when they are opened or read."""

import itertools
import json
import pathlib
import pickle
import tempfile

import numpy as np
import pytest

from lsr_jax.data import encoded, pipeline, storage
from lsr_jax.errors import InputError

COUNT, SIZE = 6, (8, 12)


def records():
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        label = np.full(SIZE, index, np.uint8)
        yield encoded.Record(
            id=f"r{index}",
            image=encoded.png(image),
            label=encoded.png(label),
            sha256=encoded.digest(image, label),
            pixels=np.bincount(label.ravel(), minlength=256),
        )


@pytest.fixture
def folder(tmp_path):
    tally, target = encoded.Tally(), tmp_path / "set" / "1.0.0"

    def manifest():
        splits = {"train": {"count": tally.count, "sha256": tally.sha256}}
        return {"sha256": encoded.combined_sha256(splits), "splits": splits}

    storage.write_once(
        target,
        name="set",
        splits={"train": lambda: tally.watch(records())},
        size=SIZE,
        manifest=manifest,
    )
    return target


def opened(folder):
    manifest = storage.read_manifest(folder, command="make")
    counts = {name: facts["count"] for name, facts in manifest["splits"].items()}
    return storage.open_split(folder, "train", command="make", counts=counts)


def damage_shard(folder):
    """Flips a bit of every 64 bytes of the records' content."""
    (shard,) = folder.glob("*.array_record*")
    data = np.frombuffer(shard.read_bytes(), np.uint8).copy()
    used = np.flatnonzero(data)
    data[used[0] + 200 : used[used < 60_000][-1] : 64] ^= 1
    shard.write_bytes(data.tobytes())


def test_what_was_written_is_read_in_order_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "own"))
    tally = encoded.Tally()
    target = tmp_path / "set" / "1.0.0"
    storage.write_once(
        target,
        name="set",
        splits={"train": lambda: tally.watch(records())},
        size=SIZE,
        manifest=lambda: {},
    )
    source = storage.open_split(target, "train", command="m", counts={"train": COUNT})
    for same in (source, pickle.loads(pickle.dumps(source))):
        found = [(record["id"].decode(), record["image"]) for record in same]
        assert found == [(record.id, record.image) for record in records()]
    with pytest.raises(IndexError):
        source[COUNT]
    assert not list((tmp_path / "own").iterdir())


MANIFESTS = ["", "{}", "[]", "[" * 100_000, '{"splits": {"a": 1}, "sha256": ""}']


@pytest.mark.parametrize("text", MANIFESTS)
def test_a_damaged_manifest_is_one_line(text, folder):
    (folder / storage.MANIFEST).write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json: expected .*make$") as caught:
        opened(folder)
    assert "\n" not in str(caught.value)


def test_a_manifest_keeps_what_it_said(folder):
    path = folder / storage.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["splits"]["train"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="a sha256 that is not that of its splits"):
        opened(folder)
    with pytest.raises(InputError, match="found: None for 'preset'"):
        storage.read_manifest(folder, command="make", facts={"preset": dict})
    with pytest.raises(InputError, match="found: 6 instead of 7 in train"):
        storage.open_split(folder, "train", command="make", counts={"train": 7})


@pytest.mark.parametrize(
    "name", ["dataset_info.json", "features.json", "*.array_record*"]
)
def test_a_missing_file_is_named_when_it_is_opened(name, folder):
    for path in folder.glob(name):
        path.unlink()
    with pytest.raises(
        InputError, match=f"^{folder}: .*; remove {folder} and run make$"
    ):
        opened(folder)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_damaged_record_ends_training_with_one_line(workers, folder):
    source = opened(folder)
    options = {"batch_size": 2, "seed": 0, "workers": workers}
    with pipeline.train_batches(source, None, **options) as batches:
        assert len(list(itertools.islice(batches, 3))) == 3
    damage_shard(folder)
    source = opened(folder)

    def train():
        with pipeline.train_batches(source, None, **options) as batches:
            next(batches)

    with pytest.raises(InputError, match=f"^{folder}: .* found: .*Riegeli") as caught:
        train()
    assert "\n" not in str(caught.value)
    assert pathlib.Path(folder).is_dir()
