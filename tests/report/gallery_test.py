import functools
import io
import types
from functools import partial

import jax
import numpy as np
import pytest
import toy
from PIL import Image

from lsr_jax.augment import preprocess
from lsr_jax.data import label_spaces
from lsr_jax.errors import InputError
from lsr_jax.evaluation import metrics
from lsr_jax.ops import resample
from lsr_jax.report import features, figures, gallery
from lsr_jax.report.evaluate import Evaluation
from lsr_jax.report.gallery import Sampler
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
        init=lambda key, size: toy.init(key, "two_heads"),
        prediction=lambda outputs: outputs.logits + outputs.aux_logits,
        arguments={},
    )

    def trained(stage):
        restored.append(stage)
        network = toy.init(jax.random.fold_in(key, len(stage)), "two_heads")
        network = sharding.replicate(network, mesh)
        return Trained(*network, 1, stage, stage, 0, "last", "", model, "unit")

    data = {domain: split(domain) for domain in gallery.DOMAINS}
    restored = []
    stages = {s: {"method": {"name": s}} for s in ("source", "lsr")}
    return types.SimpleNamespace(
        model=model,
        mesh=mesh,
        config={
            "evaluation": {},
            "data": {"preprocessing": "unit", "target": {"val": "val"}},
            "seed": 0,
            **stages,
        },
        domains={"target": types.SimpleNamespace(space=SPACE)},
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
        features = outputs(run, stage).features
        whole = np.asarray(features).reshape(-1, toy.FEATURES)
        np.testing.assert_allclose(sample.vectors, whole[places], rtol=1e-5, atol=1e-6)
        expected = aware.reshape(-1)[places]
        np.testing.assert_array_equal(sample.labels, expected)
        assert np.bincount(sample.labels).max() == 4


def test_confusion_is_that_of_the_logits_that_are_evaluated(run, monkeypatch, tmp_path):
    drawn = {}
    monkeypatch.setattr(gallery, "_save", lambda *_: None)
    monkeypatch.setattr(gallery.figures, "confusion", lambda x, _: drawn.update(x))
    gallery._confusion(Evaluation(run), ["lsr"], tmp_path)
    found = outputs(run, "lsr")
    truth = decoded(run.open("target", "val"), "label")

    def shares(logits):
        classes = resample.bilinear(logits, toy.SIZE).argmax(-1)
        matrix = metrics.confusion_matrix(truth, classes, toy.NUM_CLASSES)
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
    assert gallery.curves(run, stages, tmp_path) == []
    (tmp_path / "lsr").mkdir()
    (tmp_path / "lsr" / "metrics.jsonl").write_text('{"step": 1, "total": 2.0}\n')
    pictures = gallery.curves(run, stages, tmp_path)
    pictures += gallery.write(Evaluation(run), stages, tmp_path)
    assert [picture.file.removesuffix(".png") for picture in pictures] == [
        *("training_curves", "confusion", "downsampling", "class_shares", "polar"),
        *("prototype_angles", "tsne", "domains_pca", "domains_tsne"),
    ]
    for picture in pictures:
        assert (tmp_path / picture.file).stat().st_size > 5000, picture
        assert picture.caption.endswith(".")


def test_the_size_of_a_feature_map_is_traced_not_computed(sampler):
    images = np.zeros((2, *toy.SIZE, 3), np.uint8)
    assert sampler.feature_size(images) == toy.FEATURE_SIZE
