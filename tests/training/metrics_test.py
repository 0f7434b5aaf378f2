"""The record of a stage: no step twice, none missing, nothing changed."""

import json
import math

import eventfiles
import jax.numpy as jnp
import pytest
from tensorboardX.proto import event_pb2

from lsr_jax import cli
from lsr_jax.errors import InputError, TrainingError
from lsr_jax.training import metrics
from lsr_jax.training.metrics import Goodput, MetricsLog, Monitor, format_ids


def steps(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def write(folder, numbers, **options):
    """Logs these steps; the position after each."""
    with MetricsLog(folder, start=numbers[0] - 1, **options) as log:
        positions = []
        for number in numbers:
            log.write(number, {"total": number / 3})
            positions.append(log.position())
    return positions


def test_what_was_logged_beyond_the_checkpoint_is_dropped(tmp_path):
    positions = write(tmp_path / "a", [1, 2, 3, 4])
    write(tmp_path / "a", [3, 4, 5], position=positions[1])
    write(tmp_path / "b", [1, 2, 3, 4, 5])
    texts = [(tmp_path / x / "metrics.jsonl").read_bytes() for x in "ab"]
    assert texts[0] == texts[1]


def test_a_half_written_line_is_dropped(tmp_path):
    positions = write(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "tot')
    write(tmp_path, [3], position=positions[1])
    assert steps(tmp_path) == [1, 2, 3]


def test_without_a_checkpoint_the_log_begins_anew(tmp_path):
    write(tmp_path, [1, 2])
    write(tmp_path, [1])
    assert steps(tmp_path) == [1]


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_log_that_is_not_what_was_written_is_refused(damage, tmp_path):
    position = write(tmp_path, [1, 2])[1]
    path = tmp_path / "metrics.jsonl"
    text = path.read_text()
    new = {"changed": text.replace("0.6", "0.7"), "cut": text[:-5], "gone": ""}[damage]
    path.write_text(new)
    with pytest.raises(InputError, match=r"metrics\.jsonl: its first 82 bytes changed"):
        MetricsLog(tmp_path, start=2, position=position)
    assert path.read_text() == new


def test_tensorboard_forgets_what_is_logged_again(tmp_path):
    position = write(tmp_path / "a", [1, 2])[0]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "metrics.jsonl").write_bytes(
        (tmp_path / "a" / "metrics.jsonl").read_bytes()
    )
    write(tmp_path / "b", [2], position=position)
    begin, *rest = eventfiles.read(tmp_path / "b")
    assert begin.session_log.status == event_pb2.SessionLog.START
    assert begin.step == 2
    assert [(e.step, e.summary.value[0].tag) for e in rest] == [(2, "total")]


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


METRICS = {"total": 0.5, "target_labelled": 0.75, "entropy": 0.25}


def train(kind):
    with metrics.Progress(kind, "adapt", steps=4, start=2) as shown:
        shown.update()
        shown.update()
        shown.show(4, METRICS)


def test_lines_go_to_stderr(capsys):
    train("lines")
    assert capsys.readouterr() == ("", "adapt 4/4: total 0.500, entropy 0.250\n")


def test_auto_is_lines_away_from_a_terminal(capsys):
    train("auto")
    assert "adapt 4/4: total 0.500" in capsys.readouterr().err


def test_json_is_alone_on_stdout(capsys):
    train("json")
    out, err = capsys.readouterr()
    assert json.loads(out) == {"stage": "adapt", "steps": 4, "step": 4, **METRICS}
    assert err == ""


def test_none_is_silent(capsys):
    train("none")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("part", ["adapt: 100%", "4/4", "total=0.500, entropy=0.250"])
def test_a_bar_counts_and_names_the_terms(part, capsys, monkeypatch):
    monkeypatch.setattr(cli, "LINE_SECONDS", 0)
    train("bar")
    assert part in capsys.readouterr().err


IDS = {"source": tuple(f"s{i}" for i in range(11)), "target": ("t0",)}


@pytest.fixture
def bar():
    with metrics.Progress("none", "adapt", steps=9, start=0) as bar:
        yield bar


def settings(**more):
    return {"steps": 9, "log_every": 4, "on_nonfinite": "stop", **more}


def values(total, **more):
    numbers = {"total": total, "gradient_norm": 1.0, **more}
    return {name: jnp.float32(x) for name, x in numbers.items()}


def test_a_step_that_is_not_logged_is_checked_one_step_late(tmp_path, bar):
    with MetricsLog(tmp_path, start=0) as log:
        monitor = Monitor("adapt", settings(), log, bar)
        monitor.add(1, values(1.0), IDS)
        monitor.add(2, values(math.nan), IDS)
        with pytest.raises(TrainingError) as caught:
            monitor.add(3, values(1.0), IDS)
    assert str(caught.value).startswith(
        "stage adapt, step 2: not finite: total; examples: source s0, s1, s2, s3, s4, "
        "s5, s6, s7 and 3 more; target t0; the last checkpoint is intact"
    )


def test_the_last_step_is_settled_before_it_is_saved(tmp_path, bar):
    with MetricsLog(tmp_path, start=0) as log:
        monitor = Monitor("adapt", settings(), log, bar)
        monitor.add(1, values(1.0, gradient_norm=math.inf), IDS)
        with pytest.raises(TrainingError, match="gradient_norm"):
            monitor.flush()


def test_skipped_steps_are_told_and_logged_as_null(tmp_path, bar, capsys):
    with MetricsLog(tmp_path, start=0) as log:
        monitor = Monitor("adapt", settings(on_nonfinite="skip"), log, bar)
        for number in range(1, 10):
            bad = number == 4
            total = math.nan if bad else 1.0
            monitor.add(number, values(total, skipped=float(number >= 4)), IDS)
        monitor.flush()
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert told[0].startswith("skipped (1 in this stage): stage adapt, step 4: not fin")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [line["step"] for line in found] == [4, 8, 9]
    assert [line["total"] for line in found] == [None, 1.0, 1.0]


def test_ids_of_a_short_batch_are_all_named():
    assert format_ids({"source": ("a", "b")}) == "source a, b"
