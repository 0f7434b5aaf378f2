"""Narrow discriminators: their seconds are spent on 2.8 million parameters each."""

import importlib

import pytest

# The package's attribute of this name is the function.
MODULE = importlib.import_module("lsr_jax.models.discriminator")


@pytest.fixture(autouse=True)
def _narrow_discriminators(request, monkeypatch):
    wanted = (request.node.get_closest_marker(name) for name in ("golden", "full_size"))
    if not any(wanted):
        narrow = {name: min(width, 4) for name, width in MODULE.WIDTHS.items()}
        monkeypatch.setattr(MODULE, "WIDTHS", narrow)
