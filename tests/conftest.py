"""Eight virtual CPU devices, strict dtype promotion, a key, and the recorded goldens."""

import atexit
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import tempfile
from collections import Counter

# Set before JAX is imported, and inherited by pytest's workers and by the scripts that
# tests start: everything is compiled once for all of them, single operations too.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="lsr_jax-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Every worker of pytest has a core: a program is not split for compilation in parallel.
flags = [os.environ.get("XLA_FLAGS", ""), "--xla_cpu_parallel_codegen_split_count=1"]
# Most programs here run only a few times and compile in half of the time without
# optimization. CI runs the long tests with it: `JAX_DISABLE_MOST_OPTIMIZATIONS=0`.
# A quarter less with XLA's older emitters, which jaxlib 0.11 no longer has.
unoptimized = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1"
if unoptimized and importlib.metadata.version("jaxlib").startswith("0.10."):
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(flags)

import chex
import jax
import pytest
import recorded

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_configure(config):
    config.addinivalue_line(
        "markers",
        "golden(file, *patterns): the test reads every key of tests/goldens/FILE.npz that"
        " one of the regular expressions matches in full, and no other",
    )


def pytest_collection_modifyitems(items):
    """Files with many slow tests first, so that no worker begins a long one at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_functions():
    """Compiled networks of a module are of no use to the next, and fill the memory."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def optimized():
    """XLA's optimization, without which a convolution in float64 takes 50 times as long."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(autouse=True)
def _fresh_trace_counter():
    chex.clear_trace_counter()


@pytest.fixture
def golden(request, record_property):
    """What the test's ``golden`` marker names; each comparison becomes a property."""
    file, *patterns = request.node.get_closest_marker("golden").args
    golden = recorded.Golden(
        file, patterns, lambda check: record_property("golden", check._asdict())
    )
    yield golden
    unread = sorted(golden.arrays.keys() - golden.read)
    assert not unread, f"declared but not read: {unread}"


@pytest.fixture(scope="session")
def golden_keys():
    """``{file: {key: {shape, dtype, meaning}}}`` of every golden file kept here."""
    return recorded.keys()


@pytest.fixture(scope="session")
def load_config():
    """``load_config(name, argument=None) -> dict``: what ``--config configs/NAME.py`` gives."""
    root = pathlib.Path(__file__).parents[1]

    def load(name, argument=None):
        spec = importlib.util.spec_from_file_location(
            f"config_{name}", root / "configs" / f"{name}.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.get_config(argument).to_dict()

    return load
