"""The record of a stage: no step twice, none missing, nothing changed."""

import json

import eventfiles
import pytest
from tensorboardX.proto import event_pb2

from lsr_jax.errors import InputError
from lsr_jax.training.metrics_log import MetricsLog


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
    with pytest.raises(InputError, match=r"metrics\.jsonl: expected the 82 bytes"):
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
