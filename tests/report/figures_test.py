import numpy as np
import pytest

from lsr_jax.report import figures
from lsr_jax.report.features import Sample
from lsr_jax.report.figures import Estimate

NAMES = ("road", "car", "sky")
COLORS = np.array([[128, 64, 128], [0, 0, 142], [70, 130, 180]], np.uint8)


def samples():
    rng = np.random.default_rng(0)
    return {
        stage: Sample(rng.uniform(0.5, 4, (30, 4)), np.repeat([0, 1, 2], 10))
        for stage in ("source", "lsr")
    }


def polar():
    return figures.polar(samples(), NAMES, COLORS)


def angles():
    values = {"source": np.array([40, 50, np.nan]), "lsr": np.array([60.0, 70, 80])}
    return figures.prototype_angles(values, NAMES)


def scatter():
    points = {name: sample.vectors[:, :2] for name, sample in samples().items()}
    return figures.scatter(points, np.repeat([0, 1, 2], 10), NAMES)


def shares():
    values = {"nearest": np.array([0.5, 0.1, 0, 0.4]), "aware": np.full(4, 0.25)}
    return figures.shares(values, NAMES)


def curves():
    steps = np.arange(5.0)
    stages = {
        "source": {"total": (steps, steps)},
        "lsr": {"total": (steps, 2 * steps), "norm": (steps, steps)},
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


FIGURES = (
    *(polar, angles, scatter, shares, curves, confusion),
    *(methods, by_class, ablation),
)


@pytest.mark.parametrize("make", FIGURES, ids=lambda make: make.__name__)
def test_every_figure_is_the_same_bytes_twice(make, tmp_path):
    formats = ("png", "svg")
    names = figures.save(make(), tmp_path / "a" / "figure", formats)
    figures.save(make(), tmp_path / "b" / "figure", formats)
    assert names == ["figure.png", "figure.svg"]
    for name in names:
        data = (tmp_path / "a" / name).read_bytes()
        assert data == (tmp_path / "b" / name).read_bytes(), name
        assert b"tIME" not in data
        assert b"dc:date" not in data


def test_a_pdf_has_no_date_and_repeats_itself(tmp_path):
    for folder in ("a", "b"):
        figures.save(angles(), tmp_path / folder / "figure", ("pdf",))
    data = (tmp_path / "a" / "figure.pdf").read_bytes()
    assert data == (tmp_path / "b" / "figure.pdf").read_bytes()
    assert b"CreationDate" not in data


def test_32_looks_differ():
    assert len({figures.drawing_look(number) for number in range(32)}) == 32
    assert len({figures.drawing_look(number)[:2] for number in range(32)}) == 32


def test_bars_are_the_values_and_nan_leaves_a_gap():
    (axes,) = angles().axes
    source, lsr = axes.containers
    heights = [bar.get_height() for bar in source]
    np.testing.assert_array_equal(heights, [40, 50, np.nan])
    assert [bar.get_height() for bar in lsr] == [60, 70, 80]
    assert lsr.get_label() == "lsr (mean 70.0°)"
    assert axes.get_ylim()[0] == 0


def test_polar_radius_is_the_logarithm_of_the_norm_and_the_angle_beside_the_ray():
    vectors = np.array([[1, 0, 0], [100, 0, 0], [0, 10, 0]], float)
    sample = Sample(vectors, np.array([0, 0, 1]))
    axes = figures.polar({"one": sample}, NAMES, COLORS).axes[0]
    theta, radius = axes.collections[0].get_offsets().T
    np.testing.assert_allclose(theta, [0, 0, 2 * np.pi / 3], atol=1e-6)
    np.testing.assert_allclose(np.diff(radius), [2, -1])
    median = axes.lines[0].get_ydata()
    np.testing.assert_allclose(median, radius[2])


def test_confusion_writes_percent_and_greys_absent_classes():
    (axes,) = confusion().axes
    assert [text.get_text() for text in axes.texts] == ["70", "30", "100"]
    assert len(axes.patches) == 1


def test_curves_are_read_from_the_log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 5, "total": 2.0}\n{"step": 10, "total": 1, "norm": 3}\n{"st'
    )
    found = figures.read_curves(path)
    np.testing.assert_array_equal(found["total"], [[5, 10], [2, 1]])
    np.testing.assert_array_equal(found["norm"], [[10], [3]])
    assert figures.read_curves(tmp_path / "none") == {}
    figure = curves()
    assert [axes.get_title() for axes in figure.axes[:2]] == ["total", "norm"]
    assert [len(axes.lines) for axes in figure.axes[:2]] == [2, 1]


def test_ablation_has_a_bar_for_every_line():
    (axes,) = ablation().axes
    assert [bar.get_height() for bar in axes.patches] == [30.5, 29.7]
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert labels == ["lsr", "lsr\nwithout\nnorm"]
