import io
import types

import jax
import numpy as np
import pytest
import toy
from PIL import Image

from lsr_jax.analysis import gallery
from lsr_jax.analysis.sampling import Sampler
from lsr_jax.data import labels
from lsr_jax.errors import InputError
from lsr_jax.training import sharding
from lsr_jax.training.experiment import Network

SPACE = labels.make_space(
    "toy", {}, labels.NAMES[: toy.NUM_CLASSES], tuple([(9, 9, 9)] * toy.NUM_CLASSES)
)


def png(array):
    file = io.BytesIO()
    Image.fromarray(np.asarray(array, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def experiment(tmp_path, key):
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

    def trained(stage):
        network = toy.init(jax.random.fold_in(key, len(stage)))
        return Network(*sharding.put_replicated(network, mesh), step=1, facts={})

    data = {domain: split(domain) for domain in gallery.DOMAINS}
    return types.SimpleNamespace(
        model=types.SimpleNamespace(
            num_classes=toy.NUM_CLASSES,
            forward=toy.forward,
            init=lambda key, size: toy.init(key),
        ),
        mesh=mesh,
        config={"evaluation": {"batch_size": 2}},
        domains={"target": types.SimpleNamespace(space=SPACE)},
        normalise=lambda image: image.astype("float32") / 255,
        open=lambda domain, part: data[domain],
        folder=lambda stage: tmp_path / stage,
        trained=trained,
    )


def test_vectors_are_features_of_the_same_cells_for_every_network(experiment):
    sampler = Sampler(experiment)
    maps = sampler.label_maps("target")
    assert maps.nearest.shape == maps.frequency_aware.shape == (3, *toy.FEATURE_SIZE)
    places = sampler.choose("target", 4)
    for stage in ("source", "lsr"):
        sample = sampler.sample(stage, "target", 4)
        images = np.stack(
            [
                np.asarray(Image.open(io.BytesIO(record["image"])))
                for record in experiment.open("target", "val")
            ]
        )
        network = experiment.trained(stage)
        outputs, _ = toy.forward(
            network.params, network.model_state, experiment.normalise(images), False
        )
        whole = np.asarray(outputs.features).reshape(-1, toy.FEATURES)
        np.testing.assert_allclose(sample.vectors, whole[places], rtol=1e-5, atol=1e-6)
        expected = maps.frequency_aware.reshape(-1)[places]
        np.testing.assert_array_equal(sample.labels, expected)
        assert np.bincount(sample.labels).max() == 4


def test_confusion_counts_every_labelled_pixel_once(experiment):
    matrix = Sampler(experiment).confusion("lsr")
    assert matrix.sum() == 3 * toy.SIZE[0] * toy.SIZE[1]


def test_a_split_without_labels_is_named(experiment):
    unlabelled = png(np.full(toy.SIZE, 255))
    for record in experiment.open("target", "val"):
        record["label"] = unlabelled
    with pytest.raises(InputError, match="expected labelled target images"):
        Sampler(experiment).choose("target", 4)


@pytest.mark.slow
def test_every_figure_of_a_run_is_written(experiment, tmp_path):
    stages = ("source", "lsr")
    assert gallery.curves(experiment, stages, tmp_path) == []
    (tmp_path / "lsr").mkdir()
    (tmp_path / "lsr" / "metrics.jsonl").write_text('{"step": 1, "total": 2.0}\n')
    pictures = gallery.curves(experiment, stages, tmp_path)
    pictures += gallery.write(experiment, stages, tmp_path)
    assert [picture.file.removesuffix(".png") for picture in pictures] == [
        *("training_curves", "confusion", "downsampling", "class_shares", "polar"),
        *("prototype_angles", "tsne", "domains_pca", "domains_tsne"),
    ]
    for picture in pictures:
        assert (tmp_path / picture.file).stat().st_size > 5000, picture
        assert picture.caption.endswith(".")
    assert len(list(tmp_path.glob("*.svg"))) == len(pictures) - 1


def test_the_size_of_a_feature_map_is_traced_not_computed(experiment):
    images = np.zeros((2, *toy.SIZE, 3), np.uint8)
    assert Sampler(experiment).feature_size(images) == toy.FEATURE_SIZE
