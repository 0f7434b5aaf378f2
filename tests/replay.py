"""Training runs of the LSR originals, repeated by the real step on recorded batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
import seeded
import toy
import watching

from lsr_jax import models
from lsr_jax.methods import controls, lsr
from lsr_jax.training import optimizer, state, step
from lsr_jax.types import Batch, BatchSpec, Images

NETWORK = models.Architecture(64, 64, (1, 1, 1, 1))
TERMS = {
    "source_ce": "segmentation",
    "source_norm": "norm_source",
    "source_perp": "perpendicularity",
    "source_clust": "clustering_source",
    "target_norm": "norm_target",
    "target_clust": "clustering_target",
    "target_em": "entropy",
}
RELEASED = lsr.PRESETS["released"]
SETTINGS = {
    "A": RELEASED,
    "B": {
        **RELEASED,
        "class_frequency": "none",
        "target_labels": "histogram",
        "confidence": 0.1,
        "clustering_distance": "l2_mean",
        "norm_target": "class",
        "norm_relative": False,
        "norm_active_only": False,
    },
    "C": {
        **RELEASED,
        "class_frequency": "none",
        "target_labels": "prototype",
        "clustering_distance": "cosine",
        "norm_relative": False,
    },
}


def groups(duplicate_updates, frozen):
    return optimizer.model_groups(
        head_multiplier=10.0,
        frozen=frozen,
        repeated=NETWORK.repeated,
        duplicate_updates=duplicate_updates,
    )


@functools.cache
def replay(file, variant, dtype):
    """``{"dup": {quantity: [steps, ...]}, "dedup": ...}`` of one setting."""
    arrays = dict(np.load(recorded.GOLDENS / f"{file}.npz"))
    with (
        jax.enable_x64(dtype == "float64"),
        pytest.MonkeyPatch.context() as patch,
    ):
        return _replay(arrays, variant, dtype, patch)


def _replay(arrays, variant, dtype, patch):
    labels, batches = [], make_batches(arrays, variant, dtype)
    original = lsr.label_target_features

    def target_labels(*arguments, **keywords):
        labels.append(original(*arguments, **keywords))
        return labels[-1]

    patch.setattr(lsr, "label_target_features", target_labels)
    patch.setattr(lsr, "visiting_order", lambda order, num_classes: order)

    num_classes = int(arrays["num_classes"])
    orders = arrays.get(f"{variant}__perm_orders", np.zeros((len(batches), 0)))
    terms = TERMS.values() if variant else ["segmentation"]
    method = make_method(arrays, variant)
    method = watching.remembering(method, terms, labels, orders)
    model = models.build(
        backbone=NETWORK, num_classes=num_classes, freeze_stem_affine=True, dtype=dtype
    )
    params, model_state = seeded.trees(
        "lsr_resnet1111", heads=watching.HEADS, branches=2, dtype=dtype
    )
    target = batches[0].target
    spec = BatchSpec(num_classes, model.feature_dim, (65, 65), (57, 73))
    _, seen = method.init(None, params, model_state, spec)
    seen = jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, seen
    )
    if target is not None:
        size = model.feature_size(target.image.shape[1:3])
        seen = seen._replace(labels=jnp.zeros((len(target.image), *size), jnp.int32))

    params = {"model": params}
    transformation = make_optimizer(arrays, params, model.frozen_paths)
    train_step = jax.jit(
        step.make_step(
            method,
            transformation,
            model.forward,
            lambda _, batch: batch,
            toy.PIXELS,
        )
    )
    start = state.create(params, model_state, seen, transformation, jax.random.key(0))
    return {
        name: run(
            start.replace(
                opt_state=start.opt_state._replace(duplicated=jnp.array(name == "dup"))
            ),
            train_step,
            batches,
            arrays,
        )
        for name in ("dup", "dedup")
    }


def make_optimizer(arrays, params, frozen):
    """With duplicated parameters and without."""
    return watching.watched(
        *(
            optimizer.make(
                params,
                groups(duplicate_updates, frozen),
                name="sgd",
                learning_rate=float(arrays["base_lr"]),
                weight_decay=float(arrays["weight_decay"]),
                momentum=float(arrays["momentum"]),
                decay_steps=int(arrays["iter_max"]),
                power=0.9,
                warmup_steps=0,
            )
            for duplicate_updates in ("sequential", "off")
        )
    )


def make_method(arrays, variant):
    if not variant:
        return controls.source_only()
    return lsr.make(
        **SETTINGS[variant],
        clustering=float(arrays["lambda_cluster"]),
        perpendicularity=float(arrays["lambda_ortho"]),
        norm=float(arrays["lambda_norm"]),
        entropy=float(arrays["lambda_entropy"]),
        entropy_ratio=float(arrays["IW_ratio"]),
        histogram_threshold=float(arrays["hist_th"]),
        prototype_momentum=float(arrays["centroids_smoothing"]),
    )


def make_batches(arrays, variant, dtype):
    """One batch a step; the settings with one image take the first."""
    if not variant:
        return [
            Batch(Images(image.astype(dtype), label), None)
            for image, label in zip(arrays["images"], arrays["labels"], strict=True)
        ]
    count = 2 if variant == "B" else 1
    return [
        Batch(
            Images(source[:count].astype(dtype), label[:count]),
            Images(target[:count].astype(dtype), None),
        )
        for source, label, target in zip(
            arrays["source_images"],
            arrays["source_labels"],
            arrays["target_images"],
            strict=True,
        )
    ]


def run(whole, train_step, batches, arrays):
    names = [key.split("__value__")[1] for key in arrays if "dup__value__" in key]
    passes = 2 if batches[0].target is not None else 1
    history = []
    for number, batch in enumerate(batches, start=1):
        whole, _ = train_step(whole, batch)
        model, seen = whole.params["model"], whole.method_state
        entry = {
            "state": watching.checksums(
                model, whole.model_state, arrays["param_names"], passes * number
            ),
            "grad_l2": watching.gradient_norms(
                whole.opt_state.norms, arrays["trainable_names"]
            ),
            "labels": seen.labels,
            **{f"term__{name}": value for name, value in seen.terms.items()},
        }
        if batch.target is not None:
            table = np.asarray(seen.method.prototypes.mean, np.float64)
            entry["norm_reference"] = seen.method.source_norm
            entry["proto_state"] = np.stack(
                [table.sum(1), np.abs(table).sum(1), np.linalg.norm(table, axis=1)], 1
            )
        for name in set(names) - watching.unused_branches().keys():
            entry[f"value__{name}"] = seeded.leaf(
                model, whole.model_state, name, watching.HEADS
            )
        history.append(jax.device_get(entry))
    return {
        key: np.stack([entry[key] for entry in history])
        for key in history[0]
        if history[0][key] is not None
    }
