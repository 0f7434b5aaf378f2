"""Every figure of a run, computed from its checkpoints and drawn into its report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lsr_jax.data import records
from lsr_jax.ops import numerics
from lsr_jax.report import features, panel
from lsr_jax.report import figures as report_figures
from lsr_jax.report.measuring import Evaluation
from lsr_jax.report.sampling import Sampler
from lsr_jax.training.stage import Run

PER_CLASS = 350  # vectors, as in LSR
PER_CLASS_OF_BOTH = 100  # vectors of each domain where both are shown together
MAPS = 2  # images of the figure of downsampled labels
DOMAINS = ("source", "target")


class Picture(NamedTuple):
    """A figure in the report.

    Attributes:
      file: PNG in the folder of the report.
      caption: what it shows.
    """

    file: str
    caption: str


PANEL = Picture(
    "panel.png",
    "Target validation images: image, ground truth and the prediction of every stage.",
)


def curves(experiment: Run, stages: Sequence[str], folder: Path) -> list[Picture]:
    """The training curves; nothing where no stage kept a log."""
    found = {
        stage: report_figures.read_curves(experiment.folder(stage) / "metrics.jsonl")
        for stage in stages
    }
    found = {stage: curve for stage, curve in found.items() if curve}
    if not found:
        return []
    figure = report_figures.training_curves(found)
    return [_save(figure, folder, "training_curves", "Metrics of every training step.")]


def write(evaluation: Evaluation, stages: Sequence[str], folder: Path) -> list[Picture]:
    """Compute and draw everything that needs the networks.

    Args:
      evaluation: of the run; it restores each network once, for tables and figures.
      stages: in the order of the panels.
      folder: the report.

    Raises:
      InputError: a split without labelled images.
    """
    sampler = Sampler(evaluation)
    return [
        *_confusion(sampler, stages, folder),
        *_labels(sampler, folder),
        *_latent(sampler, stages, folder),
        *_domains(sampler, stages, folder),
    ]


def _confusion(sampler, stages, folder):
    names = sampler.space.classes
    shares = {stage: features.row_shares(sampler.confusion(stage)) for stage in stages}
    caption = (
        "Confusion on the target in percent of the pixels of each true class; grey: a "
        "class that does not occur."
    )
    return [
        _save(report_figures.confusion(shares, names), folder, "confusion", caption)
    ]


def _labels(sampler, folder):
    names, colors = sampler.space.classes, np.array(sampler.space.colors)
    maps = sampler.label_maps("source")
    rules = {"nearest": maps.nearest, "frequency-aware": maps.frequency_aware}
    source = sampler.experiment.open("source", "val")
    count = min(MAPS, len(source))
    places = [i * len(source) // count for i in range(count)]
    decode = partial(records.decode, labelled=True, same_size=False)
    chosen = [decode(source[place]) for place in places]
    images = np.stack([example["image"] for example in chosen])
    truths = [panel.nearest(x["label"], images.shape[1:3]) for x in chosen]
    panel.panel(
        images,
        np.stack(truths),
        {rule: labels[places] for rule, labels in rules.items()},
        names,
        colors,
        folder / "downsampling.png",
    )
    shares = {
        rule: features.class_shares(labels, num_classes=len(names))
        for rule, labels in rules.items()
    }
    return [
        Picture(
            "downsampling.png",
            "Source labels at the size of the feature map, nearest and frequency-aware "
            "(LSR, Fig. 3b).",
        ),
        _save(
            report_figures.shares(shares, names),
            folder,
            "class_shares",
            "Share of each class among the cells of the source labels after nearest and "
            "frequency-aware downsampling (LSR, Fig. 4).",
        ),
    ]


def _latent(sampler, stages, folder):
    names, colors = sampler.space.classes, np.array(sampler.space.colors)
    samples = {stage: sampler.sample(stage, "target", PER_CLASS) for stage in stages}
    angles = {
        stage: features.prototype_angles(
            features.class_means(sample, num_classes=len(names))
        )
        for stage, sample in samples.items()
    }
    points = {stage: _tsne(sample) for stage, sample in samples.items()}
    labels = next(iter(samples.values())).labels
    vectors = f"at most {PER_CLASS} feature vectors a class, target validation images"
    return [
        _save(
            report_figures.polar(samples, names, colors),
            folder,
            "polar",
            "Norms (radius) and angles to the class mean (beside the ray of the class) "
            f"of {vectors} (LSR, Fig. 5).",
        ),
        _save(
            report_figures.prototype_angles(angles, names),
            folder,
            "prototype_angles",
            "Mean angle of each class prototype to all others; dashed: 90 degrees, the "
            f"most there can be; {vectors} (LSR, Fig. 6).",
        ),
        _save(
            report_figures.scatter(points, labels, names),
            folder,
            "tsne",
            f"t-SNE of normalised features, {vectors} (LSR, Fig. 7).",
        ),
    ]


def _domains(sampler, stages, folder):
    components, neighbours, labels = {}, {}, {}
    for stage in stages:
        parts = [sampler.sample(stage, d, PER_CLASS_OF_BOTH) for d in DOMAINS]
        whole, labels[stage] = features.joined(parts)
        components[stage] = features.principal(whole.vectors)
        neighbours[stage] = _tsne(whole)
    drawn = {
        "domains_pca": (components, "Two principal components of the features"),
        "domains_tsne": (neighbours, "t-SNE of normalised features"),
    }
    return [
        _save(
            report_figures.scatter(points, labels, DOMAINS),
            folder,
            name,
            f"{what} of both domains, at most {PER_CLASS_OF_BOTH} vectors a class and "
            "domain, validation images.",
        )
        for name, (points, what) in drawn.items()
    ]


def _tsne(sample):
    return features.tsne(np.nan_to_num(numerics.unit_rows(sample.vectors)))


def _save(figure, folder, name, caption):
    report_figures.save(figure, folder / name)
    return Picture(f"{name}.png", caption)
