"""Narrow discriminators."""

import contextlib

import pytest
import quick


@pytest.fixture(autouse=True)
def _narrow_discriminators(request):
    wanted = (request.node.get_closest_marker(name) for name in ("golden", "full_size"))
    with contextlib.nullcontext() if any(wanted) else quick.discriminators():
        yield
