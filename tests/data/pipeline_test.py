import itertools
import multiprocessing
import os
import pathlib
import struct
import subprocess
import sys
import time
import zlib
from multiprocessing import shared_memory

import cv2
import numpy as np
import pytest

from lsr_jax import errors
from lsr_jax.data import image_io, pipeline

HEIGHT, WIDTH = 4, 6


class Records:
    """Pictures that hold their own number; at module level, as workers unpickle it."""

    def __init__(self, name, count, png=False, **changes):
        self.name = name
        self.count = count
        self.png = png
        self.changes = changes

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = np.full((HEIGHT, WIDTH, 3), (index, 100, 200), np.uint8)
        image[0, 0] = 255
        label = np.full((HEIGHT, WIDTH), index, np.uint8)
        if self.png:
            image, label = _png(image[..., ::-1]), _png(label)
        record = {"image": image, "label": label, "id": f"{self.name}/{index}"}
        change = self.changes.get(f"at_{index}", {})
        return {**record, **change}


class Unlabelled(Records):
    def __getitem__(self, index):
        record = super().__getitem__(index)
        del record["label"]
        return record


def _png(array):
    return cv2.imencode(".png", array)[1].tobytes()


def _promise(width, height, kind=2, depth=8):
    """A PNG that is no more than its header."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunk += struct.pack(">I", zlib.crc32(chunk))
    return image_io.PNG + struct.pack(">I", 13) + chunk + image_io.END


SOURCE, TARGET = Records("source", 7), Records("target", 5)
OPTIONS = {"batch_size": 4, "seed": 3}


def take(count, source=SOURCE, target=TARGET, **options):
    with pipeline.train_batches(source, target, **{**OPTIONS, **options}) as batches:
        return list(itertools.islice(batches, count))


def ids(taken, domain):
    return [one for _, names in taken for one in names[domain]]


def same(left, right):
    assert len(left) == len(right)
    for (a, a_ids), (b, b_ids) in zip(left, right, strict=True):
        assert a_ids == b_ids
        np.testing.assert_array_equal(a.source.image, b.source.image)
        np.testing.assert_array_equal(a.source.label, b.source.label)
        np.testing.assert_array_equal(a.target.image, b.target.image)
        assert a.target.label is None
        assert b.target.label is None


def test_a_batch_is_uint8_and_matches_its_ids():
    for batch, names in take(3, target_labels=True):
        for images, domain in ((batch.source, "source"), (batch.target, "target")):
            assert images.image.shape == (4, HEIGHT, WIDTH, 3)
            assert images.label.shape == (4, HEIGHT, WIDTH)
            assert images.image.dtype == images.label.dtype == np.uint8
            numbers = [int(name.removeprefix(f"{domain}/")) for name in names[domain]]
            np.testing.assert_array_equal(images.image[:, 1, 1, 0], numbers)
            np.testing.assert_array_equal(images.label[:, 1, 1], numbers)


def test_png_bytes_are_the_arrays_in_rgb():
    same(take(2), take(2, Records("source", 7, True), Records("target", 5, True)))


def test_every_epoch_holds_every_record_once_in_an_order_of_its_own():
    taken = take(14)
    epochs = np.reshape(ids(taken, "source"), (8, 7))
    for epoch in epochs:
        assert len(set(epoch)) == 7
    assert len({tuple(epoch) for epoch in epochs}) > 6
    targets = np.reshape(ids(taken, "target")[:55], (11, 5))
    assert all(len(set(epoch)) == 5 for epoch in targets)


def test_domains_of_one_length_are_not_paired():
    taken = take(10, Records("source", 7), Records("target", 7))
    source = [name.removeprefix("source/") for name in ids(taken, "source")]
    target = [name.removeprefix("target/") for name in ids(taken, "target")]
    assert source != target


def test_seeds_differ():
    assert ids(take(4), "source") != ids(take(4, seed=4), "source")


def test_a_start_at_a_step_continues_the_sequence():
    same(take(9)[6:], take(3, start_step=6))
    assert len(take(1, start_step=10_000_000)) == 1


def test_a_domain_keeps_its_order_without_the_other():
    both = take(5)
    source, target = take(5, target=None), take(5, source=None)
    assert ids(source, "source") == ids(both, "source")
    assert ids(target, "target") == ids(both, "target")
    assert source[0][0].target is None
    assert target[0][0].source is None
    assert set(source[0][1]) == {"source"}


def test_the_batches_of_two_hosts_are_the_batch_of_one():
    whole = take(4)
    hosts = [take(4, process_index=i, process_count=2) for i in range(2)]
    for (batch, names), first, second in zip(whole, *hosts, strict=True):
        assert names["source"] == first[1]["source"] + second[1]["source"]
        assert names["target"] == first[1]["target"] + second[1]["target"]
        image = np.concatenate([first[0].source.image, second[0].source.image])
        np.testing.assert_array_equal(batch.source.image, image)
    same(take(4, start_step=2)[:2], whole[2:])


def test_unused_labels_are_not_decoded():
    broken = {f"at_{i}": {"label": b"no png"} for i in range(7)}
    taken = take(2, Records("source", 7, **broken), source_labels=False)
    assert all(batch.source.label is None for batch, _ in taken)
    assert all(batch.target.label is None for batch, _ in taken)
    with pytest.raises(errors.InputError, match=r"source/\d: label"):
        take(1, Records("source", 7, **broken))


def test_evaluation_reads_all_in_order_and_marks_padding():
    with pipeline.eval_batches(SOURCE, batch_size=3) as batches:
        taken = list(batches)
    assert len(taken) == 3
    images, valid, names = zip(*taken, strict=True)
    numbers = np.concatenate([each.image[:, 1, 1, 0] for each in images])
    np.testing.assert_array_equal(numbers, [0, 1, 2, 3, 4, 5, 6, 6, 6])
    np.testing.assert_array_equal(
        np.concatenate([each.label[:, 1, 1] for each in images]), numbers
    )
    np.testing.assert_array_equal(np.concatenate(valid), [True] * 7 + [False] * 2)
    assert names[-1] == ("source/6", "source/6", "source/6")
    assert valid[0].dtype == bool


def test_evaluation_without_labels():
    with pipeline.eval_batches(Unlabelled("city", 2), batch_size=2) as batches:
        ((images, valid, names),) = batches
    assert images.label is None
    assert valid.all()
    assert names == ("city/0", "city/1")


def test_ordered_batches_with_and_without_labels():
    broken = {f"at_{i}": {"label": b"no png"} for i in range(5)}
    options = {"batch_size": 2, "labelled": False}
    with pipeline.ordered_batches(Records("t", 5, **broken), **options) as batches:
        taken = list(batches)
    numbers = np.concatenate([images.image[:, 1, 1, 0] for images, _, _ in taken])
    np.testing.assert_array_equal(numbers, [0, 1, 2, 3, 4, 4])
    assert [list(valid) for _, valid, _ in taken] == [[True] * 2] * 2 + [[True, False]]
    assert all(images.label is None for images, _, _ in taken)
    options["labelled"] = True
    with pipeline.ordered_batches(Records("t", 5), **options) as batches:
        for images, _, _ in batches:
            np.testing.assert_array_equal(
                images.label[:, 1, 1], images.image[:, 1, 1, 0]
            )


@pytest.mark.parametrize("labelled", [True, False])
def test_a_bad_training_record_is_skipped_in_its_place_or_ends_it(labelled, capfd):
    bad = Records("bad", 5, at_2={"image": b"no png"}, at_4={"label": OTHER[..., 0]})
    options = {"batch_size": 3, "labelled": labelled}
    with (
        pytest.raises(errors.InputError, match=r"^bad/2: image"),
        pipeline.ordered_batches(bad, **options) as batches,
    ):
        list(batches)
    bad.on_bad_example = "skip"
    with pipeline.ordered_batches(bad, **options) as batches:
        (first, valid, _), (second, last_valid, _) = batches
    assert list(valid) == [True, True, False]
    # The last place fills up; before it a label of another size.
    assert list(last_valid) == [True, not labelled, False]
    numbers = np.concatenate([first.image, second.image])[:, 1, 1, 0]
    np.testing.assert_array_equal(numbers[[0, 1, 3]], [0, 1, 3])
    assert numbers[2] == 3
    assert "in this process): bad/2: image" in capfd.readouterr().err


OTHER = np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8)
BAD = {
    "grey image": ({"image": np.zeros((4, 6), np.uint8)}, r"RGB image.*\(4, 6\)"),
    "truncated image": (
        {"image": _png(OTHER)[:-20]},
        "image: .* found a PNG without end",
    ),
    "image of ten billion pixels": (
        {"image": _promise(100_000, 100_000)},
        "at most 67108864 pixels",
    ),
    "label of ten billion pixels": (
        {"label": _promise(100_000, 100_000, 0)},
        "at most 67108864 pixels",
    ),
    "label of one bit": ({"label": _promise(6, 4, 0, depth=1)}, "found 1-bit grey"),
    "empty image": ({"image": b""}, "found 0 bytes"),
    "label in colour": (
        {"label": _png(OTHER + np.uint8([1, 2, 3]))},
        "label: expected ids, found colours",
    ),
    "label of 16 bits": ({"label": np.zeros((4, 6), np.uint16)}, "found uint16"),
    "label of another size": ({"label": OTHER[..., 0]}, "4x6 .* found 4x7"),
    "no label": ({"label": None}, "has no label"),
    "image of another size": (
        {"image": OTHER, "label": OTHER[..., 0]},
        "image of 4x6 .* found 4x7",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_named(name):
    change, message = BAD[name]
    bad = Records("bad", 5, at_2=change)
    with pytest.raises(errors.InputError, match=f"^bad/2: .*{message}") as caught:
        take(2, source=bad)
    assert "\n" not in str(caught.value)
    with (
        pytest.raises(errors.InputError, match=f"^bad/2: .*{message}"),
        pipeline.eval_batches(bad, batch_size=5) as batches,
    ):
        next(batches)


def test_input_without_batches_is_an_error():
    with pytest.raises(errors.InputError, match="source set has no records"):
        take(1, source=Records("empty", 0))
    with pytest.raises(errors.InputError, match="evaluation set has no records"):
        pipeline.eval_batches(Records("empty", 0), batch_size=1)
    with pytest.raises(errors.InputError, match=r"multiple of 3 .* found 4"):
        take(1, process_count=3)
    with pytest.raises(errors.InputError, match="found 0"):
        take(1, batch_size=0)
    with pytest.raises(errors.InputError, match="neither a source"):
        take(1, source=None, target=None)


class Named(Records):
    """Shared memory of a worker that reads it begins with ``prefix``.

    What else is in /dev/shm belongs to other runs on the machine. A name has no more than
    14 characters.
    """

    def __init__(self, prefix, *arguments):
        super().__init__(*arguments)
        self.prefix = prefix

    def __getitem__(self, index):
        if multiprocessing.parent_process() is not None:
            shared_memory._SHM_NAME_PREFIX = f"/{self.prefix}"
        return super().__getitem__(index)


@pytest.mark.slow
def test_workers_give_the_same_batches_and_leave_nothing_behind():
    alone = take(5)
    prefix = f"t{os.getpid()}_"
    source, target = (Named(prefix, x.name, x.count) for x in (SOURCE, TARGET))
    with pipeline.train_batches(source, target, workers=2, **OPTIONS) as it:
        taken = list(itertools.islice(it, 3))
        assert list(pathlib.Path("/dev/shm").glob(f"{prefix}*"))
    # Batches outlive the memory they came in, and nothing of it remains.
    same(taken, alone[:3])
    assert not multiprocessing.active_children()
    deadline = time.monotonic() + 10  # Grain deletes in a thread
    while left := list(pathlib.Path("/dev/shm").glob(f"{prefix}*")):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    same(alone[3:], take(2, start_step=3, workers=1))
    bad = Records("bad", 5, at_2={"label": OTHER[..., 0]})
    with pytest.raises(errors.InputError, match=r"^bad/2: .* found 4x7") as caught:
        take(3, source=bad, workers=1)
    assert "\n" not in str(caught.value)


ROOT = pathlib.Path(__file__).parents[2]
# Two workers start; all get both signals that end a run, and the parent takes them for
# itself. In the end one worker is killed.
SCRIPT = """
import itertools, multiprocessing, os, signal, threading, time
import grain
from lsr_jax.data import pipeline
from lsr_jax.errors import TrainingError

def strike():
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.002)
    for number in SIGNALS:
        os.killpg(0, number)

SIGNALS = (signal.SIGTERM, signal.SIGINT)

def main():
    for number in SIGNALS:
        signal.signal(number, lambda number, _: print(signal.Signals(number).name))
    dataset = grain.MapDataset.range(1000).batch(2)
    threading.Thread(target=strike).start()
    with pipeline.Batches(dataset, list, workers=2) as read:
        print(*itertools.chain(*itertools.islice(read, 3)))
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        try:
            list(read)
        except TrainingError as error:
            print(error)
    print(multiprocessing.active_children())

if __name__ == "__main__":
    main()
"""


def test_workers_outlive_signals_to_all_and_their_death_is_one_line(tmp_path):
    script = tmp_path / "read.py"
    script.write_text(SCRIPT)
    process = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
    )
    # Python's tracker may say that it frees shared memory of the one that was killed.
    assert "Traceback" not in process.stderr
    *signals, numbers, error, left = process.stdout.splitlines()
    assert sorted(signals) == ["SIGINT", "SIGTERM"]
    assert numbers == "0 1 2 3 4 5"
    assert "a worker process died (exit code -9)" in error
    assert left == "[]"


def test_a_bad_record_is_left_out_of_evaluation(capfd):
    for place in (0, 2):
        bad = Records("bad", 5, **{f"at_{place}": {"image": b"no image"}})
        bad.on_bad_example = "skip"
        with pipeline.eval_batches(bad, batch_size=5) as batches:
            images, valid, _ = next(batches)
        assert list(valid) == [index != place for index in range(5)]
        assert images.label is not None
        assert f"skipped (1 in this process): bad/{place}" in capfd.readouterr().err
