"""The formulations of one convolution against the plain one and against PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lsr_jax.models import convolution

CASES = {
    "pointwise": ((2, 7, 9, 6), (1, 1, 6, 8), {}),
    "pointwise to fewer": ((2, 7, 9, 8), (1, 1, 8, 6), {}),
    "pointwise strided": ((2, 7, 10, 6), (1, 1, 6, 8), {"stride": 2}),
    "stem": ((1, 17, 24, 3), (7, 7, 3, 8), {"stride": 2, "padding": 3}),
    "stem odd": ((1, 16, 15, 3), (7, 7, 3, 8), {"stride": 2, "padding": 3}),
    "stem even kernel": ((1, 16, 15, 3), (4, 4, 3, 8), {"stride": 2, "padding": 1}),
    "few outputs": ((2, 9, 11, 40), (3, 3, 40, 4), {"padding": 2, "dilation": 2}),
    "larger than the map": (
        (1, 5, 7, 40),
        (3, 3, 40, 4),
        {"padding": 6, "dilation": 6},
    ),
    "valid": ((1, 9, 11, 40), (3, 3, 40, 4), {"padding": 1, "dilation": 3}),
    "dilated": ((2, 9, 11, 6), (3, 3, 6, 8), {"padding": 4, "dilation": 4}),
    "many channels": ((2, 5, 6, 8), (3, 3, 8, 12), {"padding": 2, "dilation": 2}),
    "many channels valid": (
        (1, 6, 7, 12),
        (3, 3, 12, 8),
        {"padding": 1, "dilation": 2},
    ),
    "strided 4x4": ((2, 13, 16, 6), (4, 4, 6, 8), {"stride": 2, "padding": 1}),
}


def _plain(x, kernel, *, stride=1, padding=0, dilation=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((padding, padding),) * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.fixture(params=CASES)
def case(request, monkeypatch):
    # Of the many channels of a real network, sums would be less exact.
    monkeypatch.setattr(convolution, "MANY", 8)
    image, kernel, options = CASES[request.param]
    draw = np.random.default_rng(1)
    arrays = [draw.standard_normal(s).astype(np.float32) for s in (image, kernel)]
    return *arrays, options


def test_same_values_and_gradients_as_the_plain_convolution(case):
    x, kernel, options = case
    found, pull = jax.vjp(lambda *a: convolution.convolve(*a, **options), x, kernel)
    expected, plain_pull = jax.vjp(lambda *a: _plain(*a, **options), x, kernel)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    for gradient, reference in zip(pull(expected), plain_pull(expected), strict=True):
        scale = float(jnp.abs(reference).max())
        np.testing.assert_allclose(gradient, reference, atol=2e-6 * scale)


def test_no_gradient_is_a_loop(case):
    """All-reduces in a loop and outside of it are not ordered: CPU devices deadlock."""
    x, kernel, options = case

    def gradients(x, kernel, gradient):
        convolve = functools.partial(convolution.convolve, **options)
        return jax.vjp(convolve, x, kernel)[1](gradient)

    out = convolution.convolve(x, kernel, **options)
    program = jax.jit(gradients).lower(x, kernel, out).as_text()
    assert "dot_general" in program or "convolution" in program
    assert "stablehlo.while" not in program


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_accelerators_run_the_convolution_of_xla(platform, monkeypatch):
    """The matrix products were measured, and are faster, on CPUs only."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    for image, kernel, options in CASES.values():
        jaxpr = jax.make_jaxpr(lambda *a, o=options: convolution.convolve(*a, **o))(
            jnp.zeros(image), jnp.zeros(kernel)
        )
        used = {equation.primitive.name for equation in jaxpr.eqns}
        if platform != "cpu":
            assert "conv_general_dilated" in used
            assert "dot_general" not in used


def test_parity_with_torch(case):
    torch = pytest.importorskip("torch")
    x, kernel, options = case
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2),
        torch.from_numpy(kernel).permute(3, 2, 0, 1),
        **options,
    )
    found = convolution.convolve(jnp.asarray(x), jnp.asarray(kernel), **options)
    np.testing.assert_allclose(
        found, expected.permute(0, 2, 3, 1).numpy(), rtol=1e-5, atol=2e-5
    )
