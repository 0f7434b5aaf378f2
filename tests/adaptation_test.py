"""What the benchmark is built to show: a gap, and what BatchNorm statistics repair of it.

Facts of the pipeline, not a ranking of methods.
"""

import dataclasses

import jax
import pytest

from lsr_jax import report, streets
from lsr_jax.augment.preprocess import AUGMENTATION
from lsr_jax.training import loop

STEPS = 120


@pytest.fixture(scope="module")
def rows(load_config, tmp_path_factory):
    """A source-only network on a small version of the photometric preset."""
    preset = dataclasses.replace(
        streets.PRESETS["photometric"],
        name="photometric_small",
        size=(64, 128),
        counts=streets.Counts(240, 40, 64, 40, 1),
    )
    config = load_config("streets", "source_only,photometric")
    for domain in ("source", "target"):
        config["data"][domain] |= {
            "preset": preset.name,
            "root": str(tmp_path_factory.mktemp("data")),
        }
    config["num_devices"] = 1
    # Without colour augmentation: it makes a network robust to this very shift.
    config["source"]["augment"]["source"] |= AUGMENTATION["flip"]
    config["source"] |= {"steps": STEPS, "log_every": STEPS}
    config["source"]["optimizer"]["warmup_steps"] = 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(streets.PRESETS, preset.name, preset)
        with jax.numpy_dtype_promotion("standard"):
            experiment = loop.train(config, tmp_path_factory.mktemp("run"))
            rows = report.write(experiment)
    return {(row["domain"], row["bn"]): row["miou"] for row in rows}


@pytest.mark.long
def test_the_target_is_harder_than_the_source(rows):
    assert rows["source", "running"] > 0.15
    assert rows["target", "running"] < 0.75 * rows["source", "running"]


@pytest.mark.long
def test_target_statistics_repair_a_photometric_shift(rows):
    assert rows["target", "target"] > rows["target", "running"] + 0.02
    assert rows["source", "target"] < rows["source", "running"]
