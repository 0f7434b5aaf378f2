"""What the numbers of a config may be: one table, read before anything is opened.

Keywords of the methods have one meaning wherever they appear, so they stand here by
their names; ``METHOD.KEYWORD`` is for a name that means something else in one method.
Choices among words are checked where the words are known.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

from lsr_jax.errors import InputError

# What the arrays of a run can hold: int32 and float32.
MOST_WHOLE, MOST = 2**31 - 1, 3.4028235e38


class Range(NamedTuple):
    """Numbers that a key may have; NaN and infinity are never among them.

    Attributes:
      least: the smallest one.
      most: the largest one; None: what an array can hold.
      without: an end that does not belong to it.
      whole: no fractions.
      count: how many of them a tuple has, 0 for one or more; None: a single number.
      rising: the numbers of a tuple do not fall.
      beside: values that are allowed beside numbers.
      unit: what the number is, where the key does not say it.
    """

    least: float = 0
    most: float | None = None
    without: float | None = None
    whole: bool = False
    count: int | None = None
    rising: bool = False
    beside: tuple = ()
    unit: str = ""

    def check(self, key: str, value: Any) -> None:
        """Raise InputError, with one line, for a value outside."""
        value = tuple(value) if isinstance(value, list) else value
        if value in self.beside or self.holds(value):
            return
        expected = " or ".join([self.words(value), *map(str, self.beside)])
        raise InputError(f"{key}: expected {expected}, found {value!r}")

    def holds(self, value: Any) -> bool:
        """Whether a value is a number, or a tuple of numbers, within the range."""
        if self.count is None:
            return self.holds_number(value)
        if not isinstance(value, tuple) or not all(map(self.holds_number, value)):
            return False
        if len(value) != (self.count or max(len(value), 1)):
            return False
        return not self.rising or list(value) == sorted(value)

    def holds_number(self, value: Any) -> bool:
        """Whether it is one number within the range."""
        kind = numbers.Integral if self.whole else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool):
            return False
        return self.least <= value <= self.end() and value != self.without

    def end(self) -> float:
        """The largest number."""
        if self.most is not None:
            return self.most
        return MOST_WHOLE if self.whole else MOST

    def words(self, value: Any) -> str:
        """What is expected in place of ``value``."""
        found = value if isinstance(value, tuple) else (value,)
        if self == FINITE:
            interval = "a finite number"
        elif self.most is not None:
            below = "below " if self.without == self.most else ""
            interval = f"{self.least} to {below}{self.most}"
        elif any(isinstance(one, numbers.Real) and one > self.end() for one in found):
            interval = f"at most {self.end()}"
        else:
            bound = "more than" if self.without == self.least else "at least"
            interval = f"{bound} {self.least}"
        if self.unit:
            interval += f" ({self.unit})"
        if self.count is None:
            fraction = self.whole and not isinstance(value, numbers.Integral)
            return f"a whole number, {interval}" if fraction else interval
        kind = "whole numbers" if self.whole else "numbers"
        rising = " in rising order" if self.rising else ""
        return f"{self.count or 'one or more'} {kind}{rising}, each {interval}"


FINITE = Range(-MOST)
WEIGHT = Range(unit="weight of a term that is minimised")
EXPONENT = Range(unit="exponent")
SHARE = Range(0, 1, unit="a share")
PROBABILITY = Range(0, 1, unit="a probability")
MOMENTUM = Range(0, 1, without=1, unit="weight of the old value")
NUMBER = Range(1, whole=True)
NUMBER_OR_0 = Range(whole=True)
OPTIONAL = NUMBER._replace(beside=(None,))
SIZE = Range(1, whole=True, count=2, unit="height and width")

CONFIG = {
    # Larger ones would repeat the draws of smaller ones: JAX takes 32 bits.
    "seed": Range(0, 2**32 - 1, whole=True),
    "num_devices": OPTIONAL,
    "cpu_devices": Range(1, 1024, whole=True),
    "data.workers": NUMBER_OR_0,
    "data.source.size": SIZE._replace(beside=((0, 0),)),
    "data.target.size": SIZE._replace(beside=((0, 0),)),
    "model.num_classes": Range(2, 255, whole=True),
    "model.aspp_dilations": Range(1, whole=True, count=0, unit="feature cells"),
    "model.bn_group_size": OPTIONAL,
    "evaluation.batch_size": NUMBER,
    "evaluation.batchnorm_images": NUMBER,
    "evaluation.panel_images": NUMBER,
    "evaluation.every": NUMBER_OR_0,
}

AUGMENT = {
    "scale": Range(without=0, count=2, rising=True, beside=(None,), unit="a factor"),
    "crop": SIZE._replace(beside=(None,)),
    "flip": PROBABILITY,
    "white_point": Range(0, 255, whole=True, unit="levels"),
    "jitter": Range(0, 255, whole=True, unit="levels"),
    "blur": Range(unit="pixels"),
    "blur_probability": PROBABILITY,
    "contrast": Range(0, 1, unit="half the range of a factor around 1"),
    "saturation": Range(0, 1, unit="half the range of a factor around 1"),
    "noise": Range(0, 255, unit="levels"),
}

# Of the section of a stage.
STAGE = {
    "steps": NUMBER,
    "batch_size": NUMBER,
    "micro_batches": NUMBER,
    "log_every": NUMBER,
    "checkpoint_every": NUMBER,
    "keep_every": NUMBER_OR_0,
    "feature_norm.weight": WEIGHT,
    "feature_norm.delta": Range(unit="in units of the norm"),
    "feature_norm.rate": Range(unit="0 does not fade"),
    "feature_norm.decay_steps": OPTIONAL,
    "optimizer.learning_rate": Range(without=0),
    "optimizer.head_multiplier": Range(),
    "optimizer.momentum": MOMENTUM,
    "optimizer.weight_decay": Range(),
    "optimizer.power": EXPONENT,
    "optimizer.decay_steps": OPTIONAL,
    "optimizer.warmup_steps": NUMBER_OR_0,
    "optimizer.schedule_offset": NUMBER_OR_0,
    "optimizer.discriminator_rate": Range(),
    "optimizer.discriminator_decay": Range(),
    **{f"augment.source.{key}": allowed for key, allowed in AUGMENT.items()},
    **{f"augment.target.{key}": allowed for key, allowed in AUGMENT.items()},
}

# Of its method; a weight of 0 leaves the term out.
METHOD = {
    "adversarial": WEIGHT,
    "anchor_labels": WEIGHT,
    "auxiliary": WEIGHT,
    "auxiliary_adversarial": WEIGHT,
    "auxiliary_entropy": WEIGHT,
    "blur_probability": PROBABILITY,
    "blur_sigma": Range(without=0, count=2, rising=True, unit="pixels"),
    "bdl.cap": PROBABILITY,
    "cag.cap": Range(1, unit="images"),
    "clustering": WEIGHT,
    "confidence": PROBABILITY,
    "contraction_source": WEIGHT,
    "contraction_target": WEIGHT,
    "directions": NUMBER,
    "discrepancy": WEIGHT,
    "discriminator": WEIGHT,
    "discriminator_warmup_steps": NUMBER_OR_0,
    "distance_order": Range(1, 2, whole=True),
    "distance_source": WEIGHT,
    "distance_target": WEIGHT,
    "entropy": WEIGHT,
    "entropy_ratio": Range(0, 1, unit="exponent"),
    "epsilon": WEIGHT,
    "gamma": EXPONENT,
    "gap": Range(unit="difference of two distances"),
    "guidance": WEIGHT,
    "histogram_threshold": SHARE,
    "decay_steps": OPTIONAL,
    "feature_to_adapt.decay_steps": NUMBER,
    "image_weighting": Range(0, 1, beside=(None,), unit="exponent"),
    "jitter": Range(0, 1, unit="half the range of a factor around 1"),
    "jitter_probability": PROBABILITY,
    "minimum": Range(1, whole=True, unit="cells"),
    "mixed": WEIGHT,
    "norm": WEIGHT,
    "norm_delta": Range(unit="in units of the norm"),
    "norm_rate": Range(unit="0 does not fade"),
    "orthogonality": WEIGHT,
    "perpendicularity": WEIGHT,
    "portion": SHARE,
    "warmup_steps": NUMBER_OR_0,
    "probability": PROBABILITY,
    "probability_labels": WEIGHT,
    "prototype_momentum": MOMENTUM,
    "segmentation": WEIGHT,
    "self_training": WEIGHT,
    "spacing": Range(unit="weight of a term that is maximised"),
    "sparsity": WEIGHT,
    "sparsity_exponent": Range(1, whole=True, unit="exponent"),
    "sparsity_threshold": SHARE,
    "strength": WEIGHT,
    "teacher_momentum": Range(0, 1, unit="weight of the old value"),
    "temperature": Range(without=0),
    "threshold": PROBABILITY,
    "weight_discrepancy": WEIGHT,
}


def check(config: Mapping) -> None:
    """Raise InputError for the first number of a resolved config outside its range.

    A number of a method that the table does not know has only to be finite.
    """
    for key, allowed in CONFIG.items():
        allowed.check(key, value_of(config, key))
    for stage in config["stages"]:
        for key, allowed in STAGE.items():
            allowed.check(f"{stage}.{key}", value_of(config[stage], key))
        method = config[stage]["method"]
        for key, value in method.items():
            allowed = of_method(method["name"], key)
            if allowed is None and isinstance(value, float):
                allowed = FINITE
            if allowed is not None:
                allowed.check(f"{stage}.method.{key}", value)


def of_method(method: str, keyword: str) -> Range | None:
    """The range of a keyword of a method's ``make``; None: it has none."""
    return METHOD.get(f"{method}.{keyword}", METHOD.get(keyword))


def value_of(config: Mapping, key: str) -> Any:
    """What a config has at ``a.b.c``."""
    for part in key.split("."):
        config = config[part]
    return config
