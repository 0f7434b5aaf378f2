"""What is known of a step before it runs."""

import os
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from lsr_jax.errors import InputError
from lsr_jax.training import compile, sharding


def test_cost_of_a_matrix_product_on_two_devices():
    mesh = sharding.make_mesh(2)
    weights = sharding.replicate(jnp.ones((64, 32)), mesh)
    rows = sharding.shard_batch(jnp.ones((128, 64)), mesh)
    step = sharding.jit_step(lambda w, x: (w + 1, (x @ w).sum()), mesh)
    call, cost = compile.compile_traced(step.trace(weights, rows))
    product = 2 * 128 * 64 * 32
    assert product / 2 <= cost.flops < 1.2 * product / 2
    arguments = 4 * (64 * 32 + 128 * 64 // 2)
    assert arguments <= cost.peak_bytes
    assert 0 <= cost.temporary_bytes < cost.peak_bytes
    assert call(weights, rows)[1] == 128 * 64 * 32


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


def kept_in(given):
    """Where programs are kept if JAX is told ``given``."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", given)
    try:
        compile.use_persistent_cache()
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its malloc is set")
@pytest.mark.parametrize(
    ("devices", "megabytes", "kept"),
    [(None, 16, False), (1, 16, True), (2, 16, True), (1, 64, True)],
)
def test_freed_memory_is_kept(devices, megabytes, kept):
    """A thread fills an array, frees it and fills as much again; None: a plain process."""
    code = f"""
import ctypes, resource, threading
from lsr_jax.training import compile
if {devices}:
    compile.keep_memory({devices})
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def fill_twice():
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        array = ctypes.c_void_p(libc.malloc({megabytes} << 20))
        ctypes.memset(array, 1, {megabytes} << 20)
        libc.free(array)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
faults = []
thread = threading.Thread(target=fill_twice)
thread.start()
thread.join()
print(faults[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    pages = (megabytes << 20) / os.sysconf("SC_PAGE_SIZE")
    assert (int(done.stdout) < 0.01 * pages) == kept


def test_variables_do_not_change_the_numbers(tmp_path):
    code = """
from lsr_jax.training import compile
compile.configure(1)
import os
import subprocess
import sys

import jax
print(jax.numpy.arange(2.0).dtype, jax.random.key(0).dtype)
"""
    changed = {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **changed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "float32 key<fry>\n"
