"""Transfers start early and keep their order."""

import itertools

import pytest

from lsr_jax.training import prefetch


def test_two_batches_are_under_way_before_they_are_asked_for():
    started = []

    def put(number):
        started.append(number)
        return 10 * number

    batches = prefetch.ahead(itertools.count(), put, depth=2)
    assert next(batches) == 0
    assert started == [0, 1, 2]
    assert next(batches) == 10
    assert started == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_last_batches_are_not_lost(count):
    batches = prefetch.ahead(range(count), lambda x: x, depth=2)
    assert list(batches) == list(range(count))
