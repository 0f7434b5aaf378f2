"""What has to stand beside a number: the facts of a row, in captions and columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lsr_jax.analysis.rows import Row

FACTS = ("seed", "step", "selection", "averaging", "weights")
LINE = ("stage", "method", *FACTS, "recorded")
# What a row says that was written before there were views to choose.
UNSAID = {"averaging": "one view"}
ABSENT = "-"
DIGITS = 8  # of a fingerprint


def facts(lines: Iterable[tuple]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """What lines share, and what differs between them.

    Args:
      lines: the values of `LINE` of each.

    Returns:
      ``{fact: text}`` of those that all share, ``{fact: a text for each line}``.
    """
    found = [dict(zip(LINE, line, strict=True)) for line in lines]
    shared, differing = {}, {}
    for key in FACTS:
        cells = tuple(_text(key, facts[key]) for facts in found)
        if len(set(cells)) > 1:
            differing[key] = cells
        elif cells[0] != ABSENT:
            shared[key] = cells[0]
    return shared, differing


def phrase(protocol: str, rows: Sequence[Row], shared: Mapping[str, str]) -> str:
    """The protocol, what lines share, and the fingerprints of the data."""
    own = [row for row in rows if row["protocol"] == protocol and "recorded" not in row]
    same = {row.get("same_as") for row in own}
    words = [f"protocol {protocol}"]
    if len(same) == 1 and None not in same:
        words = [f"protocol {protocol} (= {same.pop()})"]
    words += [f"{key} {value}" for key, value in shared.items() if key not in UNSAID]
    words += [value for key, value in shared.items() if key in UNSAID]
    prints = {}
    for row in rows:
        if "data" in row:
            prints.setdefault(row["data"][:DIGITS], {})[row["domain"]] = None
    words += [f"data {short} ({', '.join(of)})" for short, of in prints.items()]
    return ", ".join(words)


def against(rows: Sequence[Row]) -> str:
    """Which oracles ratios are taken to, as the end of a caption."""
    oracles = dict.fromkeys(row["oracle"] for row in rows if "oracle" in row)
    return "".join(f"; ASR: ratio to {oracle}" for oracle in oracles)


def machine(facts: Mapping) -> str:
    """Where a run was made, from its manifest or `workdir.environment`."""
    versions = ", ".join(f"{name} {v}" for name, v in facts["versions"].items())
    system = facts["platform"].split("-")[0]
    return (
        f"{facts['cpus']} cores ({facts['device_kind']}), {system}, "
        f"Python {facts['python']}, {versions}"
    )


def protocols(row: Row) -> tuple[str, ...]:
    """The protocols whose number a row holds."""
    return (row["protocol"], *row.get("same_as", "").split())


def member(facts: Mapping) -> str:
    """A network of an ensemble in words."""
    words = [f"{key} {_text(key, facts[key])}" for key in FACTS if key in facts]
    return ", ".join([facts["method"], *words])


def _text(key, value):
    if value is None:
        return UNSAID.get(key, ABSENT)
    return value[:DIGITS] if key == "weights" else str(value)
