import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks import dataset_folders
from lsr_jax.data import archives, image_io
from lsr_jax.data.layouts import LAYOUTS
from lsr_jax.errors import InputError

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


def test_written_pictures_read_back(tmp_path):
    color = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    image_io.write_png(tmp_path / "c.png", color, remedy="choose another --out")
    found = image_io.decode_image((tmp_path / "c.png").read_bytes(), "c")
    np.testing.assert_array_equal(found, color)
    image_io.write_png(tmp_path / "ids.png", color[..., 0], remedy="")
    ids = image_io.decode_label((tmp_path / "ids.png").read_bytes(), "ids", "grey")
    np.testing.assert_array_equal(ids, color[..., 0])
    with pytest.raises(InputError, match=r"^\S+/no/c.png: .*; choose another --out$"):
        image_io.write_png(tmp_path / "no/c.png", color, remedy="choose another --out")


def encoded(pixels, file_format, mode=None, **options):
    data = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(data, file_format, **options)
    return data.getvalue()


def by_cv2(pixels, ending):
    return cv2.imencode(ending, pixels)[1].tobytes()


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_orientation_is_applied_to_every_kind(orientation, file_format, image):
    exif = Image.Exif()
    exif[274] = orientation
    options = (
        {"exif": exif, "lossless": True} if file_format == "WEBP" else {"exif": exif}
    )
    data = encoded(image, file_format, **options)
    plain = image_io.decode_image(encoded(image, file_format, lossless=True), "x")
    found = image_io.decode_image(data, "x")
    np.testing.assert_array_equal(found, UPRIGHT[orientation](plain))
    assert image_io.check_header(data, "x", "image").size == found.shape[:2]
    if file_format in ("PNG", "TIFF"):
        data = encoded(image[..., 0], file_format, exif=exif)
        label = image_io.decode_label(data, "x", "grey")
        np.testing.assert_array_equal(label, UPRIGHT[orientation](image[..., 0]))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "JPEG"])
def test_a_label_has_the_size_of_the_upright_image(file_format, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    image = np.zeros((8, 12, 3), np.uint8)
    reader = image_io.Reader(archives.Folder(tmp_path), LAYOUTS["cityscapes"])
    pair = image_io.Pair("image.x", "label.png")
    (tmp_path / "image.x").write_bytes(encoded(image, file_format, exif=exif))
    dataset_folders.save_grey(tmp_path / "label.png", np.full((12, 8), 7, np.uint8))
    assert reader.header_problem(pair) is None
    assert reader.pair(pair)[0].shape[:2] == reader.pair(pair)[1].shape == (12, 8)
    dataset_folders.save_grey(tmp_path / "label.png", np.full((8, 12), 7, np.uint8))
    assert "size of the upright image 12x8" in str(reader.header_problem(pair))
    with pytest.raises(image_io.BadExample, match=r"upright image 12x8.*found 8x12"):
        reader.pair(pair)


COLOR = np.random.default_rng(1).integers(0, 256, (8, 12, 3), dtype=np.uint8)
GREY = np.random.default_rng(2).integers(0, 40, (8, 12), dtype=np.uint8)
REPEATED = np.repeat(GREY[..., None], 3, 2)
IMAGES = {  # bytes -> what is read, or what is found
    "grey png": (encoded(GREY, "PNG"), REPEATED),
    "grey jpeg": (encoded(np.full_like(GREY, 9), "JPEG"), np.full_like(COLOR, 9)),
    "grey and alpha": (encoded(GREY, "PNG", "LA"), REPEATED),
    "grey tiff": (encoded(GREY, "TIFF"), REPEATED),
    "palette": (
        encoded(REPEATED, "PNG", "P"),
        np.asarray(Image.fromarray(REPEATED).convert("P").convert("RGB")),
    ),
    "palette bmp": (
        encoded(REPEATED, "BMP", "P"),
        np.asarray(Image.fromarray(REPEATED).convert("P").convert("RGB")),
    ),
    "rgba tiff": (encoded(COLOR, "TIFF", "RGBA"), COLOR),
    "bmp": (encoded(COLOR, "BMP"), COLOR),
    "ppm": (encoded(COLOR, "PPM"), COLOR),
    "16-bit png": (by_cv2(COLOR.astype(np.uint16), ".png"), "found 16-bit RGB"),
    "16-bit grey png": (by_cv2(GREY.astype(np.uint16), ".png"), "found 16-bit grey"),
    "16-bit tiff": (by_cv2(COLOR.astype(np.uint16), ".tiff"), "found 16-bit RGB"),
    "16-bit grey tiff": (by_cv2(GREY.astype(np.uint16), ".tiff"), "found 16-bit grey"),
    "16-bit ppm": (by_cv2(COLOR.astype(np.uint16), ".ppm"), "RGB of 0 to 65535"),
    "float tiff": (by_cv2(GREY.astype(np.float32), ".tiff"), "found 32-bit F"),
    "cmyk": (encoded(COLOR, "JPEG", "CMYK"), "found 8-bit CMYK"),
    "pages": (
        encoded(COLOR, "TIFF", save_all=True, append_images=[Image.fromarray(COLOR)]),
        "one picture, found 2",
    ),
    "animation": (
        encoded(
            COLOR, "PNG", save_all=True, append_images=[Image.fromarray(COLOR[::-1])]
        ),
        "one picture, found 2",
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_kinds_of_images(name):
    data, expected = IMAGES[name]
    if isinstance(expected, str):
        with pytest.raises(image_io.BadExample, match=f"^x: .*{expected}") as bad:
            image_io.decode_image(data, "x")
        assert bad.value.kind == "wrong mode"
    else:
        np.testing.assert_array_equal(image_io.decode_image(data, "x"), expected)


def as_text(label):
    """A PGM whose numbers are written out."""
    height, width = label.shape
    return " ".join(map(str, ["P2", width, height, 255, *label.ravel()])).encode()


def inverted_tiff(label):
    """A TIFF in which 0 is said to be white."""
    data = encoded(label, "TIFF")
    tag = struct.pack("<HHIH", 262, 3, 1, 1)  # the photometric interpretation
    assert data.count(tag) == 1
    return data.replace(tag, struct.pack("<HHIH", 262, 3, 1, 0))


PALETTE = Image.fromarray(GREY)
PALETTE.putpalette([i * 7 % 256 for i in range(768)])
LABELS = {  # label format, bytes -> None, or what is found
    "png": ("grey", encoded(GREY, "PNG"), None),
    "16 bits": ("grey", by_cv2(GREY.astype(np.uint16), ".png"), None),
    "R=G=B": ("grey", encoded(REPEATED, "PNG"), None),
    "R=G=B, alpha": ("grey", encoded(REPEATED, "PNG", "RGBA"), None),
    "R=G=B of 16 bits": ("grey", by_cv2(REPEATED.astype(np.uint16), ".png"), None),
    "tiff": ("grey", encoded(GREY, "TIFF"), None),
    "16-bit tiff": ("grey", by_cv2(GREY.astype(np.uint16), ".tiff"), None),
    "R=G=B tiff": ("grey", encoded(REPEATED, "TIFF"), None),
    "bmp": ("grey", encoded(GREY, "BMP"), None),
    "R=G=B bmp": ("grey", encoded(REPEATED, "BMP"), None),
    "pgm": ("grey", encoded(GREY, "PPM"), None),
    "palette tiff": (
        "palette",
        encoded(np.asarray(PALETTE), "TIFF"),
        "found 8-bit grey",
    ),
    "colours": ("grey", encoded(COLOR, "PNG"), "expected ids, found colours"),
    "colours in bmp": ("grey", encoded(COLOR, "BMP"), "expected ids, found colours"),
    "large ids": (
        "grey",
        by_cv2(np.full((8, 12), 900, np.uint16), ".png"),
        "ids up to 255, found 900",
    ),
    "one bit": ("grey", encoded(GREY, "PNG", "1"), "found 1-bit grey"),
    "jpeg": ("grey", encoded(GREY, "JPEG"), "found JPEG, which may change ids"),
    "webp": ("grey", encoded(REPEATED, "WEBP", lossless=True), "WEBP, which may"),
    "R=G=B tiff of 16 bits": (
        "grey",
        by_cv2(REPEATED.astype(np.uint16), ".tiff"),
        "found 16-bit RGB in a TIFF",
    ),
    "red16 tiff": ("red16", by_cv2(REPEATED.astype(np.uint16), ".tiff"), "in a TIFF"),
    "inverted tiff": ("grey", inverted_tiff(GREY), "found 8-bit grey from white to"),
    "jpeg in a tiff": (
        "grey",
        encoded(GREY, "TIFF", compression="jpeg"),
        "found 8-bit JPEG in a TIFF",
    ),
    "palette for grey": ("grey", encoded(REPEATED, "PNG", "P"), "found 8-bit palette"),
    "pgm as text": ("grey", as_text(GREY), None),
    "small maximum": ("grey", b"P5 12 8 63\n" + bytes(96), "grey of 0 to 63"),
    "text": ("grey", b"no image", "found: none of PNG"),
}


@pytest.mark.parametrize("name", LABELS)
def test_kinds_of_labels(name):
    label_format, data, problem = LABELS[name]
    if problem:
        with pytest.raises(image_io.BadExample, match=f"^x: .*{problem}") as bad:
            image_io.decode_label(data, "x", label_format)
        assert "\n" not in str(bad.value)
    else:
        found = image_io.decode_label(data, "x", label_format)
        np.testing.assert_array_equal(found, GREY)
        assert found.dtype == np.uint8


def test_palettes_of_other_files_than_png():
    for file_format in ("PNG", "TIFF", "BMP"):
        data = io.BytesIO()
        PALETTE.save(data, file_format)
        found = image_io.decode_label(data.getvalue(), "x", "palette")
        np.testing.assert_array_equal(found, GREY)
