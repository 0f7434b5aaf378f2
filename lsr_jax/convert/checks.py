"""Refusals that more than one step of the conversion needs, each one line."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lsr_jax import errors

SHOWN = 8


def classes(path: object, found: int | None, expected: int | None) -> None:
    """Refuses a head with another number of classes; None is unknown."""
    if found and expected and found != expected:
        raise errors.InputError(
            f"{path}: its head has {found} classes, the model {expected}; set "
            f"num_classes to {found} or skip the head"
        )


def match(
    origin: object,
    missing: Collection[str],
    unexpected: Collection[str],
    wrong: Mapping[str, tuple],
) -> None:
    """Refuses names without a partner, on either side, and other shapes.

    ``wrong`` maps a name to the shape found and the shape expected.
    """
    shapes = [f"{name} {ours} instead of {due}" for name, (ours, due) in wrong.items()]
    parts = [
        f"{label} {len(items)}: {', '.join(items[:SHOWN])}"
        + (", ..." if len(items) > SHOWN else "")
        for label, items in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("wrong shape", shapes),
        )
        if items
    ]
    if parts:
        raise errors.InputError(
            f"{origin}: does not match the model; {'; '.join(parts)}"
        )
