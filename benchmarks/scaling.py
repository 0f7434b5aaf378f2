"""The same step on more and more devices, each with the same number of images.

    python -m benchmarks.scaling                     1, 2, 4, ... of the devices here
    python -m benchmarks.scaling --quick --cpu-devices 4

The device counts take turns in one process. Efficiency is images a second and device over
that of one device. Virtual devices of a CPU share its cores, so there only the sum says
something: whether a split batch costs more than a whole one.
"""

from __future__ import annotations

import jax

from benchmarks import steps, timing
from lsr_jax.training import sharding

HEADER = ("devices", "images", "ms [quartiles]", "images/s", "efficiency")


def main(arguments: list[str] | None = None) -> dict:
    """Measures, prints."""
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
    """The command line; `--quick` changes the defaults."""
    parser = timing.parser(__doc__, repeats=10)
    parser.prog = "python -m benchmarks.scaling"
    parser.add_argument("--devices", nargs="+", type=int, help="counts to compare")
    parser.add_argument("--method", default="lsr", choices=steps.plain_methods())
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-size", type=int, default=1, help="of each device")
    parser.add_argument("--source-size", type=timing.size, help="1280x720")
    parser.add_argument("--target-size", type=timing.size, help="1024x512")
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
