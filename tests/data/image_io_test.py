import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks import dataset_folders
from lsr_jax.data import archives, image_io
from lsr_jax.data.layouts import LAYOUTS

LABEL = np.array([[7, 8, 8, 26], [0, 33, 7, 7]], np.uint8)


@pytest.fixture
def save(tmp_path):
    """Saves a label, returns what reads it as the given data set does."""

    def save(write, name, label=LABEL):
        write(tmp_path / "label.png", label)
        reader = image_io.Reader(archives.Folder(tmp_path), LAYOUTS[name])
        return lambda: reader.label("label.png")

    return save


def rgb(path, label):
    dataset_folders.save_image(path, np.repeat(label[..., None], 3, 2))


def test_every_label_format_is_read_as_ids(save):
    np.testing.assert_array_equal(save(dataset_folders.save_palette, "gta5")(), LABEL)
    np.testing.assert_array_equal(
        save(dataset_folders.save_grey, "cityscapes")(), LABEL
    )
    ids = np.array([[1, 22, 0], [14, 3, 21]], np.uint8)
    read = save(dataset_folders.save_red16, "synthia_rand_cityscapes", ids)
    np.testing.assert_array_equal(read(), ids)


@pytest.mark.parametrize(
    ("write", "name", "found"),
    [
        (dataset_folders.save_grey, "gta5", "8-bit grey"),
        (rgb, "gta5", "8-bit RGB"),
        (dataset_folders.save_palette, "cityscapes", "8-bit palette"),
        (dataset_folders.save_grey, "synthia_rand_cityscapes", "8-bit grey"),
        (rgb, "synthia_rand_cityscapes", "8-bit RGB"),
    ],
)
def test_another_mode_or_depth_is_named(save, write, name, found):
    with pytest.raises(
        image_io.BadExample, match=f"label.png: .* found {found}"
    ) as bad:
        save(write, name)()
    assert bad.value.kind == "wrong mode"
    assert "\n" not in str(bad.value)


def test_an_unknown_id_is_named(save):
    label = LABEL.copy()
    label[0, 0] = 77
    with pytest.raises(image_io.BadExample, match=r"id 77 is unknown") as bad:
        save(dataset_folders.save_palette, "gta5", label)()
    assert bad.value.kind == "unknown id"

    def large(path, label):
        cv2.imwrite(str(path), np.full((2, 2, 3), 976, np.uint16))

    with pytest.raises(image_io.BadExample, match=r"ids up to 255, found 976"):
        save(large, "synthia_rand_cityscapes")()


def jpeg(image):
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=95)
    return data.getvalue()


def png(image):
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def image(key):
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_images_are_read_as_by_pil(image):
    np.testing.assert_array_equal(image_io.decode_image(png(image), "x"), image)
    alpha = np.concatenate([image, image[..., :1]], 2)
    np.testing.assert_array_equal(image_io.decode_image(png(alpha), "x"), image)
    expected = np.asarray(Image.open(io.BytesIO(jpeg(image))))
    np.testing.assert_array_equal(image_io.decode_image(jpeg(image), "x"), expected)


@pytest.mark.parametrize("encode", [png, jpeg])
@pytest.mark.parametrize("keep", [0, 30, 0.5, -1])
def test_truncated_images_are_errors(image, encode, keep):
    data = encode(image)
    cut = int(keep * len(data)) if isinstance(keep, float) else keep
    with pytest.raises(image_io.BadExample, match=r"x: expected an image file") as bad:
        image_io.decode_image(data[:cut], "x")
    assert bad.value.kind == "unreadable"


def test_a_flipped_bit_is_found(image):
    data = bytearray(png(image))
    data[len(data) // 2] ^= 4
    with pytest.raises(image_io.BadExample, match=r"cannot be decoded"):
        image_io.decode_image(bytes(data), "x")


def test_a_flipped_bit_never_changes_the_ids_of_a_palette(tmp_path):
    """PIL does not verify the CRC of the pixels."""
    dataset_folders.save_palette(tmp_path / "label.png", np.tile(LABEL, (4, 4)))
    whole = (tmp_path / "label.png").read_bytes()
    pixels = whole.index(b"IDAT") - 4
    for bit in range(8 * pixels, 8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(image_io.BadExample):
            image_io.decode_label(bytes(data), "x", "palette")
    np.testing.assert_array_equal(
        image_io.decode_label(whole, "x", "palette"), np.tile(LABEL, (4, 4))
    )


def test_no_other_program_decodes_an_image(monkeypatch):
    def start(*arguments, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.check_call", start)
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EOF\n"
    for data in (page, page[:30], b"GIF89a" + bytes(40)):
        with pytest.raises(image_io.BadExample, match="found: none of PNG, JPEG"):
            image_io.decode_image(data, "x")


def test_a_huge_image_is_an_error_before_it_is_decoded(tmp_path):
    # 32 bytes of header claim ten billion pixels.
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = image_io.PNG + struct.pack(">I4s", 13, b"IHDR") + header + b"\0" * 50
    with pytest.raises(image_io.BadExample, match=r"at most 67108864 pixels"):
        image_io.decode_image(bomb + image_io.END, "x")
    (tmp_path / "x.png").write_bytes(bomb + image_io.END)
    reader = image_io.Reader(archives.Folder(tmp_path), LAYOUTS["gta5"])
    problem = reader.header_problem(image_io.Pair("x.png", None))
    assert "at most 67108864 pixels" in str(problem)


@pytest.mark.parametrize("size", [(20, 30), (64, 33)])
def test_resizing_is_that_of_pil(image, size):
    resized = Image.fromarray(image).resize(size[::-1], Image.BICUBIC)
    np.testing.assert_array_equal(image_io.resize_image(image, size), resized)
    label = image[..., 0]
    resized = Image.fromarray(label).resize(size[::-1], Image.NEAREST)
    np.testing.assert_array_equal(image_io.resize_label(label, size), resized)
    assert image_io.resize_label(label, None) is label


@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 3)])
def test_png_is_lossless(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = np.asarray(Image.open(io.BytesIO(image_io.png(pixels))))
    np.testing.assert_array_equal(found, pixels)
