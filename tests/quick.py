"""Little optimisation, for what is compiled for seconds and runs a few times."""

import contextlib
import importlib

import jax
import pytest

# The package's attribute of this name is the function.
DISCRIMINATOR = importlib.import_module("lsr_jax.models.discriminator")


@contextlib.contextmanager
def compilation():
    """XLA leaves out the passes that only make a program faster."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


@contextlib.contextmanager
def discriminators():
    """Narrow ones: seconds are spent on 2.8 million parameters each."""
    narrow = {name: min(width, 4) for name, width in DISCRIMINATOR.WIDTHS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DISCRIMINATOR, "WIDTHS", narrow)
        yield
