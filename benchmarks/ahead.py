"""The training step compiled for chips that are absent: memory, roofline, traffic, faults.

    python -m benchmarks.ahead --topology v5e:2x4 --method lsr --dtype bfloat16
    python -m benchmarks.ahead --topology v5e:1x1 --remat
    python -m benchmarks.ahead --topology v5e:16x16 --json FILE
    python -m benchmarks.ahead --method dacs,mic --backbone mit_b5 \\
        --source_size 1024x1024 --target_size 1024x1024
    python -m benchmarks.ahead --topology h100:1
    python -m benchmarks.ahead --topology v5e:2x2 --quick      mini, small images

Topologies are named ``CHIP:SIZE``, as ``v5e:2x4`` or ``v5p:2x2x1``; a size of ones is one chip.
The command runs on a CPU. It needs XLA's compiler of the chip, best in an environment of its own
beside ``requirements.txt``. Tested with jax 0.10.2:

    pip install "jax[tpu]"                              for TPUs: libtpu 0.0.42.1
    pip install jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12     for NVIDIA GPUs

Numbers are per device and step, of the optimized program. The roofline time is the larger of
operations over the chip's peak and bytes over its bandwidth: no step is faster, and communication
is not part of it. XLA counts neither of a program for an absent NVIDIA GPU, and the body of a loop
once (micro-batches; blocks of a Mix Transformer). Of such programs operations are those of the
traced step, and bytes those that its kernels read and write. Nor can XLA measure kernels of an
absent GPU, so that memory and bytes are those of its default choice. Faults are what a program
should not do:

- product: a convolution or matrix product with float32 operands, with ``--dtype bfloat16``
- move: a copy or transpose of more than 1 MB
- large: an array larger than the enlarged logits of all images of the device in float32
- recomputed: convolutions beyond those of the traced step
"""

from __future__ import annotations

import collections
import math
import os
import re
from typing import NamedTuple
from unittest import mock

import jax
from jax.experimental import topologies
from jax.extend import core

from benchmarks import hlo, steps, timing
from lsr_jax.errors import InputError, one_line
from lsr_jax.training import compile, sharding


class Chip(NamedTuple):
    """What a chip can do at most, as published.

    Attributes:
      platform: of JAX.
      peak: bfloat16 operations per second, dense.
      memory: bytes.
      bandwidth: bytes per second, of the memory.
    """

    platform: str
    peak: float
    memory: float
    bandwidth: float


CHIPS = {
    # https://cloud.google.com/tpu/docs/v5e (v5p, v6e): "peak compute per chip (bf16)", "HBM
    # capacity", "HBM bandwidth". XLA sees one of these chips as one device.
    "v5e": Chip("tpu", 197e12, 16e9, 819e9),
    "v5p": Chip("tpu", 459e12, 95e9, 2765e9),
    "v6e": Chip("tpu", 918e12, 32e9, 1638e9),
    # NVIDIA H100 data sheet, SXM: 1,979 TFLOPS of bfloat16 "with sparsity", half of it dense.
    "h100": Chip("gpu", 989e12, 80e9, 3350e9),
}
# What XLA asks a present GPU for, as a GpuTargetConfigProto: CUDA's limits of compute
# capability 9.0, and the sizes of an H100 SXM.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  l2_cache_size: 52428800 memory_bandwidth: 3350000000000 device_memory_size: 80000000000
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100"
"""
LARGE_MOVE = 1e6
HEADER = (
    *("step", "topology", "compile s", "memory GB", "TFLOP", "GB", "FLOP/byte"),
    *("roofline ms", "collectives", "faults"),
)
USED = re.compile(r"Used ([\d.]+)([KMG]) of ")


def main(arguments: list[str] | None = None) -> dict:
    """Compile and print."""
    options = parse(arguments)
    # Nothing runs: processes can share libtpu, and no kernel can be measured. For some
    # products of a Mix Transformer, XLA then fails to choose a kernel of Triton.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    jax.config.update("jax_platforms", "cpu")
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + " --xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
    )
    numbers = measured(options)
    rows = [HEADER, row(numbers)]
    result = timing.finish(numbers, rows, file=options.json)
    faults = numbers["faults"]
    if faults:
        print()
        print(
            timing.table(
                [("fault", "count", "what", "MB", "where"), *map(cells, faults)]
            )
        )
    return result


def parse(arguments):
    """Parse the command line; `--quick` changes the defaults."""
    parser = timing.parser(__doc__, repeats=1)
    parser.prog = "python -m benchmarks.ahead"
    parser.add_argument("--topology", default="v5e:1x1")
    parser.add_argument(
        "--method", default="lsr", choices=[*steps.plain_methods(), steps.MIC]
    )
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument(
        "--batch_size", type=int, help="over all chips; default: one image a chip"
    )
    steps.add_options(parser)
    return timing.defaults(parser.parse_args(arguments))


def mesh_of(topology: str) -> tuple[Chip, jax.sharding.Mesh]:
    """The chip and a mesh of all devices of a topology, which may be absent.

    Raises:
      InputError: unknown to us or to XLA, or the compiler is not installed.
    """
    kind, _, size = topology.partition(":")
    if kind not in CHIPS:
        raise InputError(
            f"topology: expected one of {', '.join(CHIPS)} and a size, as v5e:2x4, found "
            f"{topology!r}"
        )
    chip = CHIPS[kind]
    try:
        description = describe(chip.platform, topology, size)
    except (RuntimeError, ImportError) as error:
        reason = one_line(error)
        raise InputError(
            f"topology {topology}: {reason}; install XLA's compiler as the docstring of "
            "benchmarks.ahead says, and name a size that the chip has"
        ) from error
    return chip, sharding.make_mesh(devices=description.devices)


def describe(platform: str, topology: str, size: str):
    """JAX's description of a topology; XLA raises RuntimeError where it has none."""
    if platform == "tpu":
        # A host has 2x2 chips by default, which must divide the size.
        single = {"chips_per_host_bounds": [1, 1, 1]} if set(size) <= set("1x") else {}
        return topologies.get_topology_desc(topology, "tpu", **single)
    return topologies.get_topology_desc(
        "", "cuda", topology=f"1x1x{size}", target_config=H100
    )


def measured(options) -> dict:
    """All numbers of a step."""
    chip, mesh = mesh_of(options.topology)
    setting = steps.from_options(
        options,
        method=options.method,
        batch_size=options.batch_size or mesh.size,
        dtype=options.dtype,
        devices=mesh.size,
    )
    sharding.check_batch_size(setting.batch_size, mesh)
    result = {
        **{"step": setting.name(), "topology": options.topology},
        **setting._asdict(),
        "memory_capacity_gigabytes": chip.memory / 1e9,
    }
    # The network chooses its convolutions by the platform it will run on.
    with mock.patch.object(jax, "default_backend", return_value=chip.platform):
        traced = steps.Program(setting, mesh).trace(setting.micro_batches)
        try:
            call, cost = compile.compile_traced(traced)
        except InputError as error:  # out of memory
            used = USED.search(str(error.__cause__))
            if used is None:
                raise
            return {
                **result,
                "fits": False,
                "memory_gigabytes": _gigabytes(*used.groups()),
            }
        program = hlo.parse(call.as_text())
        flops, size = totals(call, program, setting)
    return {
        **result,
        "compile_seconds": cost.compile_seconds,
        "memory_gigabytes": cost.peak_bytes / 1e9,
        "fits": cost.peak_bytes <= chip.memory,
        "teraflop": flops / 1e12,
        "gigabytes": size / 1e9,
        "flop_per_byte": flops / size,
        "roofline_seconds": max(flops / chip.peak, size / chip.bandwidth),
        "limited_by": "arithmetic"
        if flops / chip.peak > size / chip.bandwidth
        else "bandwidth",
        "collectives": {
            kind: {
                "count": traffic.count,
                "megabytes": traffic.bytes / 1e6,
                "largest_megabytes": traffic.largest / 1e6,
            }
            for kind, traffic in hlo.collectives(program).items()
        },
        "faults": faults(program, setting, convolutions(traced.jaxpr)),
    }


def totals(
    call: jax.stages.Compiled, program: hlo.Program, setting: steps.Setting
) -> tuple[float, float]:
    """Operations and bytes of a device."""
    runs = [line.name for line, _ in hlo.products(program)]
    looped = len(runs) > len(set(runs))
    if not looped and (analysis := call.cost_analysis()):
        return analysis["flops"], analysis["bytes accessed"]
    return steps.operations(setting), hlo.accessed(program)


def faults(program: hlo.Program, setting: steps.Setting, expected: int) -> list[dict]:
    """What the program should not do, the largest first.

    Args:
      program: as optimized, of one device.
      setting: its step.
      expected: convolutions of the traced step.
    """
    found = collections.Counter()
    products = hlo.products(program)
    for line, shapes in products:
        if setting.dtype == "bfloat16" and "f32" in {shape.dtype for shape in shapes}:
            size = sum(shape.padded_bytes for shape in shapes)
            found["product", " x ".join(map(str, shapes)), size, where(line)] += 1
    for line in hlo.moves(program):
        for shape in line.shapes:
            if shape.padded_bytes > LARGE_MOVE:
                found["move", str(shape), shape.padded_bytes, where(line)] += 1
    sizes = (setting.source_size, setting.target_size)
    pixels = max(map(math.prod, sizes)) * setting.batch_size / setting.devices
    for line in program.stored():
        for shape in line.shapes if line.opcode not in hlo.VIEWS else ():
            large = shape.bytes > 4 * pixels * steps.NUM_CLASSES
            if large and shape.bytes <= program.written(line):
                found["large", str(shape), shape.padded_bytes, where(line)] += 1
    names = [line.op_name for line, _ in products]
    count = sum(name.endswith("conv_general_dilated") for name in names)
    if count > expected:
        found["recomputed", f"{count} convolutions, {expected} traced", 0, ""] += 1
    return [
        {
            "fault": kind,
            "count": n,
            "what": what,
            "megabytes": size / 1e6,
            "where": place,
        }
        for (kind, what, size, place), n in sorted(
            found.items(), key=lambda item: -item[0][2] * item[1]
        )
    ]


def convolutions(jaxpr) -> int:
    """Convolutions of a traced step, those of recomputed blocks and of loops included."""
    return sum(
        (equation.primitive.name == "conv_general_dilated")
        + equation.params.get("length", 1)
        * sum(map(convolutions, core.jaxprs_in_params(equation.params)))
        for equation in jaxpr.eqns
    )


def where(line: hlo.Instruction) -> str:
    """Where an instruction comes from, without the name of the step."""
    return line.op_name.removeprefix("jit(step)/")


def row(numbers: dict) -> tuple:
    """Table cells of a step."""
    used, whole = numbers["memory_gigabytes"], numbers["memory_capacity_gigabytes"]
    memory = f"{used:.2f} of {whole:.0f}{'' if numbers['fits'] else ': does not fit'}"
    head = (numbers["step"], numbers["topology"])
    if "teraflop" not in numbers:
        return (*head, "", memory, *[""] * 6)
    traffic = [
        f"{entry['count']} {kind}, {entry['megabytes']:.1f} MB, the largest "
        f"{entry['largest_megabytes']:.1f}"
        for kind, entry in numbers["collectives"].items()
    ]
    counts = collections.Counter()
    for fault in numbers["faults"]:
        counts[fault["fault"]] += fault["count"]
    return (
        *head,
        f"{numbers['compile_seconds']:.0f}",
        memory,
        f"{numbers['teraflop']:.3g}",
        f"{numbers['gigabytes']:.3g}",
        f"{numbers['flop_per_byte']:.3g}",
        f"{1e3 * numbers['roofline_seconds']:.3g} ({numbers['limited_by']})",
        "; ".join(traffic) or "none",
        ", ".join(f"{n} {kind}" for kind, n in counts.items()) or "none",
    )


def cells(fault: dict) -> tuple:
    """Table cells of a fault."""
    return (*list(fault.values())[:3], f"{fault['megabytes']:.1f}", fault["where"])


def _gigabytes(number: str, unit: str) -> float:
    return float(number) * 1024 ** " KMG".index(unit) / 1e9


if __name__ == "__main__":
    timing.command(main)
