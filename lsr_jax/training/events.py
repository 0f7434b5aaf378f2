"""What TensorBoard shows: scalars, histograms and images in an event file."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

BINS = 30  # as many as TensorBoard draws


class Events:
    """One new event file, ``folder/events.out.tfevents.*``; nothing but files is needed.

    Written by this thread: a full disk is then an error here, and not a queue that
    nobody empties any more.
    """

    def __init__(self, folder: Path, *, first: int):
        """Opens the file.

        Args:
          folder: where older files of the same run may lie.
          first: TensorBoard forgets what those hold from this step on.
        """
        self._file = event_file_writer.EventsWriter(
            str(folder / "events"), f".{os.getpid()}"
        )
        begin = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(first, session_log=begin)

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Nothing can be written any more."""
        self._file.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One number a name."""
        for name, value in values.items():
            self._write(step, summary=summary.scalar(name, value))
        self._file.flush()

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """The distribution of finite values of any shape; at least one."""
        content = summary.histogram(name, values, bins=BINS)
        self._write(step, summary=content)
        self._file.flush()

    def image(self, step: int, name: str, pixels: np.ndarray, description: str) -> None:
        """A uint8 ``[H, W, 3]`` image as PNG, and what it shows in words."""
        content = summary.image(name, pixels, dataformats="HWC")
        content.value[0].metadata.summary_description = description
        self._write(step, summary=content)
        self._file.flush()

    def _write(self, step: int, **content) -> None:
        self._file.write_event(
            event_pb2.Event(wall_time=time.time(), step=step, **content)
        )
