import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import cv2
import damage
import numpy as np
import pytest
from PIL import Image

from lsr_jax.data import image_io, prepare, prepared, records, sources
from lsr_jax.data.label_spaces import SPACES
from lsr_jax.data.layouts import LAYOUTS
from lsr_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]


def run(name, root, out, *, size=(32, 64), **options):
    return prepare.prepare(
        LAYOUTS[name], root, size=size, out=out, progress=False, **options
    )


@pytest.fixture(scope="module")
def gta5(downloads, tmp_path_factory):
    return run("gta5", downloads / "gta5", tmp_path_factory.mktemp("prepared"))


def open_gta5(folder):
    options = sources.ReadOptions(SPACES["cityscapes"], None, "stop")
    return sources.Prepared(LAYOUTS["gta5"], folder, options)


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_the_manifest_describes_the_records(gta5, downloads):
    manifest = manifest_of(gta5)
    assert gta5.parts[-3:] == ("gta5", "64x32", prepared.VERSION)
    assert manifest["dataset"] == "gta5"
    assert manifest["size"] == [32, 64]
    assert manifest["ids"]["7"] == "road"
    split = manifest["splits"]["train"]
    assert (split["count"], split["official_count"]) == (8, 24966)
    assert split["sizes"] == {"120x60": 8}
    assert split["skipped"] == {}
    assert sum(split["pixels"].values()) == 8 * 60 * 120
    assert len(manifest["sha256"]) == 64
    # In the labels as downloaded.
    pixels = np.zeros((8, 256), int)
    for row, path in enumerate(sorted((downloads / "gta5" / "labels").glob("*.png"))):
        pixels[row] = np.bincount(np.array(Image.open(path)).ravel(), minlength=256)
    assert pixels[:, 7].sum() == split["pixels"]["road"]
    assert pixels[:, 26].sum() == split["pixels"]["car"]
    stored = prepared.read_pixels(gta5, "train", count=8, command="make")
    np.testing.assert_array_equal(stored, pixels)
    for record in open_gta5(gta5).open("train"):
        label = cv2.imdecode(np.frombuffer(record["label"], np.uint8), -1)
        assert (label.dtype, label.shape) == (np.uint8, (32, 64))


def test_the_same_content_again_by_workers(gta5, downloads, tmp_path):
    again = run("gta5", downloads / "gta5", tmp_path, workers=2)
    assert manifest_of(again) == manifest_of(gta5)


def test_zips_hold_the_same_content(downloads, tmp_path):
    folders = [
        run("cityscapes", downloads / name, tmp_path / name)
        for name in ("cityscapes", "zips")
    ]
    one, other = map(manifest_of, folders)
    for manifest in (one, other):  # the files are others
        del manifest["root"]
        for facts in manifest["splits"].values():
            del facts["files"]
    assert one == other


def test_full_keeps_the_bytes_of_the_images(downloads, tmp_path):
    folder = run("gta5", downloads / "gta5", tmp_path, size=None)
    opened = open_gta5(folder)
    file = downloads / "gta5" / "images" / "00003.png"
    assert opened.open("train")[2]["image"] == file.read_bytes()


def test_images_as_jpeg_keep_their_labels(gta5, downloads, tmp_path):
    folder = run("gta5", downloads / "gta5", tmp_path, quality=95)
    assert manifest_of(folder)["quality"] == 95
    stored, plain = open_gta5(folder).open("train"), open_gta5(gta5).open("train")
    for lossy, exact in zip(stored, plain, strict=True):
        lossy, exact = (records.decode(r, labelled=True) for r in (lossy, exact))
        np.testing.assert_array_equal(lossy["label"], exact["label"])
        assert (lossy["image"] != exact["image"]).any()
        expected = image_io.decode_image(image_io.jpeg(exact["image"], 95), "")
        np.testing.assert_array_equal(lossy["image"], expected)
    folder = run("gta5", downloads / "gta5", tmp_path, size=None, quality=95)
    image = image_io.decode_image(
        (downloads / "gta5/images/00003.png").read_bytes(), ""
    )
    assert open_gta5(folder).open("train").stored[2]["image"] == image_io.jpeg(
        image, 95
    )


def test_another_quality_than_that_of_a_finished_folder_is_refused(gta5, downloads):
    with pytest.raises(InputError, match="expected the quality 95, found None; remove"):
        run("gta5", downloads / "gta5", gta5.parents[2], quality=95)
    # A folder of an earlier version, which knew no quality.
    manifest = manifest_of(gta5)
    (gta5 / prepared.MANIFEST).write_text(
        json.dumps({k: v for k, v in manifest.items() if k != "quality"})
    )
    assert run("gta5", downloads / "gta5", gta5.parents[2]) == gta5
    (gta5 / prepared.MANIFEST).write_text(json.dumps(manifest))


def test_a_bad_pair_stops_or_is_skipped(downloads, tmp_path):
    root = damage.gta5(downloads, tmp_path / "gta5")
    with pytest.raises(InputError, match=r"^\S+00007.png: .*--on_bad_example=skip"):
        run("gta5", root, tmp_path)
    folder = run("gta5", root, tmp_path, on_bad_example="skip")
    split = manifest_of(folder)["splits"]["train"]
    assert split["count"] == 2
    bad = [f"images/0000{number}.png" for number in (1, 2, 3, 4, 5, 7)]
    assert sorted(split["skipped"]) == bad
    assert "found 60x110" in split["skipped"]["images/00003.png"]


def test_a_finished_folder_is_reused(gta5, downloads, monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("converted again")

    monkeypatch.setattr(prepare, "Split", fail)
    assert run("gta5", downloads / "gta5", gta5.parents[2]) == gta5
    with pytest.raises(InputError, match=r"unknown split of gta5 \(found 'val'"):
        run("gta5", downloads / "gta5", gta5.parents[2], splits=["val"])


def test_a_finished_folder_of_other_files_or_labels_is_refused(downloads, tmp_path):
    root = shutil.copytree(downloads / "cityscapes", tmp_path / "cityscapes")
    folder = run("cityscapes", root, tmp_path / "out", splits=["train"])

    def refused(message, root=root, layout=LAYOUTS["cityscapes"], **options):
        with pytest.raises(InputError, match=f"^{folder}: {message}") as caught:
            prepare.prepare(layout, root, size=(32, 64), out=tmp_path / "out",
                            progress=False, **options)  # fmt: skip
        assert "\n" not in str(caught.value)

    refused("expected the split val, found a finished folder of train;")
    other = shutil.copytree(root, tmp_path / "other")
    refused(f"expected the root {other}, found {root};", other)
    for key, value, found in (
        ("ids", {7: "street"}, "expected the ids {'7': 'street'}, found {'7': 'road',"),
        ("label_format", "palette", "expected the label_format palette, found grey"),
        ("ignored", frozenset({3}), r"expected the ignored \[3\], found \[0, 1, 2,"),
    ):
        changed = dataclasses.replace(LAYOUTS["cityscapes"], **{key: value})
        refused(found, layout=changed)
        options = sources.ReadOptions(SPACES["cityscapes"], None, "stop")
        with pytest.raises(InputError, match=f"^{folder}: {found}"):
            sources.Prepared(changed, folder, options)
    parts = LAYOUTS["cityscapes"].parts
    parts = {**parts, "train": parts["val"], "val": parts["train"]}
    changed = dataclasses.replace(LAYOUTS["cityscapes"], parts=parts)
    refused(
        r"expected the patterns {'train': \['leftImg8bit/val/\*.*found", layout=changed
    )
    (mask, *_) = root.glob("gtFine/train/*/*.png")
    shutil.copy(next(root.glob("gtFine/val/*/*.png")), mask)
    refused(
        r"expected the files of train \(7 images, .*have changed since",
        splits=["train"],
    )


def test_too_little_disk_space_is_an_error_before_it_starts(
    downloads, tmp_path, monkeypatch
):
    usage = prepare.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        prepare.shutil, "disk_usage", lambda path: usage._replace(free=1000)
    )
    with pytest.raises(InputError, match="too little disk space"):
        run("gta5", downloads / "gta5", tmp_path)
    assert not list(tmp_path.rglob("*.array_record*"))


SLOW = """
import multiprocessing, sys, time
from lsr_jax.data import prepare
from lsr_jax.data.layouts import LAYOUTS
if __name__ == "__main__":
    root, out = sys.argv[1:]
    from lsr_jax.data import processes
    def ordered(pool, function, jobs, **options):
        # The workers are started, then the run takes for ever.
        print([process.pid for process in multiprocessing.active_children()],
              file=sys.__stdout__, flush=True)
        time.sleep(600)
        yield
    processes.ordered = ordered
    prepare.prepare(LAYOUTS["gta5"], root, size=(32, 64), out=out, workers=2,
                    progress=False)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_leaves_no_process_and_is_started_again(
    end, downloads, tmp_path, gta5
):
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    command = [sys.executable, script, downloads / "gta5", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        workers = set(json.loads(process.stdout.readline()))
        process.send_signal(end)
    assert workers
    deadline = time.time() + 20
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.time() < deadline, "a worker outlived its parent"
        time.sleep(0.1)
    folder = tmp_path / "gta5" / "64x32"
    assert (folder / ".partial").is_dir()
    again = run("gta5", downloads / "gta5", tmp_path)
    assert manifest_of(again) == manifest_of(gta5)
    assert not (folder / ".partial").exists()


def test_command_line_without_tensorflow(downloads, tmp_path):
    code = (
        "import sys; from lsr_jax.data import prepare, check\n"
        "code = prepare.main(sys.argv[1:])\n"
        "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules\n"
        "sys.exit(code)"
    )
    options = ["synthia_rand_cityscapes", "--size", "64x32", "--workers", "1"]
    options += ["--root", downloads / "synthia_rand_cityscapes", "--out", tmp_path]
    done = subprocess.run(
        [sys.executable, "-c", code, *options], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert pathlib.Path(done.stdout.strip()).name == prepared.VERSION
    assert "needs about" in done.stderr
    assert "\r" not in done.stderr  # the bar of a terminal


def test_bad_command_lines(tmp_path, capsys):
    good = ["gta5", "--root", str(tmp_path), "--out", str(tmp_path), "--size"]
    assert prepare.main([*good, "1280"]) == 2
    assert "WIDTHxHEIGHT such as 1280x720" in capsys.readouterr().err
    assert prepare.main([*good, "99999999x99999999"]) == 2
    assert "expected at most 67108864 pixels" in capsys.readouterr().err
    assert prepare.main([*good, "full"]) == 2
    assert "expected GTA5 as downloaded" in capsys.readouterr().err
    assert prepare.main(["gta5"]) == 2
