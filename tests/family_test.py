"""Every method of `METHODS` trains on `streets,tiny`, all of its stages, and learns."""

import json

import numpy as np
import pytest

from configs import streets
from lsr_jax.data.augment import AUGMENTATION
from lsr_jax.methods import METHODS
from lsr_jax.training import loop

# Whole iterations of these are held against recorded ones, with every loss and every
# parameter, by loops_test.py and the tests of their own; here they take minutes.
HELD_ELSEWHERE = {
    "adapt_seg_net",
    "adv_ent",
    "clan",
    "feature_to_adapt",
    "max_square",
    "min_ent",
}
STEPS = 20
# The first and the last of them, compared: single batches differ too much.
WINDOW = 6
SOURCE = "source"


def resolved(method):
    config = streets.get_config(f"{method},tiny").to_dict()
    config["num_devices"] = 1
    for stage in config["stages"]:
        config[stage]["steps"] = STEPS
        config[stage]["log_every"] = 1
        config[stage]["checkpoint_every"] = STEPS
        config[stage]["optimizer"]["warmup_steps"] = 0
        for domain in ("source", "target"):  # seconds of compilation each
            config[stage]["augment"][domain].update(AUGMENTATION["none"])
    return config


@pytest.fixture(scope="module")
def source_stage(tmp_path_factory):
    """``config -> workdir/source``: one short pre-training for each network."""
    trained = {}

    def train(config):
        key = json.dumps([config["model"], config[SOURCE]], sort_keys=True)
        if key not in trained:
            folder = tmp_path_factory.mktemp("source")
            loop.train({**config, "stages": (SOURCE,)}, folder)
            trained[key] = str(folder / SOURCE)
        return trained[key]

    return train


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=pytest.mark.long if name in HELD_ELSEWHERE else ())
        for name in METHODS
    ],
)
def test_every_stage_trains_and_its_loss_falls(method, source_stage, tmp_path):
    config = resolved(method)
    if SOURCE in config["stages"][:-1]:
        origin = source_stage(config)
        config["stages"] = config["stages"][1:]
        for stage in config["stages"]:
            for key in ("init_from", "labeller"):
                if config[stage][key] == SOURCE:
                    config[stage][key] = origin
    loop.train(config, tmp_path)
    for stage in config["stages"]:
        found = rows(tmp_path / stage)
        assert [row["step"] for row in found] == list(range(1, STEPS + 1))
        assert all(np.isfinite(list(row.values())).all() for row in found)
        for term in ("segmentation", "total"):
            values = [row[term] for row in found]
            assert np.mean(values[-WINDOW:]) < np.mean(values[:WINDOW]), (stage, term)
