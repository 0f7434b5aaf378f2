"""Step time of every method relative to cross-entropy on the same two images.

    python -m benchmarks.method_overhead            all methods, 1280x720 + 1024x512
    python -m benchmarks.method_overhead --quick    LSR at 512x256; target: at most 10 %
    python -m benchmarks.method_overhead --method lsr max_square --dtype bfloat16

The baseline runs forward and backward on both images: cross-entropy with labels on source and
target. It alternates with each method in one process; the result is the median ratio of
consecutive steps. Methods without a gradient through the target are below 1. Methods that
prepare anchors or pseudo-labels before a stage are left out.
"""

from __future__ import annotations

from benchmarks import steps, timing
from lsr_jax.training import sharding

HEADER = ("method", "ms [quartiles]", "baseline ms", "ratio [quartiles]", "")
TARGET = {"lsr": 1.10}


def main(arguments: list[str] | None = None) -> dict:
    """Measure and print."""
    options = parse(arguments)
    sharding.share_cpu(options.cpu_devices)
    common = {
        "source_size": options.source_size,
        "target_size": options.target_size,
        "dtype": options.dtype,
        "backbone": options.backbone,
        "batch_size": options.batch_size,
    }
    baseline = steps.Step(steps.Setting(steps.BASELINE, **common))
    result = {}
    for method in options.method:
        sides = {
            steps.BASELINE: baseline,
            method: steps.Step(steps.Setting(method, **common)),
        }
        samples = timing.alternate(
            sides, repeats=options.repeats, warmup=options.warmup
        )
        result[method] = {
            "seconds": timing.spread(samples[method]),
            "baseline_seconds": timing.spread(samples[steps.BASELINE]),
            "ratio": timing.ratios(samples[method], samples[steps.BASELINE]),
            "compile_seconds": sides[method].cost.compile_seconds,
        }
    rows = [HEADER, *(row(method, numbers) for method, numbers in result.items())]
    return timing.finish({**common, "methods": result}, rows, file=options.json)


def parse(arguments):
    """Parse the command line; `--quick` changes the defaults."""
    parser = timing.parser(__doc__, repeats=10)
    parser.prog = "python -m benchmarks.method_overhead"
    parser.add_argument("--method", nargs="+", choices=steps.plain_methods())
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument(
        "--source_size", type=timing.size, help="1280x720; quick: 512x256"
    )
    parser.add_argument(
        "--target_size", type=timing.size, help="1024x512; quick: 512x256"
    )
    parser.add_argument("--backbone", default="resnet101")
    options = parser.parse_args(arguments)
    quick = options.quick
    options.method = options.method or (["lsr"] if quick else steps.plain_methods())
    options.source_size = options.source_size or ((256, 512) if quick else (720, 1280))
    options.target_size = options.target_size or ((256, 512) if quick else (512, 1024))
    if quick:
        options.repeats = min(options.repeats, 5)
    return options


def row(method: str, numbers: dict) -> tuple:
    """Cells of a method."""
    target, ratio = TARGET.get(method), numbers["ratio"]
    verdict = ""
    if target:
        verdict = f"<= {target:.2f}: {'met' if ratio.median <= target else 'NOT MET'}"
    return (
        method,
        timing.ms(numbers["seconds"]),
        timing.ms(numbers["baseline_seconds"]),
        f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
        verdict,
    )


if __name__ == "__main__":
    main()
