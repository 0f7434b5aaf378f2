"""Every method of `METHODS` trains on `streets,tiny`, all of its stages, and learns."""

import json

import numpy as np
import pytest
import quick

from lsr_jax.augment.preprocess import AUGMENTATION
from lsr_jax.configs import streets
from lsr_jax.methods import METHODS
from lsr_jax.models import Architecture
from lsr_jax.ops import diagnostics
from lsr_jax.training import loop

FEW, MANY = 4, 20  # steps
# The first and the last of them, compared: single batches differ too much.
WINDOW = 6
SOURCE = "source"
# What is maximised, or has to grow.
RISING = {"spacing", "mean_norm_source", "mean_norm_target"}
# What twenty steps say nothing about, or "METHOD TERM"; that each of these terms goes
# down its own gradient is held by methods/descent_test.py.
NOT_JUDGED = {
    "gradient_norm": "no loss",
    "adversarial": "the other network answers",
    "adversarial_main": "the other network answers",
    "adversarial_aux": "the other network answers",
    "sapnet domain": "the network answers",
    "weight_discrepancy": "both heads still learn the same classes",
    "feature_to_adapt norm_source": "delta^2 whatever the features; mean_norm_* rise",
    "feature_to_adapt norm_target": "delta^2 whatever the features; mean_norm_* rise",
    "cag probability_labels": "0: no pixel has a probability of 0.95 yet",
    "cag distance_source": "a mean over what is predicted right in that very step",
    "cag distance_target": "a mean over what is predicted right in that very step",
}


@pytest.fixture(scope="module", autouse=True)
def _small():
    """A step takes seconds to compile and runs a few times."""
    with quick.discriminators():
        yield


def resolved(method, steps):
    config = streets.get_config(f"{method},tiny").to_dict()
    config["num_devices"] = 1
    config["model"]["aspp_dilations"] = config["model"]["aspp_dilations"][:1]
    for stage in config["stages"]:
        config[stage]["steps"] = steps
        config[stage]["log_every"] = 1
        config[stage]["checkpoint_every"] = steps
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
            trained[key] = folder / SOURCE
        return trained[key]

    return train


def train(method, steps, source_stage, folder):
    """``{stage: rows of its log}``, finite and one for every step."""
    config = resolved(method, steps)
    folders = {stage: folder / stage for stage in config["stages"]}
    if SOURCE in folders:
        folders[SOURCE] = source_stage(config)
    own = tuple(stage for stage in folders if stage != SOURCE)
    for stage in own:
        for key in ("init_from", "pseudo_labeler"):
            if config[stage][key] == SOURCE:
                config[stage][key] = str(folders[SOURCE])
    if own:
        loop.train({**config, "stages": own}, folder)
    found = {stage: rows(folder) for stage, folder in folders.items()}
    for log in found.values():
        assert [row["step"] for row in log] == list(range(1, steps + 1))
        assert all(np.isfinite(list(row.values())).all() for row in log)
    return found


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_stage_trains(method, source_stage, tmp_path):
    with quick.backbones(mini=quick.ThreeLayers()):
        logs = train(method, FEW, source_stage, tmp_path)
    for log in logs.values():
        assert log[0]["gradient_norm"] > 0
        assert log[0]["total"] != log[-1]["total"]


@pytest.mark.long  # methods/descent_test.py holds each term of every method
@pytest.mark.parametrize("method", METHODS)
def test_every_term_moves_the_right_way(method, source_stage, tmp_path):
    with quick.backbones(mini=Architecture(16, 8, (1, 1, 1, 1))):
        logs = train(method, MANY, source_stage, tmp_path)
    for stage, log in logs.items():
        for term in diagnostics.without(log[0]).keys() - {"step"}:
            if NOT_JUDGED.keys() & {term, f"{method} {term}"}:
                continue
            values = [row[term] for row in log]
            change = np.mean(values[-WINDOW:]) - np.mean(values[:WINDOW])
            assert (change > 0) if term in RISING else (change < 0), (stage, term)
