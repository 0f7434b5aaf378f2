import os
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from lsr_jax.report import figures
from lsr_jax.report.figures import Estimate

NAMES = ("road", "car", "sky")
COLORS = np.array([[128, 64, 128], [0, 0, 142], [70, 130, 180]], np.uint8)


def samples():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 10)
    return {
        stage: (rng.uniform(0.5, 4, 30), rng.uniform(0, 40, 30), labels)
        for stage in ("source", "lsr")
    }


def polar():
    return figures.polar(samples(), NAMES, COLORS)


def angles():
    values = {"source": np.array([40, 50, np.nan]), "lsr": np.array([60.0, 70, 80])}
    return figures.prototype_angles(values, NAMES)


def scatter():
    points = {name: np.stack(sample[:2], 1) for name, sample in samples().items()}
    labels = dict.fromkeys(points, np.repeat([0, 1, 2], 10))
    return figures.scatter(points, labels, NAMES)


def shares():
    values = {"nearest": np.array([0.5, 0.1, 0, 0.4]), "aware": np.full(4, 0.25)}
    return figures.shares(values, NAMES)


def curves():
    steps = np.arange(5.0)
    stages = {
        "source": pd.DataFrame({"total": steps}),
        "lsr": pd.DataFrame({"total": 2 * steps, "norm": steps}),
    }
    return figures.training_curves(stages)


def confusion():
    matrix = np.array([[0.7, 0.3, 0], [np.nan] * 3, [0, 0.004, 0.996]])
    return figures.confusion({"lsr": matrix}, NAMES)


def estimates():
    return {
        "lsr": Estimate((30.0, 31.0), 30.5, 6.4),
        "lsr without norm": Estimate((29.0, 30.5), 29.7, 9.5),
    }


def methods():
    found = {name: {"running BN": x} for name, x in estimates().items()}
    return figures.methods(found, "lsr", "mIoU (%)")


def by_class():
    gaps = {"lsr": np.array([1.0, -2, np.nan]), "oce": np.array([0.0, 0.5, 1])}
    return figures.per_class(gaps, NAMES, "batchnorm_only")


def ablation():
    return figures.ablation(estimates(), "mIoU (%)")


def panel():
    truth = np.array([[[0, 255], [1, 1]]], np.uint8)
    columns = {"image": np.zeros((1, 2, 2, 3), np.uint8), "ground truth": truth}
    columns["lsr"] = truth.repeat(3, 1).repeat(3, 2)
    return figures.panel(columns, NAMES, COLORS)


FIGURES = (
    *(panel, polar, angles, scatter, shares, curves, confusion),
    *(methods, by_class, ablation),
)


@pytest.mark.parametrize("make", FIGURES, ids=lambda make: make.__name__)
def test_every_figure_is_saved(make, tmp_path):
    figures.save(make(), tmp_path / "a", ["png"])
    assert (tmp_path / "a.png").stat().st_size > 2000


def test_a_figure_is_the_same_bytes_twice_in_the_formats_asked_for(tmp_path):
    for folder in ("a", "b"):
        figures.save(angles(), tmp_path / folder / "figure")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"figure.png", "figure.svg", "figure.pdf"}
    first, second = (tmp_path / folder / "figure.png" for folder in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_panel_paints_classes_and_names_those_that_occur():
    figure = panel()
    image, truth, prediction = (
        axes.get_images()[0].get_array() for axes in figure.axes
    )
    np.testing.assert_array_equal(image, np.zeros((2, 2, 3)))
    np.testing.assert_array_equal(truth, [[COLORS[0], [0, 0, 0]], [COLORS[1]] * 2])
    np.testing.assert_array_equal(prediction, truth.repeat(3, 0).repeat(3, 1))
    assert [axes.get_title() for axes in figure.axes] == [
        "image",
        "ground truth",
        "lsr",
    ]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "road",
        "car",
        "ignored",
    ]


def test_32_looks_differ():
    assert len({figures.look(number) for number in range(32)}) == 32
    assert len({figures.look(number)[:2] for number in range(32)}) == 32


def test_bars_are_the_values_and_nan_leaves_a_gap():
    (axes,) = angles().axes
    source, lsr = axes.containers
    heights = [bar.get_height() for bar in source]
    assert heights == [40, 50, 0]
    assert [bar.get_height() for bar in lsr] == [60, 70, 80]
    assert lsr.get_label() == "lsr (mean 70.0°)"
    assert axes.get_ylim()[0] == 0


def test_polar_radius_is_the_logarithm_of_the_norm_and_the_angle_beside_the_ray():
    sample = np.array([1.0, 100, 10]), np.array([0, 0, 90]), np.array([0, 0, 1])
    axes = figures.polar({"one": sample}, NAMES, COLORS).axes[0]
    theta, radius = axes.collections[0].get_offsets().T
    ray = 2 * np.pi / 3
    np.testing.assert_allclose(theta, [0, 0, ray - np.pi / 2], atol=1e-6)
    np.testing.assert_allclose(radius, [1, 100, 10])
    assert axes.get_yscale() == "log"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 10)


def test_polar_ring_holds_95_percent_of_the_norms():
    norms = np.arange(1, 1002, dtype=float)
    sample = norms, np.zeros(1001), np.zeros(1001, int)
    axes = figures.polar({"one": sample}, NAMES, COLORS).axes[0]
    ring = axes.collections[1].get_paths()[0].vertices[:, 1]
    assert (ring.min(), ring.max()) == pytest.approx((26, 976))
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 501)


def test_confusion_writes_percent_and_greys_absent_classes():
    (axes,) = confusion().axes
    assert [text.get_text() for text in axes.texts] == ["70", "30", "100"]
    assert len(axes.patches) == 1


def test_curves_have_a_panel_for_every_metric():
    figure = curves()
    assert [axes.get_title() for axes in figure.axes] == ["total", "norm"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 1]


def test_ablation_has_a_bar_for_every_line():
    (axes,) = ablation().axes
    assert [bar.get_height() for bar in axes.patches] == [30.5, 29.7]
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert labels == ["lsr", "lsr\nwithout\nnorm"]


@pytest.mark.parametrize("backend", ["nonsense", "tkagg"])
def test_the_backend_of_the_environment_does_not_matter(backend, tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    program = (
        "from lsr_jax.report import features, figures\n"
        "figure = figures.shares({'a': [0.5, 0.5]}, ['road'])\n"
        "figures.save(figure, 'a', ['png'])"
    )
    root = pathlib.Path(__file__).parents[2]
    variables = {"MPLBACKEND": backend, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, **variables},
        check=True,
    )
    assert (tmp_path / "a.png").is_file()
