"""What is known of a step before it runs."""

import chex
import jax
import jax.numpy as jnp
import pytest

from lsr_jax.errors import InputError
from lsr_jax.training import compile, sharding
from lsr_jax.training.stage import Experiment


def test_cost_of_a_matrix_product_on_two_devices():
    mesh = sharding.make_mesh(2)
    weights = sharding.replicate(jnp.ones((64, 32)), mesh)
    rows = sharding.shard_batch(jnp.ones((128, 64)), mesh)
    step = sharding.jit_step(lambda w, x: (w + 1, (x @ w).sum()), mesh)
    call, cost = compile.compile_program(compile.trace(step, weights, rows))
    product = 2 * 128 * 64 * 32
    assert product / 2 <= cost.flops < 1.2 * product / 2
    arguments = 4 * (64 * 32 + 128 * 64 // 2)
    assert arguments <= cost.peak_bytes
    assert 0 <= cost.temporary_bytes < cost.peak_bytes
    assert call(weights, rows)[1] == 128 * 64 * 32
    line = compile.summary(cost, steps=1000, rate=cost.flops)
    assert "1000 steps take 16 min 40 s or more" in line


def test_arithmetic_of_a_loop_is_that_of_the_whole():
    rows = sharding.replicate(jnp.ones((64, 16, 16)), sharding.make_mesh(1))
    square = jax.jit(lambda x: x @ x)
    loop = jax.jit(lambda x: jax.lax.map(lambda part: part @ part, x))
    _, once = compile.compile_program(compile.trace(loop, rows))
    _, cost = compile.compile_program(compile.trace(loop, rows, counted=square))
    product = 64 * 2 * 16**3
    assert once.flops < product / 10
    assert cost.flops == pytest.approx(product, rel=0.1)


@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16"])
def test_a_large_product_has_a_rate(dtype, monkeypatch):
    monkeypatch.setitem(compile.MATRIX_ROWS, "cpu", 64)
    assert compile.matmul_rate(dtype) > 1e6


def test_lack_of_memory_says_what_to_change():
    reason = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 80000 bytes."
    with (
        pytest.raises(InputError, match=r"80000 bytes.*model\.remat=True") as caught,
        compile.memory_advice(),
    ):
        raise jax.errors.JaxRuntimeError(reason)
    assert "\n" not in str(caught.value)


def test_other_errors_of_a_device_stay_what_they_are():
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        compile.memory_advice(),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (75.2, "1 min 15 s"), (7300.0, "2 h 1 min")]
)
def test_duration(seconds, text):
    assert compile.duration(seconds) == text


def kept_in(given):
    """Where programs are kept if JAX is told ``given``."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", given)
    try:
        compile.keep_programs()
        return jax.config.jax_compilation_cache_dir
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("given", [None, "/somewhere"])
def test_programs_are_kept_where_jax_is_told(given, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kept_in(given) == (given or str(tmp_path / ".cache/lsr_jax/programs"))


def test_without_a_home_programs_are_not_kept(monkeypatch, capsys):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert kept_in(None) is None
    assert "JAX_COMPILATION_CACHE_DIR" in capsys.readouterr().err


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
        found = sharding.shard_batch(found, experiment.mesh)
        expected = compile.batch(experiment, stage)
        chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
        placements = [x.sharding for x in jax.tree.leaves(expected)]
        assert placements == [x.sharding for x in jax.tree.leaves(found)]


def test_stages_that_are_through_are_not_traced(config, tmp_path):
    experiment = Experiment(config, tmp_path)
    last = str(config["source"]["steps"])
    (experiment.checkpoints("source") / last).mkdir(parents=True)
    programs = compile.trace_all(experiment)
    assert set(programs) == {"adapt"}
    assert programs["adapt"].counted is programs["adapt"].step


def test_keys_without_a_step_are_named(config, tmp_path):
    config["adapt"]["method"]["entropy"] = "much"
    experiment = Experiment(config, tmp_path)
    told = r"^adapt: cannot be built from its keys: TypeError: .*; --debug shows where$"
    with pytest.raises(InputError, match=told):
        compile.trace_stage(experiment, "adapt")


def test_a_full_device_is_no_fault_of_the_keys(config, tmp_path, monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")

    experiment = Experiment(config, tmp_path)
    monkeypatch.setattr(compile, "_trace", full)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        compile.trace_stage(experiment, "adapt")
