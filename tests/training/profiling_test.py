"""Which steps a trace holds."""

import jax
import pytest

from lsr_jax.training.profiling import Profiler


@pytest.fixture
def calls(monkeypatch):
    made = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: made.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: made.append("stop"))
    return made


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (2, []),
        (3, ["folder", "stop"]),
        (9, ["folder", 0, 0, "stop", 0, 0, 0, 0]),
    ],
)
def test_steps_between_the_calls(calls, tmp_path, steps, expected):
    with Profiler(tmp_path, skip=2, count=2) as profiler:
        for number in range(steps):
            profiler.step()
            if number >= 2:
                calls.append(0)
    wanted = [tmp_path if call == "folder" else call for call in expected]
    if steps == 3:
        wanted.insert(1, 0)
    assert calls[: len(wanted)] == wanted
    assert calls.count("stop") == expected.count("stop")


def test_without_a_folder_nothing_is_traced(calls):
    with Profiler(None) as profiler:
        for _ in range(20):
            profiler.step()
    assert calls == []
