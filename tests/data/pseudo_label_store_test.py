"""Pseudo-labels instead of a source's own labels, written atomically."""

import cv2
import numpy as np
import pytest

from lsr_jax import errors
from lsr_jax.data import pipeline, pseudo_label_store

SIZE = (4, 6)


class Target:
    """Five images; reading one of their labels fails the test."""

    on_bad_example = "skip"

    def __len__(self):
        return 5

    def __getitem__(self, index):
        def label():
            raise AssertionError("a label of the target was read")

        image = np.full((*SIZE, 3), index, np.uint8)
        lut = np.arange(256, dtype=np.uint8)
        return {"image": image, "label": label, "lut": lut, "id": f"t/{index}"}


def label_of(index):
    label = np.full(SIZE, index, np.uint8)
    label[0] = 255
    return label


@pytest.fixture
def folder(tmp_path):
    with pseudo_label_store.writing(tmp_path / "run" / "pseudo_labels") as unfinished:
        for index in (0, 1, 2, 4):
            pseudo_label_store.write(unfinished, index, label_of(index))
    return tmp_path / "run" / "pseudo_labels"


def test_the_files_are_grey_pngs_of_the_labels(folder):
    assert {path.name for path in folder.iterdir()} == {
        pseudo_label_store.HASHES,
        *(f"{index:06d}.png" for index in (0, 1, 2, 4)),
    }
    found = cv2.imread(str(folder / "000004.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found, label_of(4))


def test_a_record_has_the_file_for_its_label(folder):
    source = pseudo_label_store.Relabelled(Target(), folder)
    assert len(source) == 5
    assert source.on_bad_example == "skip"
    record = source[2]
    assert set(record) == {"image", "id", "label"}
    assert record["label"]() == (folder / "000002.png").read_bytes()


def test_training_skips_records_without_a_pseudo_label(folder, capfd):
    source = pseudo_label_store.Relabelled(Target(), folder)
    with pipeline.train_batches(
        None, source, batch_size=5, seed=0, target_labels=True
    ) as batches:
        batch, ids = next(batches)
    numbers = batch.target.image[:, 1, 1, 0]
    np.testing.assert_array_equal(batch.target.label[:, 1, 1], numbers)
    np.testing.assert_array_equal(batch.target.label[:, 0], 255)
    # The fifth stands in for the fourth, which has no file.
    assert sorted(ids["target"]) == ["t/0", "t/1", "t/2", "t/4", "t/4"]
    assert "the pseudo-label of t/3 is missing" in capfd.readouterr().err


def test_a_missing_file_is_one_line(folder):
    with pytest.raises(errors.InputError, match=r"000003.png.*of t/3.*remove") as found:
        pseudo_label_store.Relabelled(Target(), folder)[3]
    assert "\n" not in str(found.value)


def test_a_file_that_was_removed_is_one_line(folder):
    record = pseudo_label_store.Relabelled(Target(), folder)[2]
    (folder / "000002.png").unlink()
    with pytest.raises(errors.InputError, match=r"000002.png: expected a file"):
        record["label"]()


@pytest.mark.parametrize("damage", ["bit", "other", "cut"])
def test_a_file_that_has_changed_is_one_line(folder, damage):
    path = folder / "000002.png"
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    other = (folder / "000001.png").read_bytes()
    path.write_bytes({"bit": flipped, "other": other, "cut": content[:-1]}[damage])
    label = pseudo_label_store.Relabelled(Target(), folder)[2]["label"]
    with pytest.raises(
        errors.InputError, match=r"000002.png: .*has changed since it was written; re"
    ):
        label()


@pytest.mark.parametrize("content", [None, "[]", "{"])
def test_labels_without_their_hashes_are_not_read(folder, content):
    hashes = folder / pseudo_label_store.HASHES
    hashes.unlink()
    if content is not None:
        hashes.write_text(content)
    with pytest.raises(errors.InputError, match=r"sha256.json: expected .*; remove"):
        pseudo_label_store.Relabelled(Target(), folder)


def write_a_part(folder):
    with pseudo_label_store.writing(folder) as unfinished:
        pseudo_label_store.write(unfinished, 0, label_of(9))
        raise KeyboardInterrupt


def test_interrupted_writing_leaves_the_old_folder(tmp_path, folder):
    new = tmp_path / "new"
    for place in (new, folder):
        with pytest.raises(KeyboardInterrupt):
            write_a_part(place)
    assert not new.exists()
    found = cv2.imread(str(folder / "000000.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found, label_of(0))

    with pseudo_label_store.writing(folder) as unfinished:
        assert not any(unfinished.iterdir())
        pseudo_label_store.write(unfinished, 7, label_of(7))
    names = {path.name for path in folder.iterdir()}
    assert names == {"000007.png", pseudo_label_store.HASHES}
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}
