"""The step of a stage, known before anything is drawn, read or compiled."""

import chex
import jax
import pytest

from lsr_jax.errors import InputError
from lsr_jax.training import sharding, tracing
from lsr_jax.training.experiment import Experiment


@pytest.fixture(scope="module", autouse=True)
def _surroundings(tmp_path_factory):
    """Data drawn once; optax's AdamW mixes integer counts and float rates."""
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setenv("LSR_JAX_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture
def config(load_config):
    config = load_config("streets", "max_square,tiny")
    return config | {"num_devices": 2}


def test_the_batch_is_that_of_the_pipeline(config, tmp_path):
    experiment = Experiment(config, tmp_path)
    for stage in config["stages"]:
        batches = experiment.batches(stage, 0)
        found, _ = next(batches)
        batches.close()
        found = sharding.put_batch(found, experiment.mesh)
        expected = tracing.batch(experiment, stage)
        chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
        placements = [x.sharding for x in jax.tree.leaves(expected)]
        assert placements == [x.sharding for x in jax.tree.leaves(found)]


def test_stages_that_are_through_are_not_traced(config, tmp_path):
    experiment = Experiment(config, tmp_path)
    last = str(config["source"]["steps"])
    (experiment.checkpoints("source") / last).mkdir(parents=True)
    programs = tracing.trace_all(experiment)
    assert set(programs) == {"adapt"}
    assert programs["adapt"].counted is programs["adapt"].step


def test_keys_without_a_step_are_named(config, tmp_path):
    config["adapt"]["method"]["entropy"] = "much"
    experiment = Experiment(config, tmp_path)
    told = r"^adapt: cannot be built from its keys: TypeError: .*; --debug shows where$"
    with pytest.raises(InputError, match=told):
        tracing.trace(experiment, "adapt")


def test_a_full_device_is_no_fault_of_the_keys(config, tmp_path, monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")

    experiment = Experiment(config, tmp_path)
    monkeypatch.setattr(tracing, "_trace", full)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        tracing.trace(experiment, "adapt")
