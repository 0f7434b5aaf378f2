"""What each method is, adds and costs, read off the method itself."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lsr_jax import models
from lsr_jax.methods import METHODS
from lsr_jax.types import Batch, BatchSpec, Context, Images, Method, Pixels, PyTree

NUM_CLASSES = 19
SIZE = (64, 128)
COLUMNS = (
    "method",
    "what it is",
    "heads",
    "passes",
    "extra parameters",
    "state",
    "presets",
)


class Facts(NamedTuple):
    """One row of the list.

    Attributes:
      name: the key in `METHODS`.
      summary: first line of the docstring of its ``make``, with the paper.
      heads: of the network, as ``model.head`` names them.
      passes: forward passes of a step, as ``source``, ``target`` or ``other``.
      extra_parameters: number of parameters that it adds to those of the network.
      state: top-level parts of the state that it carries from step to step.
      presets: names of its sets of keywords.
    """

    name: str
    summary: str
    heads: tuple[str, ...]
    passes: tuple[str, ...]
    extra_parameters: int
    state: tuple[str, ...]
    presets: tuple[str, ...]

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `COLUMNS`."""
        heads = "any" if len(self.heads) == 3 else ", ".join(self.heads)
        return (
            self.name,
            self.summary,
            heads,
            " + ".join(self.passes),
            f"{self.extra_parameters:,}" if self.extra_parameters else "-",
            ", ".join(self.state) or "-",
            ", ".join(self.presets) or "-",
        )


def all_facts() -> list[Facts]:
    """The facts of every method in `METHODS`."""
    return [facts(name) for name in METHODS]


def facts(name: str, keywords: Mapping[str, Any] | None = None) -> Facts:
    """The facts of one method at its defaults, found by tracing a step's loss.

    Nothing is computed: the small network is traced with shapes alone.

    Args:
      name: a key of `METHODS`.
      keywords: of its ``make``, instead of the defaults.
    """
    entry = METHODS[name]
    method = entry.make(**(keywords or {}))
    passes: list[str] = []
    extra, state = jax.eval_shape(
        lambda *network: trace(method, network, passes),
        *_network_shapes(method.heads[0]),
    )
    return Facts(
        name=name,
        summary=(entry.make.__doc__ or "").strip().splitlines()[0],
        heads=method.heads,
        passes=tuple(passes),
        extra_parameters=sum(math.prod(x.shape) for x in jax.tree.leaves(extra)),
        state=parts(state),
        presets=tuple(entry.presets),
    )


@functools.cache
def _model(head: str) -> models.Model:
    return models.build(backbone="mini", num_classes=NUM_CLASSES, head=head)


@functools.cache
def _network_shapes(head: str) -> tuple[PyTree, PyTree]:
    return jax.eval_shape(lambda: _model(head).init(jax.random.key(0), SIZE))


def trace(
    method: Method, network: tuple[PyTree, PyTree], passes: list[str]
) -> tuple[PyTree, PyTree]:
    """Build and run a method's loss once; returns its parameters and its state.

    ``passes`` gets the name of what goes through the network at every call.
    """
    model, (params, model_state) = _model(method.heads[0]), network
    spec = BatchSpec(NUM_CLASSES, model.feature_dim, SIZE, SIZE)
    extra, state = method.init(jax.random.key(0), params, model_state, spec)
    batch = Batch(*(images(method, domain) for domain in ("source", "target")))

    def forward(params, model_state, image, train):
        passes.append(
            next(
                (
                    name
                    for name, domain in zip(batch._fields, batch, strict=True)
                    if domain is not None and image is domain.image
                ),
                "other",
            )
        )
        return model.forward(params, model_state, image, train, jax.random.key(0))

    context = Context(
        forward,
        model_state,
        jnp.zeros((), jnp.int32),
        jax.random.key(0),
        Pixels(lambda image: image, lambda image: image),
    )
    method.loss({"model": params, **extra}, state, batch, context)
    return extra, state


def images(method: Method, domain: str) -> Images | None:
    """Two empty images of a domain, labelled if the method may read labels."""
    if domain not in method.domains:
        return None
    labelled = method.gets_labels(domain)
    label = jnp.zeros((2, *SIZE), jnp.int32) if labelled else None
    return Images(jnp.zeros((2, *SIZE, 3)), label)


def parts(state: PyTree) -> tuple[str, ...]:
    """Names of the top-level parts of a method's state."""
    if hasattr(state, "_fields"):
        return state._fields
    return tuple(state)


def markdown(rows: list[Facts]) -> str:
    """The rows as a Markdown table."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def text(rows: list[Facts]) -> str:
    """The rows for a terminal: name and summary, then the facts, indented."""
    blocks = []
    for row in rows:
        name, summary, *cells = row.cells()
        pairs = zip(COLUMNS[2:], cells, strict=True)
        facts = "; ".join(f"{title}: {cell}" for title, cell in pairs if cell != "-")
        blocks.append(f"{name:<18}{summary}\n{'':<18}{facts}")
    return "\n".join(blocks) + "\n"
