"""Weak scaling of a training step: the same number of images per device.

    python -m benchmarks.scaling                     1, 2, 4, ... of the available devices
    python -m benchmarks.scaling --quick --cpu_devices 4

Device counts alternate in one process. Efficiency is images per second and device, relative to
one device. Virtual CPU devices share the same cores, so on a CPU efficiency only shows the cost
of splitting a batch.
"""

from __future__ import annotations

import jax

from benchmarks import steps, timing
from lsr_jax.training import sharding

HEADER = ("devices", "images", "ms [quartiles]", "images/s", "efficiency")


def main(arguments: list[str] | None = None) -> dict:
    """Measure and print."""
    options = parse(arguments)
    sharding.share_cpu(options.cpu_devices)
    available = len(jax.devices())
    counts = options.devices or [n for n in (1, 2, 4, 8, 16, 32) if n <= available]
    sides = {count: steps.Step(setting(count, options)) for count in counts}
    samples = timing.alternate(sides, repeats=options.repeats, warmup=options.warmup)
    result, rows = {}, [HEADER]
    for count, times in samples.items():
        seconds = timing.spread(times)
        images = 2 * count * options.batch_size
        rate = images / seconds.median
        single = rate if not result else result[counts[0]]["images_per_second"]
        efficiency = rate / single * counts[0] / count
        result[count] = {
            "seconds": seconds,
            "images_per_second": rate,
            "efficiency": efficiency,
        }
        rows.append(
            (count, images, timing.ms(seconds), f"{rate:.3g}", f"{efficiency:.0%}")
        )
    return timing.finish(
        {**setting(1, options)._asdict(), "devices": result}, rows, file=options.json
    )


def parse(arguments):
    """Parse the command line; `--quick` changes the defaults."""
    parser = timing.parser(__doc__, repeats=10)
    parser.prog = "python -m benchmarks.scaling"
    parser.add_argument("--devices", nargs="+", type=int, help="device counts")
    parser.add_argument("--method", default="lsr", choices=steps.plain_methods())
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch_size", type=int, default=1, help="per device")
    parser.add_argument("--source_size", type=timing.size, help="1280x720")
    parser.add_argument("--target_size", type=timing.size, help="1024x512")
    parser.add_argument("--backbone", help="resnet101; quick: mini")
    return timing.defaults(parser.parse_args(arguments))


def setting(count: int, options) -> steps.Setting:
    """The step on ``count`` devices."""
    return steps.Setting(
        method=options.method,
        source_size=options.source_size,
        target_size=options.target_size,
        batch_size=count * options.batch_size,
        dtype=options.dtype,
        devices=count,
        backbone=options.backbone,
    )


if __name__ == "__main__":
    main()
