"""Time, arithmetic and memory of a training step.

    python -m benchmarks.train_step                            ResNet-101, 1280x720 + 1024x512
    python -m benchmarks.train_step --dtype float32 tf32 bfloat16 --batch_size 1 4
    python -m benchmarks.train_step --dtype bfloat16 --vs_torch
    python -m benchmarks.train_step --quick                    small, on a CPU
    python -m benchmarks.train_step --profile FOLDER           write a trace for TensorBoard

All combinations of methods, dtypes and batch sizes alternate in one process. TFLOP/s is XLA's
operation count of the unoptimized step over the median time, given as a share of ``--peak`` or
else of a large matrix product measured in the same run. Memory is that of the compiled step.
``--vs_torch`` adds `benchmarks.torch_baseline`.
"""

from __future__ import annotations

import itertools
import os

import jax

from benchmarks import steps, timing
from lsr_jax.training import compile, sharding

HEADER = (
    *("step", "ms [quartiles]", "images/s", "TFLOP/s", "share of peak"),
    *("memory GB", "compile s"),
)


def main(arguments: list[str] | None = None) -> dict:
    """Measure and print."""
    options = parse(arguments)
    sharding.share_cpu(options.cpu_devices)
    built = {setting: steps.Step(setting) for setting in settings(options)}
    sides = {setting.name(): step for setting, step in built.items()}
    if options.vs_torch:
        from benchmarks import torch_baseline  # PyTorch is optional

        sides |= torch_baseline.sides(next(iter(built)), options.vs_torch)
    samples = timing.alternate(sides, repeats=options.repeats, warmup=options.warmup)
    peaks = {
        dtype: options.peak * 1e12 if options.peak else timing.matmul_rate(dtype)
        for dtype in options.dtype
    }
    result = [
        measured(setting, step.cost, samples[setting.name()], peaks[setting.dtype])
        for setting, step in built.items()
    ]
    rows = [HEADER, *(row(numbers) for numbers in result)]
    ours = {setting.name() for setting in built}
    torch = {name: s for name, s in samples.items() if name not in ours}
    rows += [torch_row(name, s, 2 * options.batch_size[0]) for name, s in torch.items()]
    against = {
        f"{theirs} / {name}": timing.ratios(samples[theirs], samples[name])
        for name, theirs in itertools.product(ours, torch)
    }
    rows += [(f"{name}", str(ratio), *[""] * 5) for name, ratio in against.items()]
    if options.profile:
        with jax.profiler.trace(options.profile):
            jax.block_until_ready([step() for step in built.values()])
    return timing.finish(
        {
            "steps": result,
            "torch": {name: timing.spread(s) for name, s in torch.items()},
            "torch_over_ours": against,
        },
        rows,
        file=options.json,
    )


def parse(arguments):
    """Parse the command line; `--quick` changes the defaults."""
    parser = timing.parser(__doc__, repeats=20)
    parser.prog = "python -m benchmarks.train_step"
    known = (steps.BASELINE, *steps.plain_methods(), steps.MIC)
    parser.add_argument("--method", nargs="+", default=["lsr"], choices=known)
    parser.add_argument("--dtype", nargs="+", default=["float32"])
    parser.add_argument("--batch_size", nargs="+", type=int, default=[1])
    parser.add_argument("--devices", type=int, default=1)
    steps.add_options(parser)
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device, if known")
    parser.add_argument(
        "--vs_torch",
        nargs="*",
        metavar="MODE",
        help="measure PyTorch too; modes, by default: default bfloat16",
    )
    parser.add_argument(
        "--profile", metavar="FOLDER", help="trace one step of each combination"
    )
    options = timing.defaults(parser.parse_args(arguments))
    if options.vs_torch == []:
        options.vs_torch = ["default", "bfloat16"]
    if options.vs_torch:
        # Two frameworks share the memory of the device.
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    return options


def settings(options) -> list[steps.Setting]:
    """All combinations of methods, dtypes and batch sizes."""
    return [
        steps.from_options(
            options,
            method=method,
            batch_size=batch_size,
            dtype=dtype,
            devices=options.devices,
        )
        for method, dtype, batch_size in itertools.product(
            options.method, options.dtype, options.batch_size
        )
    ]


def measured(setting, cost: compile.Cost, samples, peak: float) -> dict:
    """Results of one step."""
    seconds = timing.spread(samples)
    rate = cost.flops / seconds.median
    return {
        "step": setting.name(),
        **setting._asdict(),
        "seconds": seconds,
        "images_per_second": 2 * setting.batch_size / seconds.median,
        "tflops_per_device": rate / 1e12,
        "peak_tflops": peak / 1e12,
        "share_of_peak": rate / peak,
        "memory_gigabytes": cost.peak_bytes / 1e9,
        "compile_seconds": cost.compile_seconds,
        "teraflop": cost.flops / 1e12,
    }


def row(numbers: dict) -> tuple:
    """Table cells of one step."""
    return (
        numbers["step"],
        timing.ms(numbers["seconds"]),
        f"{numbers['images_per_second']:.3g}",
        f"{numbers['tflops_per_device']:.3g}",
        f"{numbers['share_of_peak']:.0%}",
        f"{numbers['memory_gigabytes']:.2f}",
        f"{numbers['compile_seconds']:.0f}",
    )


def torch_row(name: str, samples, images: int) -> tuple:
    """Table cells of a PyTorch step, which has a time only."""
    seconds = timing.spread(samples)
    return (
        *(name, timing.ms(seconds), f"{images / seconds.median:.3g}"),
        *("", "", "", ""),
    )


if __name__ == "__main__":
    main()
