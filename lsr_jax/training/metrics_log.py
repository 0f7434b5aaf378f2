"""One line of JSON and one TensorBoard event per logged step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter


class MetricsLog:
    """``folder/metrics.jsonl``, the record, and TensorBoard events beside it.

    A run that continues at step ``start`` drops what an interrupted one had logged
    beyond it, so that no step appears twice.
    """

    def __init__(self, folder: Path, *, start: int):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        kept = [line for line in read_lines(path) if json.loads(line)["step"] <= start]
        path.write_text("".join(kept))
        self._file = path.open("a")
        self._writer = SummaryWriter(str(folder), purge_step=start + 1)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
        self._writer.close()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step, counted from 1."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)


def read_lines(path: Path) -> list[str]:
    """The complete lines of a file; a half-written last line is left out."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(True) if line.endswith("\n")]
