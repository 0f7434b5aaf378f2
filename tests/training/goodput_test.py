"""A clock that is told what is no training."""

import pytest

from lsr_jax.training.goodput import Goodput


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_share_of_the_time_that_was_not_lost():
    clock = Clock()
    goodput = Goodput(clock)
    assert goodput.metrics() == {"goodput": 1.0}
    for name, seconds in (("compile", 2.0), ("data", 0.5), ("data", 0.5)):
        with goodput.lost(name):
            clock.now += seconds
    clock.now += 9.0
    assert goodput.metrics() == {
        "goodput": pytest.approx(0.75),
        "lost_compile_seconds": 2.0,
        "lost_data_seconds": 1.0,
    }
    assert goodput.summary() == (
        "75.0% of the time spent in steps (compile 2.0 s, data 1.0 s)"
    )


def test_what_fails_is_lost_too():
    clock = Clock()
    goodput = Goodput(clock)

    def fail():
        clock.now += 1.0
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), goodput.lost("checkpoint"):
        fail()
    clock.now += 1.0
    assert goodput.metrics()["goodput"] == pytest.approx(0.5)
