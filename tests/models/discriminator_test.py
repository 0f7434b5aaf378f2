"""The discriminator's shape, initialisation and PyTorch twin."""

import jax
import numpy as np
import pytest

from lsr_jax import models

NAMES = ("conv1", "conv2", "conv3", "conv4", "classifier")


@pytest.fixture(scope="module")
def network():
    init, apply = models.discriminator(7)
    return init(jax.random.key(1)), apply


def test_output_is_one_thirty_second(network):
    params, apply = network
    maps = jax.ShapeDtypeStruct((2, 512, 1024, 7), "float32")
    assert jax.eval_shape(apply, params, maps).shape == (2, 16, 32, 1)
    maps = jax.ShapeDtypeStruct((1, 720, 1280, 7), "float32")
    assert jax.eval_shape(apply, params, maps).shape == (1, 22, 40, 1)


def test_initialisation_is_torchs_default(network):
    params, _ = network
    for name in NAMES:
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        bound = np.prod(kernel.shape[:3]) ** -0.5
        assert np.abs(kernel).max() <= bound
        assert np.abs(bias).max() <= bound
        # A uniform draw fills its range: standard deviation bound / sqrt(3).
        np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.05)


def test_parity_with_torch(network):
    torch = pytest.importorskip("torch")
    params, apply = network
    twin = torch.nn.Sequential()
    for name in NAMES:
        kernel = np.array(params[name]["kernel"])
        conv = torch.nn.Conv2d(*kernel.shape[2:], 4, stride=2, padding=1)
        conv.weight.data = torch.from_numpy(kernel).permute(3, 2, 0, 1)
        conv.bias.data = torch.from_numpy(np.array(params[name]["bias"]))
        twin.append(conv)
        if name != "classifier":
            twin.append(torch.nn.LeakyReLU(0.2))
    maps = np.random.default_rng(2).random((1, 70, 64, 7)).astype(np.float32)
    expected = twin(torch.from_numpy(maps).permute(0, 3, 1, 2)).detach()
    expected = expected.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(apply(params, maps), expected, rtol=1e-4, atol=1e-6)
