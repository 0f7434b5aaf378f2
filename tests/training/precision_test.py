"""Fifty steps in bfloat16 against the same in float32, on `streets`."""

import json

import jax
import numpy as np
import pytest

from lsr_jax.training import checkpoint, loop, stage

STEPS = 50
# Measured: 0.0003, 0.14 and 0.014.
LOSS_DRIFT = 0.01  # of the mean cross-entropy of the last ten steps, relative
PARAMETER_DRIFT = 0.3  # distance of the networks over the way that float32 went
PROTOTYPE_DRIFT = 0.05  # of the prototypes, relative


@pytest.fixture(scope="module")
def runs(load_config, tmp_path_factory):
    """``{dtype: (logged losses, first and last network)}``."""
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setenv("LSR_JAX_DATA", str(tmp_path_factory.mktemp("data")))
        yield {
            dtype: run(load_config, dtype, tmp_path_factory.mktemp(dtype))
            for dtype in ("float32", "bfloat16")
        }


def run(load_config, dtype, folder):
    config = load_config("streets", "lsr,tiny")
    config |= {"stages": ("adapt",), "cpu_devices": 1, "num_devices": 1}
    config["model"] |= {"dtype": dtype, "aspp_dilations": (2,)}
    config["adapt"] |= {
        "init_from": "scratch",
        "steps": STEPS,
        "log_every": 1,
        "checkpoint_every": STEPS,
    }
    (adapt,) = stage.build_stages(loop.train(config, folder))
    first = adapt.start()
    with checkpoint.Checkpointer(adapt.checkpoints) as checkpoints:
        last, _ = checkpoints.restore(STEPS, first)
    lines = (folder / "adapt" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], *map(jax.device_get, (first, last))


def vector(params):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


@pytest.mark.long
def test_bfloat16_drifts_little(runs):
    full, (low_lines, _, low) = runs["float32"], runs["bfloat16"]
    lines, first, last = full
    losses = [[line["segmentation"] for line in run] for run in (lines, low_lines)]
    ends = [np.mean(run[-10:]) for run in losses]
    assert ends[0] < 0.6 * losses[0][0]  # it learns
    assert abs(ends[1] - ends[0]) < LOSS_DRIFT * ends[0]

    start, end, other = (vector(state.params) for state in (first, last, low))
    way = np.linalg.norm(end - start)
    assert 0 < np.linalg.norm(other - end) < PARAMETER_DRIFT * way
    means = [state.method_state.prototypes.mean for state in (last, low)]
    distance = np.linalg.norm(means[1] - means[0])
    assert 0 < distance < PROTOTYPE_DRIFT * np.linalg.norm(means[0])
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(low.params)}
    assert dtypes == {"float32"}
