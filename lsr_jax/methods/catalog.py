"""The table of methods: what each is, adds and costs, found by tracing its loss."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lsr_jax import models
from lsr_jax.methods import METHODS
from lsr_jax.types import Batch, BatchSpec, Context, Images, Method, Pixels, PyTree

SIZE = (320, 320)  # the windows of SAPNet fit its 41x41 cells


class Facts(NamedTuple):
    """One row of the table."""

    name: str  # key in `METHODS`
    summary: str  # first line of the docstring of ``make``
    heads: tuple[str, ...]  # values of ``model.head``
    passes: tuple[str, ...]  # forward passes of a step: source, target or other
    extra_parameters: int  # that it adds to those of the network
    state: tuple[str, ...]  # parts of what it carries from step to step
    presets: tuple[str, ...]

    def cells(self) -> dict[str, str]:
        """The row as text, by column."""
        heads = "any" if len(self.heads) == 3 else ", ".join(self.heads)
        extra = f"{self.extra_parameters:,}" if self.extra_parameters else "-"
        return {
            "method": self.name,
            "what it is": self.summary,
            "heads": heads,
            "passes": " + ".join(self.passes),
            "extra parameters": extra,
            "state": ", ".join(self.state) or "-",
            "presets": ", ".join(self.presets) or "-",
        }


def all_facts() -> list[Facts]:
    """The facts of every method in `METHODS`."""
    return [facts(name) for name in METHODS]


def facts(name: str) -> Facts:
    """The facts of one method at its defaults; nothing is computed, only traced."""
    entry = METHODS[name]
    method = entry.make()
    passes: list[str] = []
    model, shapes = _network(method.heads[0])
    extra, state = jax.eval_shape(
        lambda *network: trace(method, model, network, passes)[:2], *shapes
    )
    return Facts(
        name=name,
        summary=(entry.make.__doc__ or "").strip().splitlines()[0],
        heads=method.heads,
        passes=tuple(passes),
        extra_parameters=sum(math.prod(x.shape) for x in jax.tree.leaves(extra)),
        state=state._fields if hasattr(state, "_fields") else tuple(state),
        presets=tuple(entry.presets),
    )


@functools.cache
def _network(head: str) -> tuple[models.Model, tuple[PyTree, PyTree]]:
    model = models.build(backbone="mini", num_classes=19, head=head)
    return model, jax.eval_shape(lambda: model.init(jax.random.key(0), SIZE))


def trace(
    method: Method,
    model: models.Model,
    network: tuple[PyTree, PyTree],
    passes: list[str],
) -> tuple[PyTree, PyTree, Mapping[str, jax.Array]]:
    """Run a method's loss once; returns its parameters, its state and its metrics.

    For every forward pass the domain of its images is appended to ``passes``.
    """
    params, model_state = network
    spec = BatchSpec(model.num_classes, model.feature_dim, SIZE, SIZE)
    extra, state = method.init(jax.random.key(0), params, model_state, spec)
    batch = Batch(*(images(method, domain) for domain in Batch._fields))
    domains = {id(one.image): name for name, one in batch._asdict().items() if one}

    def forward(params, model_state, image, train, dropout=True):
        passes.append(domains.get(id(image), "other"))
        rng = jax.random.key(0) if dropout else None
        return model.forward(params, model_state, image, train, rng)

    key, pixels = jax.random.key(0), Pixels(lambda image: image, lambda image: image)
    context = Context(forward, model_state, jnp.zeros((), jnp.int32), key, pixels)
    _, aux = method.loss({"model": params, **extra}, state, batch, context)
    return extra, state, aux.metrics


def images(method: Method, domain: str) -> Images | None:
    """Two empty images of a domain, labelled if the method may read labels."""
    if domain not in method.domains:
        return None
    label = jnp.zeros((2, *SIZE), jnp.int32) if method.gets_labels(domain) else None
    return Images(jnp.zeros((2, *SIZE, 3)), label)


def markdown(rows: list[Facts]) -> str:
    """The rows as a Markdown table."""
    cells = [row.cells() for row in rows]
    columns = list(cells[0])
    lines = [columns, ["---"] * len(columns), *(row.values() for row in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def text(rows: list[Facts]) -> str:
    """The rows for a terminal: name and summary, then the facts, indented."""
    blocks = []
    for row in rows:
        cells = row.cells()
        name, summary = cells.pop("method"), cells.pop("what it is")
        facts = "; ".join(f"{key}: {x}" for key, x in cells.items() if x != "-")
        blocks.append(f"{name:<18}{summary}\n{'':<18}{facts}")
    return "\n".join(blocks) + "\n"
