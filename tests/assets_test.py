"""The networks that the package contains are what their model cards say."""

import hashlib
import re
from functools import partial

import jax
import numpy as np
import pytest

from lsr_jax import convert, models, streets
from lsr_jax.augment import preprocess
from lsr_jax.data import label_spaces
from lsr_jax.evaluation import confusion, predictor
from lsr_jax.training import sharding, weights
from lsr_jax.types import Images

CARD = (weights.ASSETS / "README.md").read_text()


def test_the_card_names_the_file():
    source = weights.resolve("streets_mini")
    assert source.is_file
    digest = hashlib.sha256(source.path.read_bytes()).hexdigest()
    assert f"`{digest}`" in CARD
    assert source.path.stat().st_size < 4e6
    info = convert.read_info(source.path)
    assert info["classes"] == ", ".join(label_spaces.NAMES)
    weights.check_classes(source, label_spaces.NAMES)


def test_its_recorded_score_is_reproduced():
    (recorded,) = re.findall(r"the first 50 validation images \| ([\d.]+)", CARD)
    imported = convert.load(weights.resolve("streets_mini").path)
    model = models.build(**imported.info["arguments"], initialisation="scratch")
    network = convert.overlay(*model.init(jax.random.key(0), (96, 192)), imported)
    normalise = partial(
        preprocess.normalise, preprocessing=imported.info["preprocessing"]
    )
    judge = predictor.Predictor(
        predictor.network(model.forward, normalise),
        num_classes=19,
        mesh=sharding.make_mesh(1),
    )
    drawn = [streets.draw(i, domain="rendered", split="val") for i in range(50)]
    image, label = map(np.stack, zip(*drawn, strict=True))
    batches = [
        (Images(image[i : i + 10], label[i : i + 10]), np.ones(10, bool), None)
        for i in range(0, 50, 10)
    ]
    matrix = judge.confusion(*network, batches)
    assert 100 * confusion.mean_iou(matrix) == pytest.approx(float(recorded), abs=0.05)
