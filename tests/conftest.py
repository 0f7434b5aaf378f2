"""Eight virtual CPU devices, strict dtype promotion, a key, and the recorded goldens."""

import json
import pathlib
import re

import chex
import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")

GOLDENS = pathlib.Path(__file__).parent / "goldens"


def pytest_configure(config):
    config.addinivalue_line(
        "markers",
        "golden(file, *patterns): the test reads every key of tests/goldens/FILE.npz that"
        " one of the regular expressions matches in full, and no other",
    )


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(autouse=True)
def _fresh_trace_counter():
    chex.clear_trace_counter()


class Golden:
    """The share of one golden file that a test says it holds; notes what it reads."""

    def __init__(self, file, patterns):
        with np.load(GOLDENS / f"{file}.npz", allow_pickle=False) as arrays:
            self.arrays = {
                key: arrays[key]
                for key in arrays.files
                if any(re.fullmatch(pattern, key) for pattern in patterns)
            }
        self.read = set()

    def __getitem__(self, key):
        self.read.add(key)
        return self.arrays[key]

    def holds(self, key, ours, rtol=None):
        """Floats to 1e-5 (float64: 1e-9) relative, everything else exactly."""
        golden = self[key]
        assert ours.shape == golden.shape, key
        if golden.dtype.kind != "f":
            np.testing.assert_array_equal(ours, golden, err_msg=key)
            return
        default = 1e-9 if golden.dtype == np.float64 else 1e-5
        rtol = default if rtol is None else rtol
        np.testing.assert_allclose(ours, golden, rtol=rtol, atol=1e-30, err_msg=key)

    def holds_gradient(self, key, ours):
        """Every entry to 1e-5 of the largest."""
        golden = self[key]
        atol = 1e-5 * np.abs(golden).max()
        np.testing.assert_allclose(ours, golden, rtol=0, atol=atol, err_msg=key)


@pytest.fixture
def golden(request):
    file, *patterns = request.node.get_closest_marker("golden").args
    golden = Golden(file, patterns)
    yield golden
    unread = sorted(golden.arrays.keys() - golden.read)
    assert not unread, f"declared but not read: {unread}"


@pytest.fixture(scope="session")
def golden_keys():
    """``{file: {key: {shape, dtype, meaning}}}`` of every golden file kept here."""
    return json.loads((GOLDENS / "keys.json").read_text())
