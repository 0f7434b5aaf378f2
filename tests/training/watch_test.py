"""Every step is checked, whether or not it is logged."""

import json
import math

import jax.numpy as jnp
import pytest

from lsr_jax.errors import TrainingError
from lsr_jax.training import progress
from lsr_jax.training.metrics_log import MetricsLog
from lsr_jax.training.watch import Watch, named

IDS = {"source": tuple(f"s{i}" for i in range(11)), "target": ("t0",)}


@pytest.fixture
def bar():
    with progress.Silent() as bar:
        yield bar


def settings(**more):
    return {"steps": 9, "log_every": 4, "on_nonfinite": "stop", **more}


def values(total, **more):
    numbers = {"total": total, "gradient_norm": 1.0, **more}
    return {name: jnp.float32(x) for name, x in numbers.items()}


def test_a_step_that_is_not_logged_is_checked_one_step_late(tmp_path, bar):
    with MetricsLog(tmp_path, start=0) as log:
        watch = Watch("adapt", settings(), log, bar)
        watch.take(1, values(1.0), IDS)
        watch.take(2, values(math.nan), IDS)
        with pytest.raises(TrainingError) as caught:
            watch.take(3, values(1.0), IDS)
    assert str(caught.value).startswith(
        "stage adapt, step 2: not finite: total; examples: source s0, s1, s2, s3, s4, "
        "s5, s6, s7 and 3 more; target t0; the last checkpoint is kept"
    )


def test_the_last_step_is_settled_before_it_is_saved(tmp_path, bar):
    with MetricsLog(tmp_path, start=0) as log:
        watch = Watch("adapt", settings(), log, bar)
        watch.take(1, values(1.0, gradient_norm=math.inf), IDS)
        with pytest.raises(TrainingError, match="gradient_norm"):
            watch.settle()


def test_skipped_steps_are_told_and_logged_as_null(tmp_path, bar, capsys):
    with MetricsLog(tmp_path, start=0) as log:
        watch = Watch("adapt", settings(on_nonfinite="skip"), log, bar)
        for number in range(1, 10):
            bad = number == 4
            total = math.nan if bad else 1.0
            watch.take(number, values(total, skipped=float(number >= 4)), IDS)
        watch.settle()
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert told[0].startswith("skipped (1 in this stage): stage adapt, step 4: not fin")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [line["step"] for line in found] == [4, 8, 9]
    assert [line["total"] for line in found] == [None, 1.0, 1.0]


def test_ids_of_a_short_batch_are_all_named():
    assert named({"source": ("a", "b")}) == "source a, b"
