"""The figures of the feature space: the numbers behind them, and drawing them for a run.

Feature vectors are ``N`` of length ``D`` with a class each; angles are in degrees. What
is undefined (a class without vectors, an angle at a zero vector) is NaN.
"""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from lsr_jax import files
from lsr_jax.errors import InputError
from lsr_jax.ops import numerics, pseudo_labels, resample
from lsr_jax.report import figures
from lsr_jax.report.measure import Evaluation
from lsr_jax.training import sharding
from lsr_jax.training.stage import Run
from lsr_jax.types import IGNORE

PERPLEXITY = 30
COMPONENTS = 50
PER_CLASS = 350  # vectors, as in LSR
PER_CLASS_OF_BOTH = 100  # vectors of each domain where both are shown together
MAPS = 2  # images of the figure of downsampled labels
SEED = 0  # of the choice of cells
DOMAINS = ("source", "target")


class Sample(NamedTuple):
    """Feature vectors of one domain, float32 ``[N, D]``, and their classes ``[N]``."""

    vectors: np.ndarray
    labels: np.ndarray


def balanced_choice(
    labels: np.ndarray, *, count: int, num_classes: int, seed: int
) -> np.ndarray:
    """Draw at most ``count`` cells of every class without replacement.

    The draw depends on labels and seed alone, so two networks with feature maps of one
    size are compared on the same cells. ``labels`` have any shape, 255 = ignore; a class
    with fewer cells gives all of them. Returns ``[N]`` ascending positions in the
    flattened labels.
    """
    flat = np.asarray(labels).reshape(-1)
    order = np.random.default_rng(seed).permutation(flat.size)
    shuffled = flat[order]
    chosen = [order[shuffled == c][:count] for c in range(num_classes)]
    return np.sort(np.concatenate(chosen))


def class_means(sample: Sample, *, num_classes: int) -> np.ndarray:
    """Prototypes ``[C, D]``: the mean vector of each class, NaN where it is absent."""
    means = np.full((num_classes, sample.vectors.shape[1]), np.nan)
    for c in np.unique(sample.labels):
        means[c] = sample.vectors[sample.labels == c].mean(axis=0, dtype=np.float64)
    return means


def inner_angles(sample: Sample, prototypes: np.ndarray) -> np.ndarray:
    """Angle ``[N]`` between each vector and the prototype of its class (LSR, Fig. 5)."""
    own = numerics.unit_rows(prototypes[sample.labels])
    cosines = (numerics.unit_rows(sample.vectors) * own).sum(axis=-1)
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


def prototype_angles(prototypes: np.ndarray) -> np.ndarray:
    """Mean angle ``[C]`` of each prototype to all others that exist (LSR, Fig. 6).

    ``theta_c = mean_{j != c} arccos(cos(p_c, p_j))``; at most 90 for the non-negative
    features behind a ReLU.
    """
    angles = numerics.angles(prototypes)
    defined = ~np.isnan(angles)
    totals, counts = np.where(defined, angles, 0).sum(axis=1), defined.sum(axis=1)
    return np.divide(totals, counts, out=np.full(len(angles), np.nan), where=counts > 0)


def measures(sample: Sample, *, num_classes: int) -> dict[str, float]:
    """What LSR's terms act on, as means over the classes that occur.

    ``angle_within`` of vectors to the mean of their class (clustering), ``angle_between`` of
    each class mean to the others (perpendicularity), both in degrees, and the ``norm`` of
    vectors (norm alignment).
    """
    means = class_means(sample, num_classes=num_classes)
    vectors = pd.DataFrame(
        {
            "angle_within": inner_angles(sample, means),
            "norm": numerics.norms(sample.vectors),
        }
    )
    found = vectors.groupby(sample.labels).mean().mean()
    between = np.nanmean(prototype_angles(means))
    return {**found.to_dict(), "angle_between": float(between)}


def class_shares(labels: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Share of every class ``[C + 1]``, the unlabelled cells last (LSR, Fig. 4)."""
    flat = np.asarray(labels).reshape(-1)
    places = np.where(flat == IGNORE, num_classes, flat).astype(np.int64)
    return np.bincount(places, minlength=num_classes + 1) / flat.size


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """A confusion matrix in shares of its true class ``[C, C]``, NaN where absent."""
    counts = np.asarray(matrix, np.float64)
    true = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, true, out=np.full(counts.shape, np.nan), where=true > 0)


def joined(samples: Sequence[Sample]) -> tuple[Sample, np.ndarray]:
    """Several samples as one, and which of them each vector came from, ``[N]``."""
    whole = Sample(*(np.concatenate(part) for part in zip(*samples, strict=True)))
    sizes = [len(sample.labels) for sample in samples]
    return whole, np.repeat(np.arange(len(samples)), sizes)


def principal(vectors: np.ndarray, components: int = 2) -> np.ndarray:
    """Coordinates ``[N, components]`` along the directions of largest variance."""
    # Imported here: a run without these figures does not wait for scikit-learn.
    from sklearn.decomposition import PCA

    # The solver by covariance is deterministic, the signs of directions too.
    found = PCA(components, svd_solver="covariance_eigh")
    return found.fit_transform(np.asarray(vectors, np.float64))


def tsne(vectors: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """t-SNE ``[N, 2]`` (Barnes-Hut) of the first 50 principal components.

    Perplexity 30, or less where there are few vectors; starts from the principal
    components. One thread: the order in which several add up is not reproducible.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    reduced = principal(vectors, min(COMPONENTS, *vectors.shape))
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    method = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
    with threadpool_limits(1):
        return method.fit_transform(reduced.astype(np.float32)).astype(np.float64)


def read_curves(path: Path) -> pd.DataFrame:
    """The metrics of a stage's ``metrics.jsonl`` by step; empty without one.

    Raises:
      InputError: a line that is not a JSON object with a step.
    """
    # The last line of a run in progress may be incomplete.
    text = (
        path.read_text(encoding="utf-8").rpartition("\n")[0] if path.is_file() else ""
    )
    if not text:
        return pd.DataFrame()
    try:
        found = pd.read_json(io.StringIO(text), lines=True).set_index("step")
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error}); restore the file") from error
    return found.select_dtypes("number")


Picture = tuple[Path, str]  # a PNG in the folder of the report, and its caption


def curves(run: Run, stages: Sequence[str], folder: Path) -> list[Picture]:
    """Draw the training curves of the stages that have a log."""
    found = {
        stage: read_curves(run.folder(stage) / "metrics.jsonl") for stage in stages
    }
    found = {stage: table for stage, table in found.items() if len(table)}
    if not found:
        return []
    figure = figures.training_curves(found)
    return [_save(folder, "training_curves", figure, "Metrics of every training step.")]


def draw(evaluation: Evaluation, stages: Sequence[str], folder: Path) -> list[Picture]:
    """Compute and draw everything that needs the networks, a panel for each stage.

    Raises:
      InputError: a split without labelled images.
    """
    sampler = Sampler(evaluation)
    drawn = itertools.chain(
        _confusion(evaluation, stages),
        _labels(sampler),
        _latent(sampler, stages),
        _domains(sampler, stages, folder),
    )
    return [_save(folder, *figure) for figure in drawn]


class Sampler:
    """Feature vectors of trained networks, of the same balanced cells for each of them."""

    def __init__(self, evaluation: Evaluation):
        self.evaluation = evaluation
        self.space = evaluation.space
        self._model = evaluation.run.model
        self.label_maps = functools.cache(self.label_maps)
        self._gather = jax.jit(self._gather)
        self._downsample = jax.jit(self._downsample, static_argnames="size")

    def label_maps(self, domain: str) -> tuple[np.ndarray, np.ndarray]:
        """Validation labels ``[N, h, w]`` at the size of the feature map, by two rules.

        `pseudo_labels.histogram_downsample` (frequency-aware) and `resample.nearest`.
        """
        found = []
        with self.evaluation.batches(domain) as batches:
            for images, valid, _ in batches:
                size = self.feature_size(images.image)
                # One at a time: labels may be large, and their one-hot form is.
                for label in images.label[valid]:
                    found.append(self._downsample(label[None], size=size))
        aware, nearest = map(np.concatenate, zip(*found, strict=True))
        return aware, nearest

    def choose(self, domain: str, count: int) -> np.ndarray:
        """Positions of at most ``count`` cells of every class of a domain.

        Raises:
          InputError: no cell of the split has a class.
        """
        labels, _ = self.label_maps(domain)
        positions = balanced_choice(
            labels, count=count, num_classes=self.space.num_classes, seed=SEED
        )
        if len(positions) < 2:
            raise InputError(
                f"--figures: the {domain} split has no labelled pixel; choose another"
            )
        return positions

    def sample(self, stage: str, domain: str, count: int) -> Sample:
        """A network's vectors of at most ``count`` cells of every class."""
        (network,) = self.evaluation.entry(stage).members
        positions = self.choose(domain, count)
        labels, _ = self.label_maps(domain)
        found, seen = [], 0
        with self.evaluation.batches(domain) as batches:
            for images, valid, _ in batches:
                end = seen + valid.sum() * labels[0].size
                inside = positions[(positions >= seen) & (positions < end)] - seen
                if len(inside):
                    image = sharding.shard_batch(images.image, self.evaluation.run.mesh)
                    # Few different lengths, so that few programs are compiled.
                    length = 1 << (len(inside) - 1).bit_length()
                    index = np.resize(inside, length)
                    vectors = self._gather(
                        network.params, network.model_state, image, index
                    )
                    found.append(np.asarray(vectors, np.float32)[: len(inside)])
                seen = end
        return Sample(np.concatenate(found), labels.reshape(-1)[positions])

    def feature_size(self, images: np.ndarray) -> tuple[int, int]:
        """``(h, w)`` of the feature map of ``[B, H, W, 3]`` images, from shapes alone."""
        fresh = jax.eval_shape(
            lambda key: self._model.init(key, images.shape[1:3]), jax.random.key(0)
        )
        return jax.eval_shape(self._features, *fresh, images).shape[1:3]

    def _features(self, params, model_state, image):
        inputs = self.evaluation.run.normalise(image)
        return self._model.forward(params, model_state, inputs, False)[0].features

    def _gather(self, params, model_state, image, index):
        maps = self._features(params, model_state, image)
        return maps.reshape(-1, maps.shape[-1])[index]

    def _downsample(self, label, size):
        label = label.astype(jnp.int32)
        aware = pseudo_labels.histogram_downsample(
            label, size=size, num_classes=self.space.num_classes
        )
        return aware, resample.nearest(label, size)


def _confusion(evaluation, stages):
    shares = {}
    for stage in stages:
        entry = evaluation.entry(stage)
        predictor, params = evaluation.predictor(entry)
        # That of the table: running statistics, the first of its protocols.
        state, protocols = entry.members[0].model_state, evaluation.protocols[:1]
        with evaluation.batches("target") as batches:
            found = predictor.confusions(params, state, batches, protocols=protocols)
        shares[stage] = row_shares(found[tuple(protocols)])
    yield (
        "confusion",
        figures.confusion(shares, evaluation.space.classes),
        "Confusion on the target in percent of the pixels of each true class; grey: a "
        "class that does not occur.",
    )


def _labels(sampler):
    names, colors = sampler.space.classes, sampler.space.colors
    positions, images, truths = sampler.evaluation.examples("source", MAPS)
    aware, nearest = sampler.label_maps("source")
    rules = {"nearest": nearest, "frequency-aware": aware}
    columns = {"image": images, "ground truth": truths}
    columns |= {rule: maps[positions] for rule, maps in rules.items()}
    yield (
        "downsampling",
        figures.panel(columns, names, colors),
        "Source labels at the size of the feature map, nearest and frequency-aware "
        "(LSR, Fig. 3b).",
    )
    shares = {
        rule: class_shares(maps, num_classes=len(names)) for rule, maps in rules.items()
    }
    yield (
        "class_shares",
        figures.shares(shares, names),
        "Share of each class among the cells of the source labels after nearest and "
        "frequency-aware downsampling (LSR, Fig. 4).",
    )


def _latent(sampler, stages):
    names, colors = sampler.space.classes, sampler.space.colors
    rays, angles, points, labels = {}, {}, {}, {}
    for stage in stages:
        sample = sampler.sample(stage, "target", PER_CLASS)
        prototypes = class_means(sample, num_classes=len(names))
        norms = numerics.norms(sample.vectors)
        rays[stage] = norms, inner_angles(sample, prototypes), sample.labels
        angles[stage] = prototype_angles(prototypes)
        points[stage], labels[stage] = _tsne(sample), sample.labels
    vectors = f"at most {PER_CLASS} feature vectors a class, target validation images"
    yield (
        "polar",
        figures.polar(rays, names, colors),
        "Norms (radius) and angles to the class mean (beside the ray of the class) "
        f"of {vectors} (LSR, Fig. 5).",
    )
    yield (
        "prototype_angles",
        figures.prototype_angles(angles, names),
        "Mean angle of each class prototype to all others; dashed: 90 degrees, the "
        f"largest possible; {vectors} (LSR, Fig. 6).",
    )
    yield (
        "tsne",
        figures.scatter(points, labels, names),
        f"t-SNE of normalised features, {vectors} (LSR, Fig. 7).",
    )


def _domains(sampler, stages, folder):
    components, neighbors, labels, rows = {}, {}, {}, []
    num_classes = sampler.space.num_classes
    for stage in stages:
        parts = [sampler.sample(stage, d, PER_CLASS_OF_BOTH) for d in DOMAINS]
        for domain, part in zip(DOMAINS, parts, strict=True):
            found = measures(part, num_classes=num_classes)
            rows.append({"stage": stage, "domain": domain, **found})
        whole, labels[stage] = joined(parts)
        components[stage] = principal(whole.vectors)
        neighbors[stage] = _tsne(whole)
    files.text(folder / "features.csv", pd.DataFrame(rows).to_csv(index=False))
    vectors = (
        f"of both domains, at most {PER_CLASS_OF_BOTH} vectors a class and domain, "
        "validation images."
    )
    figure = figures.scatter(components, labels, DOMAINS)
    what = "Two principal components of the features"
    yield "domains_pca", figure, f"{what} {vectors}"
    figure = figures.scatter(neighbors, labels, DOMAINS)
    yield "domains_tsne", figure, f"t-SNE of normalised features {vectors}"


def _tsne(sample: Sample) -> np.ndarray:
    return tsne(np.nan_to_num(numerics.unit_rows(sample.vectors)))


def _save(folder: Path, name: str, figure: figures.Figure, caption: str) -> Picture:
    figures.save(figure, folder / name)
    return folder / f"{name}.png", caption
