"""Training steps to measure: any method, random images, compiled as in training."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import numpy as np

from lsr_jax import models
from lsr_jax.augment import preprocess
from lsr_jax.methods import METHODS, common
from lsr_jax.training import compile, microbatch, optimizer, sharding, state, step
from lsr_jax.types import Aux, Batch, BatchSpec, Images, Method

BASELINE = "two_domains"
NUM_CLASSES = 19
BLOCK = 32  # pixels; labels are constant in blocks, so that feature cells have a class


class Setting(NamedTuple):
    """Settings of a step.

    Attributes:
      method: a key of METHODS, or `BASELINE`.
      source_size: ``(H, W)``.
      target_size: ``(H, W)``.
      batch_size: images of each domain, over all devices.
      dtype: as ``model.dtype``.
      devices: number of devices.
      backbone: as ``model.backbone``.
      remat: as ``model.remat``.
      micro_batches: as in a stage.
    """

    method: str
    source_size: tuple[int, int]
    target_size: tuple[int, int]
    batch_size: int = 1
    dtype: str = "float32"
    devices: int = 1
    backbone: str = "resnet101"
    remat: bool = False
    micro_batches: int = 1

    def name(self) -> str:
        """Short description for tables."""
        sizes = "+".join(
            f"{width}x{height}"
            for height, width in (self.source_size, self.target_size)
        )
        words = [self.method, self.backbone, self.dtype, sizes]
        words.append(f"batch {self.batch_size}+{self.batch_size}")
        if self.devices > 1:
            words.append(f"{self.devices} devices")
        if self.remat:
            words.append("remat")
        if self.micro_batches > 1:
            words.append(f"{self.micro_batches} micro-batches")
        return " ".join(words)


class Step:
    """A compiled step with its state; each call trains one step."""

    def __init__(self, setting: Setting):
        mesh = sharding.make_mesh(setting.devices)
        method, heads = make_method(setting.method)
        model = models.build(
            backbone=setting.backbone,
            num_classes=NUM_CLASSES,
            head=heads[0],
            freeze_stem_affine=True,
            initialisation="released",
            bn_group_size=1 if setting.micro_batches > 1 else None,
            dtype=setting.dtype,
            remat=setting.remat,
        )
        whole, transformation = start(method, model, setting)
        self.state = sharding.replicate(whole, mesh)
        self.batch = sharding.shard_batch(batch(method, setting), mesh)
        self.metrics = None

        def jitted(forward):
            whole = step.make_step(
                method,
                transformation,
                forward,
                functools.partial(
                    preprocess.preprocess,
                    source=preprocess.AUGMENTATION["none"],
                    target=preprocess.AUGMENTATION["none"],
                    preprocessing="caffe",
                ),
                preprocess.pixels("caffe"),
            )
            return sharding.jit_step(whole, mesh)

        parts = setting.micro_batches
        whole = jitted(microbatch.in_parts(model.forward, parts))
        self._call, self.cost = compile.compile_traced(
            whole.trace(self.state, self.batch)
        )
        if parts > 1:  # XLA counts the body of a loop once
            once = jitted(model.forward).trace(self.state, self.batch).lower()
            flops = once.cost_analysis()["flops"] / setting.devices
            self.cost = self.cost._replace(flops=flops)

    def __call__(self):
        """Train one step; returns its metrics, on the device."""
        self.state, self.metrics = self._call(self.state, self.batch)
        return self.metrics


def plain_methods() -> list[str]:
    """Methods whose stages need no preparation on the host."""
    return [name for name, module in METHODS.items() if not module.make().prepare]


def make_method(name: str) -> tuple[Method, tuple[str, ...]]:
    """A method with default keywords, and the heads it supports."""
    method = two_domains() if name == BASELINE else METHODS[name].make()
    return method, method.heads


def two_domains() -> Method:
    """Cross-entropy on both domains: the baseline of `benchmarks.method_overhead`."""

    def loss(params, method_state, batch, ctx):
        source, target, model_state = common.both_domains(params, batch, ctx)
        terms = {
            "source": common.segmentation(source, batch.source),
            "target": common.segmentation(target, batch.target),
        }
        return sum(terms.values()), Aux(terms, method_state, model_state)

    return Method(common.stateless, loss, labelled=("source", "target"))


def start(method: Method, model: models.Model, setting: Setting):
    """State before step 0 and optimizer, with the hyperparameters of the originals."""
    model_key, method_key, rng = jax.random.split(jax.random.key(0), 3)
    params, model_state = model.init(model_key, setting.source_size)
    spec = BatchSpec(
        NUM_CLASSES, model.feature_dim, setting.source_size, setting.target_size
    )
    params, method_state = state.with_method(
        params, model_state, method, spec, method_key
    )
    groups = optimizer.model_groups(head_multiplier=10.0, frozen=model.frozen_paths)
    transformation = optimizer.make(
        params,
        groups,
        name="sgd",
        learning_rate=2.5e-4,
        weight_decay=5e-4,
        momentum=0.9,
        decay_steps=250_000,
        power=0.9,
        warmup_steps=0,
    )
    whole = state.create(params, model_state, method_state, transformation, rng)
    return whole, transformation


def batch(method: Method, setting: Setting) -> Batch:
    """Random uint8 images, with block-wise labels where the method reads labels."""
    draw = np.random.default_rng(0)
    sizes = {"source": setting.source_size, "target": setting.target_size}
    labelled = method.labelled + ("target",) * method.pseudo_labelled
    return Batch(
        **{
            name: images(draw, setting.batch_size, size, name in labelled)
            if name in method.domains
            else None
            for name, size in sizes.items()
        }
    )


def images(draw, count: int, size: tuple[int, int], labelled: bool) -> Images:
    """``count`` noise images, and labels that are constant in blocks of `BLOCK` pixels."""
    height, width = size
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    label = draw.integers(0, NUM_CLASSES, (count, rows, columns), dtype=np.uint8)
    label = label.repeat(BLOCK, 1).repeat(BLOCK, 2)[:, :height, :width]
    image = draw.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return Images(image, np.ascontiguousarray(label) if labelled else None)
