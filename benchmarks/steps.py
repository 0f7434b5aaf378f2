"""Training steps to measure: any method, random images, compiled as in training."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
import optax

from benchmarks import timing
from lsr_jax import models
from lsr_jax.augment import preprocess
from lsr_jax.methods import METHODS, common
from lsr_jax.training import compile, microbatch, optimizer, sharding, state, step
from lsr_jax.types import Aux, Batch, BatchSpec, Images, Method

BASELINE = "two_domains"
MIC = "dacs,mic"
NETWORKS = {MIC: {"architecture": "daformer", "detail": 0.5}}  # others: DeepLabV2
NUM_CLASSES = 19
BLOCK = 32  # pixels; labels are constant in blocks, so that feature cells have a class


class Setting(NamedTuple):
    """Settings of a step.

    Attributes:
      method: a key of METHODS, or `BASELINE`, or `MIC`, which needs a Mix Transformer.
      source_size: ``(H, W)``.
      target_size: ``(H, W)``.
      batch_size: images of each domain, over all devices.
      dtype: as ``model.dtype``.
      devices: number of devices.
      backbone: as ``model.backbone``.
      remat: as ``model.remat``.
      micro_batches: as in a stage.
      scan_blocks: as ``model.scan_blocks``.
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
    scan_blocks: bool = True

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
        if not self.scan_blocks:
            words.append("unrolled")
        return " ".join(words)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `from_options`."""
    parser.add_argument("--source_size", type=timing.size, help="1280x720")
    parser.add_argument("--target_size", type=timing.size, help="1024x512")
    parser.add_argument("--backbone", help="resnet101; quick: mini")
    parser.add_argument("--micro_batches", type=int, default=1)
    parser.add_argument("--remat", action="store_true")
    parser.add_argument(
        "--unrolled", action="store_true", help="model.scan_blocks=False"
    )


def from_options(options: argparse.Namespace, **others) -> Setting:
    """The setting of parsed `add_options`; ``others`` are its remaining fields."""
    return Setting(
        source_size=options.source_size,
        target_size=options.target_size,
        backbone=options.backbone,
        remat=options.remat,
        micro_batches=options.micro_batches,
        scan_blocks=not options.unrolled,
        **others,
    )


class Program:
    """A step for a mesh, whose devices may be absent: it needs no arrays."""

    def __init__(self, setting: Setting, mesh: jax.sharding.Mesh):
        self.setting, self.mesh = setting, mesh
        self.method, heads = make_method(setting.method)
        self.model = models.build(
            backbone=setting.backbone,
            num_classes=NUM_CLASSES,
            head=heads[0],
            freeze_stem_affine=True,
            initialisation="released",
            bn_group_size=1 if setting.micro_batches > 1 else None,
            dtype=setting.dtype,
            remat=setting.remat,
            scan_blocks=setting.scan_blocks,
            **NETWORKS.get(setting.method, {}),
        )
        params, *_ = jax.eval_shape(self._network)
        self.transformation = make_optimizer(params, self.model)

    def start(self) -> state.TrainState:
        """The state before step 0."""
        params, model_state, method_state, rng = self._network()
        return state.create(params, model_state, method_state, self.transformation, rng)

    def trace(self, parts: int) -> jax.stages.Traced:
        """The step in ``parts`` micro-batches, traced with shapes in place of arrays."""
        whole = step.make_step(
            self.method,
            self.transformation,
            microbatch.in_parts(self.model.forward, parts),
            functools.partial(
                preprocess.preprocess,
                source=preprocess.AUGMENTATION["none"],
                target=preprocess.AUGMENTATION["none"],
                preprocessing="caffe",
            ),
            preprocess.pixels("caffe"),
        )
        return sharding.jit_step(whole, self.mesh).trace(
            sharding.replicated_shapes(jax.eval_shape(self.start), self.mesh),
            batch_shapes(self.method, self.setting, self.mesh),
        )

    def compile(self) -> tuple[Callable, compile.Cost]:
        """As `compile.compile_traced`, with the operations of loops as they run."""
        parts = self.setting.micro_batches
        call, cost = compile.compile_traced(self.trace(parts))
        if parts > 1 or self.setting.method == MIC:
            cost = cost._replace(flops=operations(self.setting))
        return call, cost

    def _network(self):
        """Parameters, states of network and method, and the key of the step."""
        setting, model = self.setting, self.model
        model_key, method_key, rng = jax.random.split(jax.random.key(0), 3)
        params, model_state = model.init(model_key, setting.source_size)
        spec = BatchSpec(
            NUM_CLASSES, model.feature_dim, setting.source_size, setting.target_size
        )
        params, method_state = state.with_method(
            params, model_state, self.method, spec, method_key
        )
        return params, model_state, method_state, rng


def operations(setting: Setting) -> float:
    """Operations of a device in a step, as XLA counts them before it optimizes.

    XLA counts the body of a loop once, so the step is traced in one part and for a CPU,
    where the blocks of no network are a loop.
    """
    with mock.patch.object(jax, "default_backend", return_value="cpu"):
        traced = Program(setting, sharding.make_mesh(1)).trace(1)
        return traced.lower().cost_analysis()["flops"] / setting.devices


class Step:
    """A compiled step with its state; each call trains one step."""

    def __init__(self, setting: Setting):
        compile.keep_memory(setting.devices)
        mesh = sharding.make_mesh(setting.devices)
        program = Program(setting, mesh)
        self.state = sharding.replicate(program.start(), mesh)
        self.batch = sharding.shard_batch(batch(program.method, setting), mesh)
        self.metrics = None
        self._call, self.cost = program.compile()

    def __call__(self):
        """Train one step; returns its metrics, on the device."""
        self.state, self.metrics = self._call(self.state, self.batch)
        return self.metrics


def plain_methods() -> list[str]:
    """Methods whose stages need no preparation on the host."""
    return [name for name, module in METHODS.items() if not module.make().prepare]


def make_method(name: str) -> tuple[Method, tuple[str, ...]]:
    """A method with default keywords or those of a preset, and the heads it supports."""
    if name == BASELINE:
        method = two_domains()
    else:
        name, _, preset = name.partition(",")
        module = METHODS[name]
        method = module.make(**(module.presets[preset] if preset else {}))
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


def make_optimizer(params, model: models.Model) -> optax.GradientTransformation:
    """The optimizer with the hyperparameters of the originals."""
    groups = optimizer.model_groups(head_multiplier=10.0, frozen=model.frozen_paths)
    return optimizer.make(
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


def batch_shapes(method: Method, setting: Setting, mesh: jax.sharding.Mesh) -> Batch:
    """Shapes, dtypes and sharding of `batch`."""
    placement = sharding.split(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            (setting.batch_size, *x.shape[1:]), x.dtype, sharding=placement
        ),
        batch(method, setting._replace(batch_size=1)),
    )


def images(draw, count: int, size: tuple[int, int], labelled: bool) -> Images:
    """``count`` noise images, and labels that are constant in blocks of `BLOCK` pixels."""
    height, width = size
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    label = draw.integers(0, NUM_CLASSES, (count, rows, columns), dtype=np.uint8)
    label = label.repeat(BLOCK, 1).repeat(BLOCK, 2)[:, :height, :width]
    image = draw.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return Images(image, np.ascontiguousarray(label) if labelled else None)
