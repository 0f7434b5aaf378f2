"""Evaluation speed in images per second: prediction, upsampling, confusion matrix.

    python -m benchmarks.evaluation_speed                    ResNet-101, 1024x512 to 2048x1024
    python -m benchmarks.evaluation_speed --dtype float32 bfloat16 --batch_size 10
    python -m benchmarks.evaluation_speed --quick            small, on a CPU

Images are random and start on the host, so the transfer is measured too. Half of the last
batch is padding, which counts in the time and not in the number of images.
"""

from __future__ import annotations

import functools

import jax
import numpy as np

from benchmarks import steps, timing
from lsr_jax import models
from lsr_jax.augment import preprocess
from lsr_jax.evaluation import predictor
from lsr_jax.training import sharding
from lsr_jax.types import Images

HEADER = ("evaluation", "ms per set [quartiles]", "images/s")
BATCHES = 3


def main(arguments: list[str] | None = None) -> dict:
    """Measure and print."""
    options = parse(arguments)
    sharding.share_cpu(options.cpu_devices)
    mesh = sharding.make_mesh(options.devices)
    sharding.check_batch_size(options.batch_size, mesh)
    loaded, count = batches(options)
    sides = {dtype: evaluation(dtype, options, mesh, loaded) for dtype in options.dtype}
    samples = timing.alternate(sides, repeats=options.repeats, warmup=options.warmup)
    result, rows = {}, [HEADER]
    for dtype, times in samples.items():
        seconds = timing.spread(times)
        rate = count / seconds.median
        result[dtype] = {"seconds": seconds, "images_per_second": rate}
        name = f"{options.backbone} {dtype} batch {options.batch_size}"
        rows.append((name, timing.ms(seconds), f"{rate:.3g}"))
    facts = ("size", "label_size", "batch_size", "backbone", "devices")
    return timing.finish(
        {**{name: getattr(options, name) for name in facts}, "evaluation": result},
        rows,
        file=options.json,
    )


def parse(arguments):
    """Parse the command line; `--quick` changes the defaults."""
    parser = timing.parser(__doc__, repeats=10)
    parser.prog = "python -m benchmarks.evaluation_speed"
    parser.add_argument("--dtype", nargs="+", default=["float32"])
    parser.add_argument("--batch_size", type=int, default=10)
    parser.add_argument(
        "--size", type=timing.size, help="network input; default 1024x512"
    )
    parser.add_argument("--label_size", type=timing.size, help="default 2048x1024")
    parser.add_argument("--backbone", help="resnet101; quick: mini")
    parser.add_argument("--devices", type=int, default=1)
    options = parser.parse_args(arguments)
    quick = options.quick
    options.size = options.size or ((64, 128) if quick else (512, 1024))
    options.label_size = options.label_size or ((128, 256) if quick else (1024, 2048))
    return timing.network_defaults(options)


def batches(options) -> tuple[list, int]:
    """Batches as the pipeline delivers them, and the number of images without padding."""
    draw = np.random.default_rng(0)
    image = steps.images(draw, options.batch_size, options.size, False).image
    label = steps.images(draw, options.batch_size, options.label_size, True).label
    half = -(-options.batch_size // 2)
    valid = np.arange(options.batch_size) < half
    full = np.ones_like(valid)
    masks = [*[full] * (BATCHES - 1), valid]
    images = Images(image, label)
    return [(images, mask, None) for mask in masks], sum(int(m.sum()) for m in masks)


def evaluation(dtype: str, options, mesh, loaded):
    """A function that evaluates the set once."""
    model = models.build(
        backbone=options.backbone, num_classes=steps.NUM_CLASSES, dtype=dtype
    )
    network = sharding.replicate(model.init(jax.random.key(0), options.size), mesh)
    scores = predictor.network(
        model.forward,
        functools.partial(preprocess.normalise, preprocessing="caffe"),
    )
    evaluated = predictor.Predictor(scores, num_classes=steps.NUM_CLASSES, mesh=mesh)
    return lambda: evaluated.confusion(*network, loaded)


if __name__ == "__main__":
    main()
