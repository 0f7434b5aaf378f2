"""Speed of the input pipeline: every stage alone, and the whole pipeline.

    python -m benchmarks.data                 full size; a few minutes
    python -m benchmarks.data --quality 95    prepared images as JPEG, not PNG
    python -m benchmarks.data --json FILE     write the numbers to a file too
    python -m benchmarks.data --quick         small images, to check that it runs

A step is one GTA5 image at 1280x720 and one Cityscapes image at 1024x512 with the source
label, decoded and batched as uint8. The data sets are synthetic, written in the layouts of
the downloads and then prepared. Targets: 25 steps/s with 2 workers from prepared records on
4 cores, 2.5 times the rate from full-size files, 400 MB per worker, 5 ms in the main process.
"""

import argparse
import json
import multiprocessing
import pathlib
import tempfile
import time

from benchmarks import dataset_folders
from lsr_jax.data import image_io, pipeline, prepare, processes, records, sources
from lsr_jax.data.layouts import LAYOUTS

SIZES = {"gta5": (720, 1280), "cityscapes": (512, 1024)}
TARGETS = {
    "prepared_steps_per_second": (">=", 25.0),
    "prepared_over_full": (">=", 2.5),
    "worker_megabytes": ("<=", 400.0),
    "main_milliseconds_per_step": ("<=", 5.0),
}


def main():
    """Draw and prepare the data sets, measure, print."""
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(options.folder or folder)
        scale = 8 if options.quick else 1
        sizes = {name: tuple(n // scale for n in size) for name, size in SIZES.items()}
        draw(folder, options.images, scale)
        result = {"cores": processes.cores(), "workers": options.workers}
        result |= prepare_all(folder, sizes, options.quality)
        result |= stages(folder, sizes)
        result |= whole_pipeline(folder, sizes, options)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    print(table(result, judged=not options.quick))


def parse():
    """Parse the command line; `--quick` changes the defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small images, few steps")
    parser.add_argument("--images", type=int, help="per data set (16; quick: 4)")
    parser.add_argument("--steps", type=int, help="measured (150; quick: 4)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quality", type=int, help="of prepared images as JPEG")
    parser.add_argument("--folder", help="keep the data sets here")
    parser.add_argument("--json", metavar="FILE", help="file for the numbers")
    options = parser.parse_args()
    options.images = options.images or (4 if options.quick else 16)
    options.steps = options.steps or (4 if options.quick else 150)
    return options


def draw(folder, images, scale):
    """Write both data sets, unless an earlier run has."""
    small = {
        name: tuple(n // scale for n in size)
        for name, size in dataset_folders.SIZES.items()
    }
    if not (folder / "gta5").exists():
        dataset_folders.gta5(folder / "gta5", images, small["gta5"])
        counts = {"train": images, "val": 1}
        dataset_folders.cityscapes(folder / "cityscapes", counts, small["cityscapes"])


def prepare_all(folder, sizes, quality):
    """Images per second of `prepare` with one process, including TFDS, and their bytes."""
    result = {}
    for name, size in sizes.items():
        out = tempfile.mkdtemp(dir=folder)
        start = time.perf_counter()
        done = prepare.prepare(
            LAYOUTS[name],
            folder / name,
            size=size,
            out=out,
            quality=quality,
            progress=False,
        )
        seconds = time.perf_counter() - start
        splits = json.loads((done / "manifest.json").read_text())["splits"].values()
        count = sum(split["count"] for split in splits)
        result[f"prepare_{name}_images_per_second"] = count / seconds
        stored = sum(file.stat().st_size for file in done.glob("*array_record*"))
        result[f"prepared_{name}_megabytes_per_image"] = stored / count / 1e6
        (folder / f"prepared_{name}").unlink(missing_ok=True)
        (folder / f"prepared_{name}").symlink_to(done)
    return result


def open_train(folder, name, size, kind):
    """Open the training split: the files ("full") or prepared records ("prepared")."""
    root = folder / (name if kind == "full" else f"prepared_{name}")
    spec = {
        "name": name,
        "root": str(root),
        "size": size,
        "space": "cityscapes",
        "train": "train",
        "val": "train",
        "on_bad_example": "stop",
    }
    return sources.open_domain(spec).open("train")


def stages(folder, sizes):
    """Milliseconds per image of every stage, in one thread."""
    result = {}
    for name, size in sizes.items():
        full = open_train(folder, name, size, "full")
        stored = open_train(folder, name, size, "prepared")
        reader = full.reader
        pair = full.pairs[0]
        data, image = reader.data(pair.image), reader.image(pair.image)
        label, record = reader.label(pair.label), stored[0]
        work = {
            "full_read": lambda reader=reader, pair=pair: reader.data(pair.image),
            "full_decode": lambda data=data: image_io.decode_image(data, ""),
            "full_resize": lambda image=image, size=size: image_io.resize_image(
                image, size
            ),
            "full_label": lambda reader=reader, pair=pair: reader.label(pair.label),
            "full_label_resize": lambda label=label, size=size: image_io.resize_label(
                label, size
            ),
            "prepared_read": lambda stored=stored: stored[0],
            "prepared_decode": lambda record=record: records.decode(
                record, labelled=False
            ),
            "prepared_decode_with_label": lambda record=record: records.decode(
                record, labelled=True
            ),
        }
        for stage, function in work.items():
            result[f"{name}_{stage}_milliseconds"] = milliseconds(function)
    return result


def milliseconds(function, times=8):
    """Shortest of several runs, which other work on the machine affects least."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return 1000 * best


def whole_pipeline(folder, sizes, options):
    """Steps per second of the pipeline, from files and from prepared records."""
    result = {}
    for kind in ("full", "prepared"):
        opened = {name: open_train(folder, name, sizes[name], kind) for name in sizes}
        steps = options.steps if kind == "prepared" else max(2, options.steps // 3)
        with pipeline.train_batches(
            opened["gta5"],
            opened["cityscapes"],
            batch_size=1,
            seed=0,
            workers=options.workers,
        ) as batches:
            for _ in range(4 * options.workers + 4):  # startup, full buffers
                next(batches)
            start, own = time.perf_counter(), time.process_time()
            for _ in range(steps):
                next(batches)
            seconds, own = time.perf_counter() - start, time.process_time() - own
            memory = [peak(child.pid) for child in multiprocessing.active_children()]
        result[f"{kind}_steps_per_second"] = steps / seconds
        if kind == "prepared":
            result["worker_megabytes"] = max(memory, default=0.0)
            result["main_milliseconds_per_step"] = 1000 * own / steps
    rates = [result[f"{kind}_steps_per_second"] for kind in ("prepared", "full")]
    return result | {"prepared_over_full": rates[0] / rates[1]}


def peak(pid):
    """Peak memory of a process in MB."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def table(result, *, judged):
    """Table of all numbers, with targets."""
    lines = []
    for name, value in result.items():
        sign, target = TARGETS.get(name, ("", None))
        note = ""
        if judged and target is not None:
            met = value >= target if sign == ">=" else value <= target
            note = f"{sign} {target:g}: {'met' if met else 'NOT MET'}"
        lines.append(f"{name:46} {value:10.2f}  {note}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    main()
