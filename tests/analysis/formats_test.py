import re

import pytest

from lsr_jax.analysis import formats
from lsr_jax.analysis.tables import Column, Table


def make_table(stages=3):
    numbers = [tuple(f"{10 * i + j}.5" for j in range(2)) for i in range(stages)]
    names = [f"very_long_stage_{i}" for i in range(stages)]
    return Table(
        "IoU in percent",
        (
            Column("", "class", ("road", "traffic_light")),
            *(Column("g%", n, c) for n, c in zip(names, numbers, strict=True)),
        ),
        (("very_long_stage_0 * recorded by", "python train.py --config=x"),),
        (0, 1),
    )


def test_terminal_aligns_cells_under_groups():
    text = formats.terminal([make_table()])
    caption, _, groups, *heading, rule, first, rule2, last, _, note, command = (
        text.splitlines()
    )
    assert caption == "IoU in percent"
    assert groups.index("g%") == first.index("|") + 2
    assert [re.sub(r"[| ]+", " ", line).strip() for line in heading] == [
        *("very_long_ very_long_ very_long_", "class stage_0 stage_1 stage_2"),
    ]
    assert set(rule) == {"-"}
    assert rule == rule2
    assert len(rule) == len(first) == len(last)
    assert first.split() == ["road", "|", "0.5", "10.5", "20.5"]
    assert last.split() == ["traffic_light", "|", "1.5", "11.5", "21.5"]
    assert note.endswith("recorded by")
    assert command == "    python train.py --config=x"


def test_terminal_continues_a_wide_table_below():
    lines = formats.terminal([make_table(23)]).splitlines()
    assert max(map(len, lines)) <= formats.WIDTH
    roads = [line.split() for line in lines if line.startswith("road")]
    assert len(roads) == 3
    numbers = [cell for road in roads for cell in road[2:]]
    assert numbers == [f"{10 * i}.5" for i in range(23)]


def test_markdown_has_equal_cells_in_every_line():
    text = formats.markdown([make_table(), make_table(1)])
    first, second = text.split("IoU in percent")[1:]
    for part, columns in ((first, 4), (second, 2)):
        piped = [line for line in part.splitlines() if line.startswith("|")]
        assert {line.count("|") for line in piped} == {columns + 1}
        assert len(piped) == 4
        assert piped[1].split() == ["|", ":--", *["|", "--:"] * (columns - 1), "|"]
        assert "g%<br>very_long_stage_0" in piped[0]
        assert "`python train.py --config=x`" in part


@pytest.mark.parametrize("stages", [1, 3])
def test_latex_is_a_tabular_without_bare_special_characters(stages):
    text = formats.latex([make_table(stages)])
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert lines[0] == rf"\begin{{tabular}}{{l{'r' * stages}}}"
    assert lines[-1] == r"\end{tabular}"
    body = [line for line in lines[2:-1] if line != r"\hline"]
    assert {line.count(" & ") for line in body} == {stages}
    assert lines.count(r"\hline") == 2
    assert not re.search(r"(?<!\\)[_%]", "\n".join(lines))
    assert r"traffic\_light & 1.5" in text


def test_latex_takes_no_name_for_a_command():
    column = Column("", r"a\b{c}~d^e", ("&", "#1_$", "100%"))
    text = formats.latex([Table("c", (column,), (), ())])
    heading, first, second, third = text.splitlines()[2:-1]
    spelled = r"a\textbackslash{}b\{c\}\textasciitilde{}d\textasciicircum{}e"
    assert heading == spelled + r" \\"
    assert [first, second, third] == [r"\& \\", r"\#1\_\$ \\", r"100\% \\"]


def test_bars_stand_under_each_other_below_a_long_group():
    columns = (
        Column("", "stage", ("a",)),
        Column("a group wider than its column", "mIoU", ("10.0",)),
        Column("next", "mIoU", ("20.0",)),
    )
    lines = formats.terminal([Table("c", columns, ())]).splitlines()[2:]
    bars = [[i for i, letter in enumerate(line) if letter == "|"] for line in lines]
    assert bars[0] == bars[1] == bars[3]
    assert len(bars[0]) == 2
