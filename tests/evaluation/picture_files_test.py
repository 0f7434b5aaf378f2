import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from lsr_jax.errors import InputError
from lsr_jax.evaluation import picture_files


@pytest.fixture
def folder(tmp_path):
    for name in ("b/two.png", "a/one.png", "a/deep/three.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
        cv2.imwrite(os.fspath(path), image)
    return tmp_path


def test_patterns_find_files_in_order(folder):
    found = picture_files.find_images(f"{folder}/**/*.*")
    assert [path.name for path in found] == ["three.jpg", "one.png", "two.png"]
    names = picture_files.name_outputs(found)
    assert [str(name) for name in names.values()] == [
        *("a/deep/three.png", "a/one.png", "b/two.png")
    ]
    (alone,) = picture_files.name_outputs([folder / "a/one.png"]).values()
    assert alone == Path("one.png")


def test_no_images_are_one_line(folder):
    for pattern, message in (
        (f"{folder}/*.gif", "found none"),
        (f"{folder}/a", r"name the files in it, as DIR/\*\.png"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            picture_files.find_images(pattern)
        assert pattern in str(caught.value)


def test_two_images_of_one_name_are_named(folder):
    paths = [folder / "a/one.jpg", folder / "a/one.png"]
    with pytest.raises(InputError, match=r"one\.jpg and .*one\.png"):
        picture_files.name_outputs(paths)


def test_reading_names_the_file(folder):
    image = picture_files.read(folder / "a/one.png")
    assert image.shape == (5, 7, 3)
    broken = folder / "broken.png"
    broken.write_bytes((folder / "a/one.png").read_bytes()[:40])
    (folder / "text.jpg").write_text("no image")
    for path in (broken, folder / "text.jpg", folder / "missing.png"):
        with pytest.raises(InputError, match=path.name):
            picture_files.read(path)


def test_an_enormous_image_is_refused_before_it_is_decoded(folder):
    data = bytearray((folder / "a/one.png").read_bytes())
    data[16:24] = (2**20).to_bytes(4, "big") * 2  # width and height in the header
    (folder / "huge.png").write_bytes(data)
    with pytest.raises(InputError, match="at most 67108864 pixels"):
        picture_files.read(folder / "huge.png")


def test_written_pictures_read_back(folder):
    color = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    picture_files.write(folder / "out" / "x" / "c.png", color)
    np.testing.assert_array_equal(
        picture_files.read(folder / "out" / "x" / "c.png"), color
    )
    picture_files.write(folder / "ids.png", color[..., 0])
    ids = cv2.imread(os.fspath(folder / "ids.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(ids, color[..., 0])


def test_a_folder_that_cannot_be_written_is_named(folder):
    picture_files.prepare_folder(folder / "new", ("color", "overlay"))
    assert {path.name for path in (folder / "new").iterdir()} == {"color", "overlay"}
    with pytest.raises(InputError, match=r"--out .*one\.png: cannot be written"):
        picture_files.prepare_folder(folder / "a" / "one.png", ("color",))


def test_a_name_that_is_no_utf_8_is_one_line(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(path, "wb"):
        pass
    with pytest.raises(InputError, match=r"caf\\udce9.png: expected a name in UTF-8"):
        picture_files.find_images(f"{tmp_path}/*.png")
