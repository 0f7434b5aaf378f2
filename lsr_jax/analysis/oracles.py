"""Ratios of adapted networks to an oracle, a network trained on target labels (mASR)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lsr_jax import paths
from lsr_jax.analysis import captions, published, rows
from lsr_jax.analysis.rows import Row
from lsr_jax.errors import InputError

METHOD = "target_only"
PUBLISHED = "published"
PAPER = "LSR, Table 1 (CVPRW 2021)"


def attach(
    found: Sequence[Row],
    *,
    subsets: Mapping[str, Sequence[int]],
    origin: str | None = None,
) -> list[Row]:
    """The rows, those of the target domain with their ratio to the oracle's IoU.

    An oracle counts with its running statistics, on the same split under the same
    protocol. Rows without such an oracle stay as they are.

    Args:
      found: measured and recorded rows.
      subsets: of the classes, see `rows.make`.
      origin: "published" (LSR, Table 1), a workdir or a JSON file of rows with a
        ``target_only`` network; None takes the first of ``found``, if there is one.

    Raises:
      InputError: ``origin`` has no oracle, or none for these rows.
    """
    known = _known(found if origin is None else _read(origin))
    attached, count = [], 0
    for row in found:
        against = _match(row, known, origin) if row["domain"] == "target" else None
        if against:
            row = rows.with_asr(row, against[0], oracle=against[1], subsets=subsets)
            count += 1
        attached.append(row)
    if origin is not None and not count:
        kinds = ", ".join(sorted({f"{split} {protocol}" for split, protocol in known}))
        raise InputError(
            f"oracle {origin}: expected a split and protocol that is evaluated, found "
            f"{kinds}; evaluate the oracle in the same way first"
        )
    return attached


def published_score() -> published.Score:
    """The oracle of `PAPER`: Cityscapes val, DeepLabV2 with ResNet-101."""
    return next(
        score
        for score in published.scores()
        if (score.pair, score.method) == ("gta2cs", METHOD)
    )


def _read(origin):
    if origin == PUBLISHED:
        return []
    path = paths.expanded(origin, key="--oracle")
    path = path / "report" / "metrics.json" if path.is_dir() else path
    found = rows.read(path)
    if not _known(found):
        raise InputError(
            f"{path}: expected rows of a {METHOD} network on the target, found none"
        )
    return found


def _known(found):
    """``{(split, protocol): (IoU by class, words)}`` of the oracles among rows."""
    known = {}
    for row in found:
        if (row["method"], row["domain"], row["bn"]) != (METHOD, "target", "running"):
            continue
        words = f"{METHOD}, seed {row['seed']}, step {row['step']}"
        if "recorded" in row:
            words += " (recorded)"
        for protocol in captions.protocols(row):
            known.setdefault((row["split"], protocol), (row["iou"], words))
    return known


def _match(row, known, origin):
    if origin == PUBLISHED:
        score = published_score()
        return {name: percent / 100 for name, percent in score.iou.items()}, PAPER
    for protocol in captions.protocols(row):
        if (row["split"], protocol) in known:
            return known[row["split"], protocol]
    return None
