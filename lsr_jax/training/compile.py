"""The compiled step, and what it will cost, known before step 0.

The step of a stage as a program, traced before anything is drawn, read or compiled.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lsr_jax import files
from lsr_jax.augment import preprocess
from lsr_jax.errors import InputError
from lsr_jax.training import microbatch, sharding, step
from lsr_jax.training import stage as training_stage
from lsr_jax.training.stage import Experiment
from lsr_jax.types import Batch, Images, PyTree

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory")
# Rows of the square matrices that measure a device; large enough to keep it busy.
MATRIX_ROWS = {"cpu": 1024}
ACCELERATOR_ROWS = 8192


def keep_programs() -> None:
    """Keep compiled programs on disk, so that the next run starts at once.

    In the folder of ``JAX_COMPILATION_CACHE_DIR``, else in ``~/.cache/lsr_jax/programs``;
    nowhere, and said so, where there is no home folder.
    """
    if jax.config.jax_compilation_cache_dir is None:
        try:
            folder = files.expanded("~/.cache/lsr_jax/programs")
        except InputError:
            print(
                "compiled programs are not kept: there is no home folder; name one in "
                "JAX_COMPILATION_CACHE_DIR",
                file=sys.stderr,
            )
        else:
            jax.config.update("jax_compilation_cache_dir", str(folder))


class Cost(NamedTuple):
    """What one step takes, on each device.

    Attributes:
      compile_seconds: tracing and compilation, or reading the persistent cache.
      peak_bytes: arguments, results and temporaries; donated buffers count once.
      temporary_bytes: of these, what lives within the step only.
      flops: floating-point operations of the step as it is written, one device's share.
        (XLA's count after its rewriting leaves out what it hands to libraries.)
    """

    compile_seconds: float
    peak_bytes: int
    temporary_bytes: int
    flops: float


class Program(NamedTuple):
    """A traced step.

    Attributes:
      step: with the shapes and the placement of its arguments.
      counted: the same arithmetic, if ``step`` loops over parts of the batch: XLA counts
        the body of a loop once.
      seconds: that tracing took.
    """

    step: jax.stages.Traced
    counted: jax.stages.Traced
    seconds: float


def trace(
    step: Callable, *arguments: PyTree, counted: Callable | None = None
) -> Program:
    """Trace a jitted step; nothing is computed.

    Args:
      step: jitted.
      *arguments: of the step, arrays or shapes, with their placement.
      counted: a jitted step of the same arithmetic without a loop over parts.
    """
    start = time.perf_counter()
    traced = step.trace(*arguments)
    whole = traced if counted is None else counted.trace(*arguments)
    return Program(traced, whole, time.perf_counter() - start)


def compile_program(program: Program) -> tuple[Callable, Cost]:
    """The compiled step, and what it costs.

    Raises:
      InputError: the step does not fit into the memory of a device.
    """
    start = time.perf_counter()
    with memory_advice():
        lowered = program.step.lower()
        compiled = lowered.compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    donated_once = memory.output_size_in_bytes - memory.alias_size_in_bytes
    same = program.counted is program.step
    whole = lowered if same else program.counted.lower()
    flops = (whole.cost_analysis() or {}).get("flops", math.nan)
    devices = len(jax.tree.leaves(compiled.input_shardings)[0].device_set)
    return compiled, Cost(
        compile_seconds=program.seconds + seconds,
        peak_bytes=memory.argument_size_in_bytes
        + donated_once
        + memory.temp_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        flops=float(flops) / devices,
    )


@contextlib.contextmanager
def memory_advice():
    """Turn a device's lack of memory into an error that says what to change.

    Raises:
      InputError: whatever ran inside asked for more memory than there is.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"out of memory on {jax.devices()[0].device_kind}: {reason[:200]}; set "
            "model.dtype=bfloat16, model.remat=True or micro_batches of the stage to a "
            "divisor of its batch_size, lower its batch_size, or use smaller images"
        ) from error


@functools.cache
def matmul_rate(dtype: str, *, repeats: int = 3) -> float:
    """Floating-point operations a second of one large matrix product on one device.

    Measured once by a process.

    Args:
      dtype: "float32", "tf32" or "bfloat16", as ``model.dtype``.
      repeats: the fastest of so many counts.
    """
    device = jax.devices()[0]
    rows = MATRIX_ROWS.get(device.platform, ACCELERATOR_ROWS)
    array = "bfloat16" if dtype == "bfloat16" else "float32"
    precision = {"float32": "highest", "tf32": "high"}.get(dtype, "default")
    product = jax.jit(lambda x: jnp.matmul(x, x, precision=precision))
    matrix = jax.device_put(jnp.ones((rows, rows), array), jax.local_devices()[0])
    product(matrix).block_until_ready()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * rows**3 / min(seconds)


def summary(cost: Cost, *, steps: int, rate: float) -> str:
    """The line that is printed before step 0.

    Args:
      cost: of one step.
      steps: still to run.
      rate: of `matmul_rate`; no network reaches it, so the time is a lower bound.
    """
    parts = [
        f"compiled in {cost.compile_seconds:.0f} s",
        f"{cost.peak_bytes / 1e9:.2f} GB a device at most",
        f"{cost.flops / 1e12:.3f} TFLOP a step",
    ]
    if math.isfinite(cost.flops):
        seconds = cost.flops / rate
        parts.append(
            f"{steps} steps take {duration(steps * seconds)} or more at the "
            f"{rate / 1e12:.2g} TFLOP/s of a large matrix product"
        )
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """``75.2`` as ``1 min 15 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def trace_all(experiment: Experiment) -> dict[str, Program]:
    """``{stage: program}`` of the stages that are not through.

    Raises:
      InputError: see `trace`.
    """
    config = experiment.config
    return {
        stage: trace_stage(experiment, stage)
        for stage in config["stages"]
        if not (experiment.checkpoints(stage) / str(config[stage]["steps"])).is_dir()
    }


def trace_stage(experiment: Experiment, stage: str) -> Program:
    """The whole step of a stage: augmentation, network, losses, gradients, optimiser.

    Raises:
      InputError: keys of the config with which there is no such step.
    """
    with training_stage.from_keys(stage):
        return _trace_stage(experiment, stage)


def _trace_stage(experiment: Experiment, stage: str) -> Program:
    config = experiment.config
    c, parts = config[stage], config[stage]["micro_batches"]
    state, optimizer = experiment.template(stage)

    def jitted(forward: Callable) -> Callable:
        whole = step.make_step(
            experiment.method(stage),
            optimizer,
            forward,
            experiment.preprocess(stage),
            preprocess.pixels(config["data"]["preprocessing"]),
            skip_nonfinite=c["on_nonfinite"] == "skip",
        )
        return sharding.compile_step(whole, experiment.mesh)

    forward = experiment.model.forward
    group = microbatch.group_size(config["model"], parts)
    return trace(
        jitted(microbatch.in_parts(forward, parts, group=group)),
        state,
        batch(experiment, stage),
        counted=jitted(forward) if parts > 1 else None,
    )


def batch(experiment: Experiment, stage: str) -> Batch:
    """Shapes and placement of a batch, over all processes."""
    method = experiment.method(stage)
    placement = sharding.split(experiment.mesh)
    count = experiment.config[stage]["batch_size"]

    def pixels(domain: str, *channels: int) -> jax.ShapeDtypeStruct:
        shape = (count, *experiment.sizes[domain], *channels)
        return jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=placement)

    def images(domain: str) -> Images | None:
        if domain not in method.domains:
            return None
        label = pixels(domain) if method.gets_labels(domain) else None
        return Images(pixels(domain, 3), label)

    return Batch(images("source"), images("target"))
