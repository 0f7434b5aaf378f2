import json

import pytest

from lsr_jax.training import progress

METRICS = {"total": 0.5, "target_kept": 0.75, "entropy": 0.25}


def train(kind):
    with progress.begin(kind, "adapt", steps=4, start=2) as shown:
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
def test_a_bar_counts_and_names_the_terms(part, capsys):
    train("bar")
    assert part in capsys.readouterr().err
