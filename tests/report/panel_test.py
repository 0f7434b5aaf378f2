import numpy as np
import pytest
from PIL import Image

from lsr_jax.report import panel

NAMES = ("road", "car", "sky", "never")
COLORS = np.array([[128, 64, 128], [0, 0, 142], [70, 130, 180], [1, 2, 3]], np.uint8)


@pytest.fixture
def scene():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 96, 192, 3)).astype(np.uint8)
    truth = np.zeros((2, 96, 192), np.uint8)
    truth[:, :40], truth[:, 90:] = 2, 255
    prediction = np.where(truth == 255, 0, truth).astype(np.uint8)
    prediction[1, 50:70, 20:60] = 1
    return image, truth, {"source": np.zeros_like(truth), "lsr": prediction}


def draw(scene, path):
    panel.panel(*scene, NAMES, COLORS, path)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_cells_are_the_pixels_of_images_and_maps(scene, tmp_path):
    picture = draw(scene, tmp_path / "deep" / "panel.png")
    image, truth, predictions = scene
    palette = np.zeros((256, 3), np.uint8)
    palette[:4] = COLORS
    columns = [image, *(palette[m] for m in (truth, *predictions.values()))]
    top = panel.MARGIN + panel.TITLE
    height, width = 2 * 96, 2 * 192
    for x, column in enumerate(columns):
        for y, cell in enumerate(column):
            first = top + y * (height + panel.GAP)
            left = panel.MARGIN + x * (width + panel.GAP)
            found = picture[first : first + height, left : left + width]
            np.testing.assert_array_equal(found[::2, ::2], cell)
            np.testing.assert_array_equal(found[1::2, 1::2], cell)
    expected = 2 * panel.MARGIN + 4 * width + 3 * panel.GAP
    assert picture.shape[1] == expected


def test_legend_names_the_classes_that_occur(scene, tmp_path):
    picture = draw(scene, tmp_path / "panel.png")
    grid = 2 * 96 * 2 + panel.GAP
    legend = picture[panel.MARGIN + panel.TITLE + grid :].reshape(-1, 3)
    for color, occurs in zip(COLORS, (True, True, True, False), strict=True):
        pixels = (legend == color).all(-1).sum()
        assert pixels == (panel.SWATCH**2 if occurs else 0)
    # Black: the swatch of ignored pixels; text is drawn in dark grey.
    assert (legend == 0).all(-1).sum() == panel.SWATCH**2

    titles = picture[: panel.MARGIN + panel.TITLE]
    for x in range(4):
        left = panel.MARGIN + x * (2 * 192 + panel.GAP)
        assert (titles[:, left : left + 60] < 100).any()


def test_same_bytes_twice_and_no_date(scene, tmp_path):
    draw(scene, tmp_path / "a.png")
    draw(scene, tmp_path / "b.png")
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    assert b"tEXt" not in data
    assert b"tIME" not in data


def test_labels_may_have_another_size_than_the_image(scene, tmp_path):
    image, truth, predictions = scene
    same = draw(scene, tmp_path / "a.png")
    large = {
        name: labels.repeat(3, 1).repeat(3, 2) for name, labels in predictions.items()
    }
    other = draw((image, truth, large), tmp_path / "b.png")
    np.testing.assert_array_equal(same, other)


def test_large_images_are_shrunk_to_a_cell(tmp_path):
    truth = np.zeros((1, 300, 1201), np.uint8)
    scene = (np.zeros((1, 300, 1201, 3), np.uint8), truth, {})
    picture = draw(scene, tmp_path / "panel.png")
    assert picture.shape[1] == 2 * panel.MARGIN + 2 * panel.CELL + panel.GAP
