import functools
import io
import types
from functools import partial

import jax
import numpy as np
import pandas as pd
import pytest
import toy
from PIL import Image

from lsr_jax.augment import preprocess
from lsr_jax.data import label_spaces
from lsr_jax.errors import InputError
from lsr_jax.evaluation import confusion
from lsr_jax.ops import resample
from lsr_jax.report import features, figures
from lsr_jax.report.features import Sample, Sampler
from lsr_jax.report.measure import Evaluation
from lsr_jax.training import sharding
from lsr_jax.training.weights import Trained

SPACE = label_spaces.make_space(
    "toy",
    {},
    label_spaces.NAMES[: toy.NUM_CLASSES],
    tuple([(9, 9, 9)] * toy.NUM_CLASSES),
)


def png(array):
    file = io.BytesIO()
    Image.fromarray(np.asarray(array, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def run(tmp_path, key):
    """Three images a domain and two stages of the toy network, on one device."""
    mesh = sharding.make_mesh(1)

    def split(domain):
        found = toy.images(jax.random.key(len(domain)), 3)
        shades = np.clip(128 + 40 * np.asarray(found.image), 0, 255)
        return [
            {
                "id": f"{domain}{i}",
                "image": png(shades[i]),
                "label": png(found.label[i]),
            }
            for i in range(3)
        ]

    model = types.SimpleNamespace(
        num_classes=toy.NUM_CLASSES,
        forward=toy.forward,
        corners="aligned",
        init=lambda key, size: toy.init(key, "two_heads"),
        prediction=lambda outputs: outputs.logits + outputs.aux_logits,
        arguments={},
    )

    def trained(stage):
        restored.append(stage)
        network = toy.init(jax.random.fold_in(key, len(stage)), "two_heads")
        network = sharding.replicate(network, mesh)
        return Trained(*network, 1, stage, stage, 0, "last", "", model, "unit")

    data = {domain: split(domain) for domain in features.DOMAINS}
    restored = []
    stages = {s: {"method": {"name": s}} for s in ("source", "lsr")}
    return types.SimpleNamespace(
        model=model,
        mesh=mesh,
        config={
            "evaluation": {"window": None},
            "data": {"preprocessing": "unit", "target": {"val": "val"}},
            "seed": 0,
            **stages,
        },
        domains={
            "target": types.SimpleNamespace(space=SPACE, has_training_images=True)
        },
        evaluation_batch_size=lambda: 2,
        normalise=partial(preprocess.normalise, preprocessing="unit"),
        restored=restored,
        open=lambda domain, part: data[domain],
        folder=lambda stage: tmp_path / stage,
        trained=trained,
    )


@pytest.fixture
def sampler(run):
    return Sampler(Evaluation(run))


def decoded(records, key):
    return np.stack(
        [np.asarray(Image.open(io.BytesIO(record[key]))) for record in records]
    )


def outputs(run, stage):
    """Of a network on all target images."""
    network = run.trained(stage)
    images = decoded(run.open("target", "val"), "image")
    inputs = run.normalise(images)
    return toy.forward(network.params, network.model_state, inputs, False)[0]


def test_vectors_are_features_of_the_same_cells_for_every_network(run, sampler):
    aware, nearest = sampler.label_maps("target")
    assert nearest.shape == aware.shape == (3, *toy.FEATURE_SIZE)
    places = sampler.choose("target", 4)
    for stage in ("source", "lsr"):
        sample = sampler.sample(stage, "target", 4)
        found = outputs(run, stage).features
        whole = np.asarray(found).reshape(-1, toy.FEATURES)
        np.testing.assert_allclose(sample.vectors, whole[places], rtol=1e-5, atol=1e-6)
        expected = aware.reshape(-1)[places]
        np.testing.assert_array_equal(sample.labels, expected)
        assert np.bincount(sample.labels).max() == 4


def test_confusion_is_that_of_the_logits_that_are_evaluated(run, monkeypatch):
    drawn = {}
    monkeypatch.setattr(features.figures, "confusion", lambda x, _: drawn.update(x))
    list(features._confusion(Evaluation(run), ["lsr"]))
    found = outputs(run, "lsr")
    truth = decoded(run.open("target", "val"), "label")

    def shares(logits):
        classes = resample.bilinear(logits, toy.SIZE).argmax(-1)
        matrix = confusion.confusion_matrix(truth, classes, toy.NUM_CLASSES)
        return features.row_shares(matrix)

    np.testing.assert_array_equal(drawn["lsr"], shares(found.logits + found.aux_logits))
    assert not np.array_equal(drawn["lsr"], shares(found.logits))


def test_networks_of_the_table_are_not_restored_again(run, sampler):
    sampler.evaluation.entry("lsr")
    sampler.sample("lsr", "target", 4)
    assert run.restored == ["lsr"]


def test_a_split_without_labels_is_named(run, sampler):
    unlabelled = png(np.full(toy.SIZE, 255))
    for record in run.open("target", "val"):
        record["label"] = unlabelled
    with pytest.raises(InputError, match="the target split has no labelled pixel"):
        sampler.choose("target", 4)


@pytest.mark.slow
def test_every_figure_of_a_run_is_written(run, tmp_path, monkeypatch):
    save = functools.partial(figures.save, formats=["png"])
    monkeypatch.setattr(figures, "save", save)
    stages = ("source", "lsr")
    assert features.curves(run, stages, tmp_path) == []
    (tmp_path / "lsr").mkdir()
    (tmp_path / "lsr" / "metrics.jsonl").write_text('{"step": 1, "total": 2.0}\n')
    pictures = features.curves(run, stages, tmp_path)
    pictures += features.draw(Evaluation(run), stages, tmp_path)
    assert [path.stem for path, _ in pictures] == [
        *("training_curves", "confusion", "downsampling", "class_shares", "polar"),
        *("prototype_angles", "tsne", "domains_pca", "domains_tsne"),
    ]
    for path, caption in pictures:
        assert path.parent == tmp_path
        assert path.stat().st_size > 5000, path
        assert caption.endswith(".")
    table = pd.read_csv(tmp_path / "features.csv", index_col=["stage", "domain"])
    assert list(table.index) == [(s, d) for s in stages for d in features.DOMAINS]
    assert np.isfinite(table.to_numpy()).all()


def test_the_size_of_a_feature_map_is_traced_not_computed(sampler):
    images = np.zeros((2, *toy.SIZE, 3), np.uint8)
    assert sampler.feature_size(images) == toy.FEATURE_SIZE


@pytest.fixture
def sample():
    """Class 0 along x and along the diagonal, class 2 along y; class 1 is absent."""
    vectors = np.array([[2, 0], [2, 2], [0, 3]], np.float32)
    return Sample(vectors, np.array([0, 0, 2]))


def test_prototypes_and_angles_by_hand(sample):
    prototypes = features.class_means(sample, num_classes=3)
    np.testing.assert_allclose(prototypes, [[2, 1], [np.nan, np.nan], [0, 3]])
    slope = np.degrees(np.arctan(0.5))
    np.testing.assert_allclose(
        features.inner_angles(sample, prototypes), [slope, 45 - slope, 0], atol=1e-6
    )
    between = 90 - slope
    np.testing.assert_allclose(
        features.prototype_angles(prototypes), [between, np.nan, between]
    )


def test_measures_weigh_classes_alike(sample):
    found = features.measures(sample, num_classes=3)
    assert found == pytest.approx(
        {
            "angle_within": (45 / 2 + 0) / 2,
            "norm": ((2 + np.sqrt(8)) / 2 + 3) / 2,
            "angle_between": 90 - np.degrees(np.arctan(0.5)),
        },
        rel=1e-6,
    )


def test_mean_angle_is_over_the_others_that_exist():
    axes = np.array([[1, 0, 0], [0, 5, 0], [0, 1, 1], [np.nan] * 3])
    expected = [90, (90 + 45) / 2, (90 + 45) / 2, np.nan]
    np.testing.assert_allclose(features.prototype_angles(axes), expected)
    alone = np.full((2, 3), np.nan)
    alone[1] = 1
    assert np.isnan(features.prototype_angles(alone)).all()


def test_choice_is_balanced_and_of_labels_and_seed_alone():
    labels = np.array([0] * 50 + [1] * 3 + [255] * 40).reshape(3, 31)
    places = features.balanced_choice(labels, count=10, num_classes=3, seed=0)
    assert (np.diff(places) > 0).all()
    np.testing.assert_array_equal(np.bincount(labels.reshape(-1)[places]), [10, 3])
    again = features.balanced_choice(labels, count=10, num_classes=3, seed=0)
    np.testing.assert_array_equal(places, again)
    other = features.balanced_choice(labels, count=10, num_classes=3, seed=1)
    assert set(other) != set(places)


def test_class_shares_count_the_unlabelled_last():
    shares = features.class_shares(np.array([[0, 0, 2, 255]]), num_classes=3)
    np.testing.assert_array_equal(shares, [0.5, 0, 0.25, 0.25])


def test_row_shares_of_an_absent_class_are_undefined():
    found = features.row_shares(np.array([[3, 1], [0, 0]]))
    np.testing.assert_array_equal(found, [[0.75, 0.25], [np.nan, np.nan]])


def test_joined_samples_remember_their_origin(sample):
    whole, origin = features.joined([sample, Sample(sample.vectors[:1], np.array([1]))])
    np.testing.assert_array_equal(origin, [0, 0, 0, 1])
    np.testing.assert_array_equal(whole.labels, [0, 0, 2, 1])
    np.testing.assert_array_equal(whole.vectors[3], [2, 0])


def clusters(count=12):
    rng = np.random.default_rng(0)
    centres = 20 * np.eye(3, 8)
    labels = np.repeat(np.arange(3), count)
    return centres[labels] + rng.normal(size=(len(labels), 8)), labels


def test_principal_components_of_a_line():
    line = np.outer(np.arange(5.0), [-3, 4])
    found = features.principal(line)
    # Centred, along the line; the sign makes the largest entry (4) positive.
    np.testing.assert_allclose(found[:, 0], 5 * (np.arange(5) - 2), atol=1e-9)
    np.testing.assert_allclose(found[:, 1], 0, atol=1e-9)


def test_tsne_keeps_clusters_together_and_repeats_itself():
    vectors, labels = clusters()
    found = features.tsne(vectors)
    assert found.shape == (36, 2)
    distances = np.linalg.norm(found[:, None] - found[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).all()
    np.testing.assert_array_equal(found, features.tsne(vectors))


def test_tsne_of_very_few_vectors():
    assert np.isfinite(features.tsne(np.eye(4, 3))).all()


def test_curves_are_read_from_the_log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 5, "total": 2.0}\n{"step": 10, "total": 1, "norm": 3}\n{"st'
    )
    found = features.read_curves(path)
    assert found["total"].to_dict() == {5: 2.0, 10: 1.0}
    assert found["norm"].dropna().to_dict() == {10: 3.0}
    assert features.read_curves(tmp_path / "none").empty
    path.write_text('{"total": 2.0}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl: damaged"):
        features.read_curves(path)
