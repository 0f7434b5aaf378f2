"""SGD and AdamW with polynomial decay over parameter groups, as optax transformations.

SGD orders its operations as PyTorch does. Every leaf of the parameter tree belongs to
exactly one group: the first whose pattern matches its path. A leaf that no pattern
matches is an error, so nothing is left untrained, or decayed, by accident.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lsr_jax.errors import InputError
from lsr_jax.keywords import (
    Count,
    CountOrZero,
    Exponent,
    Momentum,
    NonNegative,
    Positive,
)
from lsr_jax.types import PyTree


def poly(
    learning_rate: float,
    *,
    decay_steps: int,
    power: float = 0.9,
    warmup_steps: int = 0,
    warmup: Literal["replaces", "multiplies"] = "replaces",
    schedule_offset: int = 0,
) -> optax.Schedule:
    """Polynomial decay, evaluated before step ``t`` (counted from 0).

    ``lr(t) = learning_rate * (1 - t / decay_steps) ** power``. A warm-up that "replaces"
    it gives ``lr(t) = learning_rate * t / warmup_steps``, and, as in CLAN, a jump onto the
    polynomial after it. One that "multiplies" it has the factor
    ``s + (1 - s) 1e-6``, ``s = t / warmup_steps``, and no jump, as in mmcv's linear warm-up
    (``runner/hooks/lr_updater.py``; DAFormer). After ``decay_steps`` the rate is 0 (the
    originals turn complex there). ``schedule_offset`` is added to ``t``: 1 for CAG, which
    advances its schedule before the first step, not after it.
    """

    def schedule(count: jax.Array) -> jax.Array:
        t = jnp.asarray(count, float) + schedule_offset
        # Not 1 - t / decay_steps: near its end float32 would lose most digits.
        decay = (jnp.maximum(decay_steps - t, 0.0) / decay_steps) ** power
        begun = t / max(warmup_steps, 1)
        if warmup == "multiplies":
            begun = decay * (begun + (1 - begun) * START)
        return learning_rate * jnp.where(t < warmup_steps, begun, decay)

    return schedule


START = 1 - (1 - 1e-6)  # factor of mmcv's warm-up at step 0, with its rounding


class RepeatedSGDState(NamedTuple):
    """Step count and the momentum buffer of `repeated_sgd`."""

    count: jax.Array
    momentum: PyTree


def repeated_sgd(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float, repeats: int
) -> optax.GradientTransformation:
    """SGD as torch runs it on a parameter that its optimizer lists ``repeats`` times.

    Within one step, with one gradient g and rate lr, ``repeats`` times::

        v <- momentum * v + (g + weight_decay * theta)
        theta <- theta - lr * v

    In the very first step every repetition starts a new buffer, ``v = g +
    weight_decay * theta``, and the last one is kept (torch 2.13, `torch.optim.SGD`).
    The nominal 1 : 10 ratio of backbone and head thus becomes about 3 : 10.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return RepeatedSGDState(jnp.zeros((), jnp.int32), zeros)

    def update(grads, state, params):
        rate = schedule(state.count)
        # A fresh buffer equals an old one that is forgotten.
        keep = jnp.where(state.count == 0, 0.0, momentum)

        def leaf(grad, velocity, start):
            theta = start
            for _ in range(repeats):
                decayed = grad + weight_decay * theta
                velocity = keep.astype(grad.dtype) * velocity + decayed
                theta = theta - rate.astype(grad.dtype) * velocity
            return theta - start, velocity

        pairs = jax.tree.map(leaf, grads, state.momentum, params)
        updates, velocity = (
            jax.tree.map(lambda _, pair, i=i: pair[i], grads, pairs) for i in (0, 1)
        )
        return updates, RepeatedSGDState(state.count + 1, velocity)

    return optax.GradientTransformation(init, update)


def sgd(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float, repeats: int = 1
) -> optax.GradientTransformation:
    """SGD in torch's order: ``v <- momentum v + (g + weight_decay theta)``, ``theta <- theta - lr v``.

    The first call sets ``v = g + weight_decay theta``; no dampening, no Nesterov; the
    rate stays outside the buffer.
    """
    if repeats > 1:
        return repeated_sgd(
            schedule, momentum=momentum, weight_decay=weight_decay, repeats=repeats
        )
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(schedule),
    )


def promoting(
    transformation: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Allow dtype promotion inside: optax's Adam mixes int and float."""

    def update(grads, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return transformation.update(grads, state, params)

    return optax.GradientTransformation(transformation.init, update)


class Group(NamedTuple):
    """Parameters that share a learning rate.

    Attributes:
      pattern: regular expression, searched in paths such as
        ``model/backbone/layer1_0/conv1/kernel``.
      multiplier: factor on the base learning rate; None freezes the group: no
        gradient step, no momentum, no weight decay.
      repeats: updates per step with one gradient, see `repeated_sgd`.
      discriminator: trained by Adam with its own rate.
      decays: whether the weight decay applies.
    """

    pattern: str
    multiplier: float | None = 1.0
    repeats: int = 1
    discriminator: bool = False
    decays: bool = True


DISCRIMINATORS = Group(r"^disc/", discriminator=True)


def labels(params: PyTree, groups: Sequence[Group]) -> PyTree:
    """The tree of ``params`` with every leaf replaced by the index of its group.

    Raises:
      InputError: a leaf matches no group.
    """

    def index(path, _) -> str:
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        for number, group in enumerate(groups):
            if re.search(group.pattern, path):
                return str(number)
        raise InputError(
            f"optimizer: parameter {path!r} belongs to no group (patterns: "
            f"{[group.pattern for group in groups]})"
        )

    return jax.tree_util.tree_map_with_path(index, params)


def model_groups(
    *,
    head_multiplier: NonNegative,
    frozen: Iterable[str] = (),
    repeated: Iterable[tuple[str, int]] = (),
    duplicate_updates: Literal["off", "sequential"] = "off",
    decay_norms: bool = True,
) -> list[Group]:
    """The groups of every method: frozen, backbone at 1x, heads at 10x, discriminators.

    Args:
      head_multiplier: 10 in all originals but ASN's VGG (1). OCE and LSR declare 1 for
        VGG too, yet their scheduler overwrites it with 10 at every step.
      frozen: patterns of what is never updated nor decayed.
      repeated: patterns of what the originals update several times in a step, and how
        often, see `models.Model`.
      duplicate_updates: "off", or "sequential" for these repeated updates.
      decay_norms: False: parameters of the backbone's LayerNorms are not decayed, as in
        DAFormer, whose heads decay all theirs.
    """
    groups = [Group(pattern, None) for pattern in frozen]
    if duplicate_updates == "sequential":
        groups += [Group(pattern, 1.0, repeats) for pattern, repeats in repeated]
    if not decay_norms:
        groups.append(Group(r"^model/backbone/.*norm", decays=False))
    groups += [
        Group(r"^model/backbone/"),
        Group(r"^model/(head|aux_head|attention)/", head_multiplier),
        DISCRIMINATORS,
    ]
    return groups


def make(
    params: PyTree,
    groups: Sequence[Group],
    *,
    name: Literal["sgd", "adamw"],
    learning_rate: Positive,
    weight_decay: NonNegative,
    momentum: Momentum,
    decay_steps: Count | None,
    power: Exponent,
    warmup_steps: CountOrZero,
    warmup: Literal["replaces", "multiplies"] = "replaces",
    schedule_offset: CountOrZero = 0,
    discriminator_rate: NonNegative = 1e-4,
    discriminator_decay: NonNegative = 0.0,
) -> optax.GradientTransformation:
    """One optimizer for the whole parameter tree.

    Discriminators have Adam with betas 0.9 and 0.99 on the same polynomial, as in
    AdaptSegNet, ADVENT, CLAN, BDL and Feature To Adapt.

    Args:
      params: the tree, or its shapes.
      groups: first match wins.
      name: "sgd" (coupled decay) or "adamw" (decoupled decay; ``momentum`` is b1).
      learning_rate: of a group with multiplier 1.
      weight_decay: per step; scaled by the rate as each optimizer defines.
      momentum: weight of the old value.
      decay_steps: see `poly`; None in a config is the number of steps of the stage.
      power: see `poly`, likewise ``schedule_offset``.
      warmup_steps: from 0, and
      warmup: see `poly`.
      schedule_offset: in steps.
      discriminator_rate: learning rate of discriminators.
      discriminator_decay: their weight decay, added to the gradient.

    Raises:
      InputError: a leaf that belongs to no group.
    """

    def transformation(group: Group) -> optax.GradientTransformation:
        if group.multiplier is None:
            return optax.set_to_zero()
        rate = discriminator_rate if group.discriminator else learning_rate
        schedule = poly(
            rate * group.multiplier,
            decay_steps=decay_steps,
            power=power,
            warmup_steps=warmup_steps,
            warmup=warmup,
            schedule_offset=schedule_offset,
        )
        if group.discriminator:
            return optax.chain(
                optax.add_decayed_weights(discriminator_decay),
                promoting(optax.adam(schedule, b1=0.9, b2=0.99)),
            )
        decay = weight_decay if group.decays else 0.0
        if name == "adamw":
            return promoting(optax.adamw(schedule, b1=momentum, weight_decay=decay))
        return sgd(
            schedule,
            momentum=momentum,
            weight_decay=decay,
            repeats=group.repeats,
        )

    named = labels(params, groups)
    used = set(jax.tree.leaves(named))
    transformations = {
        str(i): transformation(group)
        for i, group in enumerate(groups)
        if str(i) in used
    }
    return optax.partition(transformations, named)
