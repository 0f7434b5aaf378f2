"""Narrow discriminators, and programs that are compiled quickly."""

import contextlib

import pytest
import quick


@pytest.fixture(scope="module", autouse=True)
def _quickly_compiled():
    with quick.compilation():
        yield


@pytest.fixture(autouse=True)
def _narrow_discriminators(request):
    wanted = (request.node.get_closest_marker(name) for name in ("golden", "full_size"))
    with contextlib.nullcontext() if any(wanted) else quick.discriminators():
        yield
