import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax.ops import windows
from lsr_jax.training import sharding

IMAGES = np.random.default_rng(0).normal(size=(2, 12, 20, 3)).astype(np.float32)


def test_cut_and_paste():
    corners = jnp.array([[0, 4], [8, 16]])
    parts = windows.cut(IMAGES, corners, (4, 4))
    np.testing.assert_array_equal(parts[0], IMAGES[0, :4, 4:8])
    np.testing.assert_array_equal(parts[1], IMAGES[1, 8:, 16:])
    whole = np.array(windows.paste(parts, corners, (12, 20)))
    np.testing.assert_array_equal(whole[1, 8:, 16:], IMAGES[1, 8:, 16:])
    whole[0, :4, 4:8] = whole[1, 8:, 16:] = 0
    assert not whole.any()


def test_starts():
    assert windows.starts(64, 32) == [0, 16, 32]
    assert windows.starts(96, 64) == [0, 32]
    assert windows.starts(96, 40) == [0, 20, 40, 56]
    assert windows.starts(32, 32) == [0]


@pytest.mark.parametrize("window", [(12, 20), (4, 8), (8, 8)])
def test_sliding_a_local_function_changes_nothing(window):
    found = jax.jit(lambda x: windows.slide(lambda y: 2 * y, x, window))(IMAGES)
    np.testing.assert_allclose(found, 2 * IMAGES, rtol=1e-6)


def test_sliding_averages_over_the_windows():
    """Each window is its own mean, at half of the resolution."""

    def mean(batch):
        means = batch.mean((1, 2), keepdims=True)
        return jnp.broadcast_to(means, (len(batch), 2, 2, 1))

    line = np.arange(8.0)[None, None, :, None].repeat(4, 1)
    found = np.asarray(windows.slide(mean, jnp.asarray(line, jnp.float32), (4, 4)))
    np.testing.assert_allclose(found[0, 0, :, 0], [1.5, 2.5, 4.5, 5.5])


def test_windows_stay_on_the_devices_of_their_images():
    mesh = sharding.make_mesh(8)
    images = sharding.shard_batch(np.repeat(IMAGES, 4, axis=0), mesh)
    function = jax.jit(lambda x: windows.slide(lambda y: 2 * y, x, (4, 8)))
    program = function.lower(images).compile()
    assert program.output_shardings.is_equivalent_to(sharding.split(mesh), 4)
    for communication in ("all-", "collective-"):
        assert communication not in program.as_text()
