"""Batches that are on the device before the step that needs them."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def ahead(
    batches: Iterable, put: Callable[[Any], Any], *, depth: int = 2
) -> Iterator[Any]:
    """``put`` of every batch, started ``depth`` batches before it is asked for.

    Transfers to a device are asynchronous: while the device works on one step, the
    batches of the next ``depth`` are already on their way.

    Args:
      batches: of the pipeline, in order; may be endless.
      put: starts the transfer, e.g. `sharding.put_batch`.
      depth: batches in flight; each takes its size of device memory.
    """
    queue = collections.deque()
    for batch in batches:
        queue.append(put(batch))
        if len(queue) > depth:
            yield queue.popleft()
    yield from queue
