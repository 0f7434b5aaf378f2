"""Corrupt files and configs: a named error or a correct result.

Hypothesis draws bytes; nothing may hang, crash, or be read as something else.
"""

import contextlib
import dataclasses
import fnmatch
import io
import json
import pathlib
import re
import shutil
import struct
import warnings
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lsr_jax.convert import weight_files
from lsr_jax.data import (
    custom,
    image_io,
    label_spaces,
    listing,
    prepared,
    records,
    sources,
)
from lsr_jax.data.archives import Folder, Zips, options
from lsr_jax.data.layouts import LAYOUTS, Part
from lsr_jax.errors import InputError
from lsr_jax.methods import cag
from lsr_jax.training import workdir

BOUNDED = settings(
    max_examples=120,
    deadline=5000,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
IMAGE = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
LABEL = np.full((8, 12), 7, np.uint8)
WHOLE = {"image": image_io.png(IMAGE), "label": image_io.png(LABEL)}


def damaged(data):
    """Bytes cut, with some replaced or put in between."""
    change = st.tuples(
        st.integers(0, len(data) - 1), st.binary(max_size=4), st.integers(0, 4)
    )

    def apply(changes, end):
        result = bytearray(data)
        for place, new, gone in changes:
            result[place : place + gone] = new
        return bytes(result[: max(0, len(result) - end)])

    return st.builds(
        apply,
        st.lists(change, max_size=4),
        st.one_of(st.just(0), st.integers(0, len(data))),
    )


def read(call, *arguments):
    """What was read, None after an error of one line."""
    error = None
    try:
        return call(*arguments)
    except InputError as caught:
        error = str(caught).strip()
    assert error
    assert "\n" not in error
    return None


def outcome(call, *arguments):
    """What was returned and None, or None and the line of an error."""
    try:
        return call(*arguments), None
    except InputError as error:
        return None, str(error)


def flipped(data):
    """Bytes with one bit turned round."""

    def flip(bit):
        result = bytearray(data)
        result[bit // 8] ^= 1 << bit % 8
        return bytes(result)

    return st.integers(0, 8 * len(data) - 1).map(flip)


@BOUNDED
@given(image=flipped(WHOLE["image"]), label=flipped(WHOLE["label"]))
def test_a_flipped_bit_is_an_error_or_changes_nothing(image, label):
    for change in ({"image": image}, {"label": label}):
        record = {**WHOLE, **change, "id": "one"}
        example = read(lambda r: records.decode(r, labelled=True), record)
        if example is not None:
            np.testing.assert_array_equal(example["image"], IMAGE)
            np.testing.assert_array_equal(example["label"], LABEL)


@BOUNDED
@given(st.one_of(st.binary(max_size=64), damaged(WHOLE["image"])))
def test_images(data):
    record = {"image": data, "id": "one"}
    example = read(lambda: records.decode(record, labelled=False))
    if example is not None:
        image = example["image"]
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3


@BOUNDED
@given(st.one_of(st.binary(max_size=64), damaged(WHOLE["label"])))
def test_labels_have_the_size_of_their_image(data):
    record = {"image": WHOLE["image"], "label": data, "id": "one"}
    example = read(lambda: records.decode(record, labelled=True))
    if example is not None:
        assert example["label"].shape == (8, 12)
        assert example["label"].dtype == np.uint8


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cityscapes")
    return folder, image_io.Reader(Folder(folder), LAYOUTS["cityscapes"])


@BOUNDED
@given(data=damaged(WHOLE["label"]))
def test_label_files_hold_known_ids_only(data, reader):
    folder, reader = reader
    (folder / "one.png").write_bytes(data)
    label = read(reader.label, "one.png")
    if label is not None:
        layout = LAYOUTS["cityscapes"]
        assert np.isin(label, [*layout.ids, *layout.ignored]).all()


def header(width, height, depth, kind, rest=b""):
    """A PNG that promises a size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(chunk))
    end = b"\x00\x00\x00\x00IEND\xaeB`\x82"
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + crc + rest + end


SIZES = st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1))


@BOUNDED
@given(
    width=SIZES,
    height=SIZES,
    depth=st.sampled_from([0, 1, 8, 16, 255]),
    kind=st.integers(0, 7),
    rest=st.binary(max_size=32),
)
def test_no_image_is_larger_than_its_header_may_promise(
    width, height, depth, kind, rest, reader
):
    """A decoder that believed it would take gigabytes."""
    folder, reader = reader
    (folder / "bomb.png").write_bytes(header(width, height, depth, kind, rest))
    image = read(reader.image, "bomb.png")
    assert image is None or image.size <= 3 * 2**26
    label = read(reader.label, "bomb.png")
    assert label is None or label.size <= 2**26


WORDS = st.text(st.sampled_from("ab/.\\ \t\n\r\x00~é\u2028"), max_size=24)


OWN_FILES = (
    "a/1.jpg",
    "a/2.JPG",
    "a/3.png",
    "b/1.png",
    "b/2.png",
    "b/._1.png",
    "c d/3.png",
)
OWN_NAMES = (
    "road",
    "Traffic Light",
    "light",
    "traffic_sign",
    "parking",
    "water",
    "raod",
    "terrain",
)
PATTERNS = (
    "a/*.jpg",
    "a/*.{jpg,png}",
    "*/*.png",
    "b/*.png",
    "c d/*.png",
    "x/*.png",
    "a/*",
)


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    for name in OWN_FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    return folder


@BOUNDED
@given(
    images=st.sampled_from(PATTERNS),
    labels=st.none() | st.sampled_from(PATTERNS),
    ids=st.dictionaries(
        st.integers(0, 9), st.sampled_from(OWN_NAMES), min_size=1, max_size=4
    ),
    ignored=st.lists(st.integers(0, 19), max_size=1),
    # Mostly what can be used: one wrong item would hide the others.
    classes=st.none()
    | st.none()
    | st.none()
    | st.lists(st.sampled_from(OWN_NAMES), min_size=1, max_size=3),
    palette=st.just([])
    | st.just([])
    | st.lists(st.sampled_from(OWN_NAMES), min_size=1, max_size=2),
    space=st.sampled_from(["", "cityscapes", "cityscapes13"]),
)
def test_a_description_is_used_whole_or_its_item_is_named(
    images, labels, ids, ignored, classes, palette, space, own_folder
):
    path = own_folder / "own.json"
    colors = {name: [i, 1, 2] for i, name in enumerate([*ids.values(), *palette])}
    text = {
        "splits": {"train": {"images": images, "labels": labels}},
        "label_format": "grey",
        "ids": {str(raw): name for raw, name in ids.items()},
        "ignored": ignored,
        "classes": classes,
        "palette": colors,
    }
    path.write_text(json.dumps(text))
    folder = Folder(own_folder)

    def use():
        layout = custom.read(path)
        return (
            layout,
            sources.label_space({"space": space}, layout),
            listing.list_part(folder, layout.parts["train"]),
        )

    result, error = outcome(use)
    if error:
        items = [*map(str, ids), *OWN_NAMES, *OWN_FILES, images, str(labels)]
        items += map(label_spaces.known_name, OWN_NAMES)
        assert any(item in error for item in items), error
        return
    layout, found, files = result
    known = label_spaces.known_name
    chosen = {known(name) for name in classes or ids.values()}
    assert chosen == set(layout.classes)
    for raw, name in ids.items():
        name = known(name)
        used = found.classes[found.lut[raw]] if found.lut[raw] != 255 else None
        left_out = name not in chosen or (space and name not in found.classes)
        assert used == (None if left_out else name)
        # What a space leaves out is known to Cityscapes.
        assert (
            not left_out
            or name not in chosen
            or name
            in (
                *label_spaces.NAMES,
                *label_spaces.VOID_NAMES,
            )
        )
    assert {raw for raw in range(256) if found.lut[raw] != 255} <= set(ids)
    for name in (name for name in colors if known(name) in layout.classes):
        assert list(layout.colors[layout.classes.index(known(name))]) == colors[name]
    used = {name for pair in files.pairs for name in pair if name} | set(files.problems)
    for pattern in filter(None, (images, labels)):
        for option in options(pattern):
            for name in OWN_FILES:
                fits = fnmatch.fnmatch(name.lower(), option)
                hidden = "/." in name
                assert name in used or not fits or hidden


def spelled(pair, style):
    """A line of a list for a pair, and whether its label is said."""
    image, label = pair
    return {
        "both": f"{image} {label}",
        "tab": f"{image}\t{label}",
        "quoted": f"'{image}' '{label}'",
        "image": image,
        "slash": f"/{image} /{label}",
        "windows": f"{image} {label}".replace("/", "\\"),
        "foreign": f"/data/set/{image} /data/set/{label}",
        "end": image.partition("/")[2],
        "stem": image.partition("/")[2].rpartition(".")[0],
        "own": f"{image} pseudo/{label}",
        "comma": f"{image},pseudo/{label}",
        "missing": f"{image}x {label}",
        "missing label": f"{image} {label}x",
        "other folder": f"{image} elsewhere/{label}",
    }[style]


LISTED = [
    (f"images/{name}.png", f"labels/{name}.png")
    for name in ("1", "2", "town/1", "my town/3", "4 5")
]
STYLES = (
    "both",
    "tab",
    "quoted",
    "image",
    "slash",
    "windows",
    "foreign",
    "end",
    "stem",
)
WRONG = ("comma", "missing", "missing label", "other folder")


@BOUNDED
@given(
    lines=st.lists(
        st.tuples(st.sampled_from(LISTED), st.sampled_from((*STYLES, "own", *WRONG))),
        min_size=1,
        max_size=4,
    ),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_a_list_is_used_whole_or_its_line_is_named(lines, encoding, end, tmp_path):
    path = tmp_path / "list.txt"
    texts = [spelled(pair, style) for pair, style in lines]
    path.write_bytes(end.join(texts).encode(encoding))
    part = Part("images/{*,town/*,my town/*}.png", "labels/{*,town/*,my town/*}.png")
    layout = dataclasses.replace(LAYOUTS["gta5"], parts={"train": part})
    there = {name for pair in LISTED for name in pair}
    there |= {f"pseudo/{label}" for _, label in LISTED}
    labels = {image: (label,) for image, label in LISTED}
    every = (path, layout, tmp_path, labels, there.__contains__)
    found, error = outcome(listing.read_list, *every)
    if error:
        number = int(re.search(r"list.txt, line (\d+): ", error)[1])
        step = 1 + (end == "\n\n")
        image, label = lines[(number - 1) // step][0]
        assert any(
            word in error or word.replace("/", "\\\\") in error
            for word in (image, label, image.partition("/")[2].rpartition(".")[0])
        ), error
        return
    assert not any(style in WRONG for _, style in lines)
    expected = [
        (image, f"pseudo/{label}" if style == "own" else label)
        for (image, label), style in lines
    ]
    assert [tuple(pair) for pair in found] == expected


@BOUNDED
@given(content=st.one_of(WORDS.map(str.encode), st.binary(max_size=40)))
def test_lists_stay_in_their_folder(content, tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    every = (LAYOUTS["gta5"], tmp_path, {"a/b": ("b/a",)}, lambda name: True)
    for pair in read(listing.read_list, path, *every) or ():
        for name in filter(None, pair):
            inside = (tmp_path / name).resolve()
            assert inside.is_relative_to(tmp_path.resolve())


@BOUNDED
@given(
    content=st.one_of(
        st.binary(max_size=40),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=3),
            lambda x: (
                st.lists(x, max_size=3)
                | st.dictionaries(st.text(max_size=3), x, max_size=3)
            ),
            max_leaves=6,
        ).map(lambda tree: json.dumps(tree).encode()),
    )
)
def test_configs_of_a_workdir(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    found = read(workdir.read_config, tmp_path)
    assert found is None or isinstance(found, dict)
    accepted = False
    with contextlib.suppress(InputError):
        workdir.check(tmp_path, {"seed": 0})
        accepted = True
    assert not accepted or json.loads(content) == {"seed": 0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The bytes of a weight file of either kind."""
    folder = tmp_path_factory.mktemp("weights")
    arrays = {"layer.weight": np.ones((2, 3), np.float32), "layer.bias": np.ones(2)}
    weight_files.write(folder / "w.safetensors", arrays, wrapped=())
    found = {"safetensors": (folder / "w.safetensors").read_bytes()}
    try:
        weight_files.write(folder / "w.pth", arrays, wrapped=("state_dict",))
    except InputError:  # without PyTorch
        return found
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    legacy = folder / "legacy.pth"
    torch.save(tensors, legacy, _use_new_zipfile_serialization=False)
    return found | {
        "pth": (folder / "w.pth").read_bytes(),
        "legacy.pth": legacy.read_bytes(),
    }


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "legacy.pth"])
@settings(BOUNDED, max_examples=300)
@given(data=st.data())
def test_weight_files(data, suffix, weights, tmp_path):
    if suffix not in weights:
        return
    whole = weights[suffix]
    content = data.draw(st.one_of(st.binary(max_size=80), damaged(whole)))
    if suffix == "safetensors":
        length = data.draw(st.integers(0, 2**64 - 1) | st.just(None))
        if length is not None:
            content = struct.pack("<Q", length) + content[8:]
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    found = read(weight_files.read, path)
    if found is not None:
        assert all(x.dtype.kind in "fiub" for x in found.values())


MEMBERS = {"a/x.png": WHOLE["image"], "a/y.png": bytes(500), "b/z.txt": b"z" * 99}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, content in MEMBERS.items():
            kind = zipfile.ZIP_STORED if name == "a/x.png" else zipfile.ZIP_DEFLATED
            file.writestr(name, content, kind)
    return path.read_bytes()


@settings(BOUNDED, max_examples=600)
@given(data=st.data())
def test_archives(data, archive, tmp_path_factory):
    # Archives are kept open by name: a new one each time.
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    path.write_bytes(
        data.draw(st.one_of(damaged(archive), flipped(archive), flipped(archive)))
    )
    found = read(lambda: Zips([path]))
    names = read(lambda: found.match("*/*").values()) if found else None
    for name in names or ():
        content = read(found.read, name)
        assert content is None or content in (*MEMBERS.values(), b"")
        read(found.version, name)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """A prepared folder, its shard and a copy of that."""
    folder = tmp_path_factory.mktemp("prepared") / "1.0.0"
    pixels = np.bincount(LABEL.ravel(), minlength=256)
    one = prepared.Record("one", *WHOLE.values(), prepared.digest(IMAGE, LABEL), pixels)
    prepared.write_once(
        folder,
        name="set",
        splits={"train": lambda: [one] * 3},
        size=LABEL.shape,
        manifest={},
        facts=lambda split, pixels: {},
    )
    (path,) = folder.glob("*.array_record*")
    copy = shutil.copy(path, folder.parent / "whole")
    return folder, path, pathlib.Path(copy)


@settings(BOUNDED, max_examples=60)
@given(
    place=st.integers(0, 2**16),
    bit=st.integers(0, 7),
    cut=st.sampled_from([0, 1, 1000, 65536, 2**17]) | st.just(0),
)
def test_shards(place, bit, cut, shard):
    folder, path, copy = shard
    whole = copy.read_bytes()
    # Between the ends of a short shard there is nothing but zeros.
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))
    changed = bytearray(whole)
    changed[used[place % len(used)]] ^= 1 << bit
    path.write_bytes(changed[: max(0, len(whole) - cut)])
    options = {"command": "make", "counts": {"train": 3}}
    found = read(lambda: list(prepared.open_split(folder, "train", **options)))
    path.write_bytes(whole)
    stored = {**WHOLE, "id": b"one"}
    assert found is None or found == [stored] * 3
    assert list(prepared.open_split(folder, "train", **options)) == [stored] * 3


ANCHORS = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(2.0)


def saved_anchors(save):
    file = io.BytesIO()
    save(file)
    return file.getvalue()


ANCHOR_FILES = [
    saved_anchors(lambda file: np.save(file, ANCHORS[0])),
    *(
        saved_anchors(
            lambda file, save=save: save(
                file, objective_vectors=ANCHORS[0], objective_num=ANCHORS[1]
            )
        )
        for save in (np.savez, np.savez_compressed)
    ),
]


@BOUNDED
@given(content=st.one_of(*map(damaged, ANCHOR_FILES), st.binary(max_size=40)))
def test_anchors(content, tmp_path):
    path = tmp_path / "anchors.npz"
    path.write_bytes(content)
    with warnings.catch_warnings(action="ignore"):
        found = read(cag.read_anchors, str(path), (2, 3))
    if found is not None:
        assert found[0].shape == (2, 3)
        assert np.isfinite(found[0]).all()
        assert (found[1] >= 0).all()


def test_the_fuzz_itself_reads_what_is_whole(reader, weights, tmp_path):
    """Errors alone would pass the tests above."""
    record = {**WHOLE, "id": "one"}
    example = records.decode(record, labelled=True)
    np.testing.assert_array_equal(example["image"], IMAGE)
    np.testing.assert_array_equal(example["label"], LABEL)
    folder, reader = reader
    (folder / "whole.png").write_bytes(WHOLE["label"])
    np.testing.assert_array_equal(reader.label("whole.png"), LABEL)
    for suffix, content in weights.items():
        path = tmp_path / f"whole.{suffix}"
        path.write_bytes(content)
        assert set(weight_files.read(path)) == {"layer.weight", "layer.bias"}
    assert cv2.imdecode(np.frombuffer(WHOLE["label"], np.uint8), -1).ndim == 2
