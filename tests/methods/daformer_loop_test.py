"""Whole iterations of DAFormer, HRDA and MIC against those of the originals, in float64.

Losses, gradients at the step, teacher, labels, weights of pixels, parameters after the
step and running statistics of three iterations; and one with jitter and blur.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded
from flax import linen as nn

from lsr_jax.augment import strong
from lsr_jax.methods import dacs
from lsr_jax.models import daformer, layers, mix_transformer, multi_resolution
from lsr_jax.ops import classmix, masking
from lsr_jax.training import optimizer, step
from lsr_jax.types import Batch, Context, Frozen, Images, Pixels

TINY = mix_transformer.Architecture((16, 32, 40, 64), (1, 2, 1, 1))
LOSSES = {
    "segmentation": ("decode",),
    "feature_distance": ("src",),
    "mixed": ("mix.decode",),
    "masked": ("masked.decode",),
}
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
PIXELS = Pixels(lambda x: (x - MEAN) / STD, lambda x: x * STD + MEAN)
HEADS = {"head": "head", "scale_attention": "attention"}


def network(hrda):
    options = layers.Options(dtype="float64")
    body = mix_transformer.MixTransformer(TINY, options, (1, 2, 3, 4))
    head = daformer.Head(19, 16, 20, "sepaspp", 0.0, options)
    if not hrda:
        return daformer.DAFormer(body, head)
    attention = daformer.Head(19, 12, 12, "conv1", 0.0, options)
    return multi_resolution.MultiResolution(body, head, attention, daformer.decode, 0.5)


def forward(module: nn.Module):
    def run(params, model_state, images, train, rng=None):
        variables = {"params": params, "batch_stats": model_state}
        if not train:
            return module.apply(variables, images, False), model_state
        rngs = {} if rng is None else {"dropout": rng}
        outputs, updated = module.apply(
            variables, images, True, mutable=["batch_stats"], rngs=rngs
        )
        return outputs, updated["batch_stats"]

    return run


def renamed(path):
    """The original's path of a parameter in the names of this project."""
    if path[0] == "head" and path[1] in HEADS:
        return (HEADS[path[1]], *path[2:])
    return path


def moved(tree):
    if not tree.get("head", {}).keys() & HEADS.keys():
        return tree
    rest = {name: part for name, part in tree.items() if name != "head"}
    return rest | {HEADS[name]: part for name, part in tree["head"].items()}


def trees(file, prefix, scale):
    params, state = map(
        moved, seeded.mmseg_trees(file, prefix=prefix, dtype=np.float64)
    )
    classifier = params["head"]["conv_seg"]
    kernel = np.asarray(classifier["kernel"], np.float32) * np.float32(scale)
    classifier["kernel"] = jnp.asarray(kernel, jnp.float64)
    return params, state


def leaf(tree, path):
    for key in path:
        tree = tree[key]
    return np.asarray(tree)


class Draws:
    """The recorded draws of one iteration, in place of random ones."""

    def __init__(self, monkeypatch):
        self.now, self.seen = {}, {}
        monkeypatch.setattr(classmix, "draw_classes", self.classes)
        monkeypatch.setattr(masking, "block_mask", self.mask)
        monkeypatch.setattr(multi_resolution, "draw_corners", self.corners)
        monkeypatch.setattr(strong, "colour_jitter", self.jitter)
        monkeypatch.setattr(strong, "blur", self.blur)
        monkeypatch.setattr(dacs, "predict", self.predict(dacs.predict))
        monkeypatch.setattr(
            classmix, "pixel_weights", self.weights(classmix.pixel_weights)
        )

    def begin(self, draws):
        self.now = {
            name: iter(value) if isinstance(value, list) else value
            for name, value in draws.items()
        }
        self.seen = {"weights": []}

    def classes(self, key, labels, *, num_classes, void, of):
        assert void
        assert of == "batch"
        return self.now["classes"]

    def mask(self, key, shape, *, block, ratio):
        visible = self.now["mask"] > ratio
        assert visible.shape[1:] == tuple(round(side / block) for side in shape[1:])
        return visible.repeat(block, 1).repeat(block, 2)

    def corners(self, key, count, size, window):
        return jnp.tile(next(self.now["boxes"])[None], (count, 1))

    def jitter(self, key, image, **_):
        return strong.jitter(image, *next(self.now["jitter"]))

    def blur(self, key, image, *, sigma, **_):
        blurred = strong.gaussian_blur(image, next(self.now["sigma"]), largest=sigma[1])
        self.seen.setdefault("augmented", []).append(blurred)
        return blurred

    def predict(self, original):
        def predict(state, images, ctx):
            label, confident, state = original(state, images, ctx)
            self.seen["label"] = label
            self.seen["share"] = (confident >= 0.968).mean(dtype=confident.dtype)
            return label, confident, state

        return predict

    def weights(self, original):
        def weights(pasted, **keywords):
            found = original(pasted, **keywords)
            self.seen["weights"].append(found)
            self.seen.setdefault("pasted", pasted)
            return found

        return weights


def draws_of(golden, stem):
    """The recorded draws of an iteration, as arrays."""

    def optional(key):
        return golden[key] if key in golden.arrays else None

    chosen = np.zeros((2, 20), bool)
    for image in (0, 1):
        values = golden[f"{stem}classes__im{image}"]
        chosen[image, np.where(values == 255, 19, values)] = True
    draws = {"classes": chosen}
    if (mask := optional(f"{stem}mask_uniform")) is not None:
        draws["mask"] = mask
    boxes = [optional(f"{stem}box__{name}") for name in ("source", "mix", "masked")]
    draws["boxes"] = [box[[0, 2]] for box in boxes if box is not None]
    if (sigmas := optional(f"{stem}sigmas")) is not None:
        assert (
            golden[f"{stem}uniforms"]
            > np.resize([0.2, 0.5], len(golden[f"{stem}uniforms"]))
        ).all()
        factors = [golden[f"{stem}jitter{i}__factors"] for i in (0, 1)]
        orders = [golden[f"{stem}jitter{i}__order"] for i in (0, 1)]
        draws["jitter"] = [(np.concatenate(factors), np.stack(orders))]
        draws["sigma"] = [sigmas[:2]]
        if len(sigmas) == 3:
            order = np.tile(golden[f"{stem}jitter2__order"], (2, 1))
            draws["jitter"].append((golden[f"{stem}jitter2__factors"], order))
            draws["sigma"].append(sigmas[[2, 2]])
    return draws


def images_of(golden, stem):
    def normalised(key):
        return ((golden[key] - MEAN) / STD).astype(np.float32).astype(np.float64)

    if f"{stem}valid_pseudo_mask" in golden.arrays:
        trusted = golden[f"{stem}valid_pseudo_mask"] == 1
    else:
        trusted = np.ones(golden[f"{stem}source_labels"].shape, bool)
    trusted[:, : int(golden["ignore_top"])] = False
    trusted[:, trusted.shape[1] - int(golden["ignore_bottom"]) :] = False
    source = Images(normalised(f"{stem}source_images"), golden[f"{stem}source_labels"])
    return Batch(source, Images(normalised(f"{stem}target_images"), None, trusted))


def run(golden, monkeypatch, file, case):
    """All iterations of a case, held to the recorded ones."""
    draws = Draws(monkeypatch)
    numbers = sorted(
        {key.split("__")[1] for key in golden.arrays if key.startswith(f"{case}__it")}
    )
    keywords = dict(dacs.PRESETS["mic" if "mic" in file else "daformer"])
    if case == "plain":
        keywords |= {"jitter": 0.0, "blur_probability": 0.0}
    if "mic" in file:
        keywords["mask_block"] = int(golden["mask_block_size"])
        assert golden["mask_ratio"] == 0.7
    assert golden["alpha"] == keywords["teacher_momentum"]
    assert golden["fdist_lambda"] == keywords["feature_distance"]
    assert golden["fdist_min_ratio"] == 0.75
    golden.equals("fdist_classes", dacs.THINGS)
    assert golden["pseudo_threshold"] == 0.968
    method = dacs.make(**keywords)
    entries = json.loads((seeded.GOLDENS / f"{file}_params.json").read_text())
    ranks = {
        name.removeprefix("model."): len(shape)
        for name, shape, _ in entries
        if name.startswith("model.")
    }
    names = [str(name) for name in golden["param_names"]]
    places = {name: renamed(seeded.mmseg_place(name, ranks[name])[1]) for name in names}
    scale = float(golden["logit_scale"])
    student, model_state = trees(file, "model.", scale)
    teacher = trees(file, "ema_model.", scale)
    frozen, frozen_state = trees(file, "imnet_model.", scale)
    method_state = dacs.Teacher(
        *teacher, Frozen(dacs.Encoder(frozen["backbone"], frozen_state))
    )
    update = optimizer.make(
        {"model": student},
        optimizer.model_groups(head_multiplier=10.0, decay_norms=False),
        name="adamw",
        learning_rate=float(golden["base_lr"]),
        weight_decay=0.01,
        momentum=0.9,
        decay_steps=int(golden["max_iters"]),
        power=1.0,
        warmup_steps=0,
    )
    params = {"model": student}
    opt_state = update.init(params)
    call = forward(network("hrda" in file))

    @jax.jit
    def iterate(params, method_state, model_state, opt_state, number, batch, recorded):
        draws.begin(recorded)
        context = Context(
            step.with_dropout(call, jax.random.key(0)),
            model_state,
            number,
            jax.random.key(0),
            PIXELS,
        )

        def loss(params):
            return method.loss(params, method_state, batch, context)

        (_, aux), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = update.update(gradients, opt_state, params)
        with jax.numpy_dtype_promotion("standard"):
            params = jax.tree.map(jnp.add, params, updates)
        return params, opt_state, aux._replace(outputs={}), gradients, draws.seen

    holds = functools.partial(golden.holds, scale="largest")
    # kornia turns hues with a pi of float32, which moves the images by 1e-7.
    rtol = 1e-7 if case == "plain" else 1e-6
    for number in numbers:
        stem = f"{case}__{number}__"
        batch = images_of(golden, stem)
        index = jnp.asarray(int(number[2:]), jnp.int32)
        params, opt_state, aux, gradients, seen = iterate(
            params,
            method_state,
            model_state,
            opt_state,
            index,
            batch,
            draws_of(golden, stem),
        )
        method_state, model_state = aux.method_state, aux.model_state
        for term, (place,) in LOSSES.items():
            if term not in aux.metrics:
                continue
            value = float(aux.metrics[term])
            key = f"{stem}loss__{place}.loss_seg_f64"
            if term == "feature_distance":
                key = f"{stem}loss__src.loss_imnet_feat_dist_f64"
                value *= float(golden["fdist_lambda"])
            detail = key.replace("loss_seg", "hr.loss_seg")
            if (
                detail != key and detail in golden.arrays
            ):  # the original logs both parts of the loss
                whole = float(golden[key]) + float(golden[detail])
                assert abs(value - whole) <= 1e-7 * whole, key
            else:
                golden.holds(key, np.float64(value), rtol)
        last = "masked" if "mic" in file else "mix"
        found = {name: leaf(gradients["model"], places[name]) for name in names}
        norms = [np.linalg.norm(found[name]) for name in names]
        # Some gradients are mathematically 0.
        holds(f"{stem}grad_l2__{last}_f64", norms, rtol)
        for kind, tree in {
            "grad": gradients["model"],
            "param": params["model"],
            "teacher": method_state.params,
        }.items():
            sums = []
            for name in names:
                array = leaf(tree, places[name])
                sums.append([array.sum(), np.linalg.norm(array)])
                key = f"{stem}{kind}__{name}_f64"
                if key in golden.arrays:
                    holds(key, array.T if array.ndim == 2 else array, rtol)
            if kind != "grad":
                summed = np.asarray(sums)
                size = np.maximum(np.abs(summed).max(1, keepdims=True), 1e-9)
                golden.holds(
                    f"{stem}{kind}_sum_l2_f64", summed, rtol, scale=("norms", size)
                )
        golden.holds(f"{stem}pseudo_label", seen["label"].astype(jnp.int32))
        golden.holds(f"{stem}share", seen["share"], 1e-12)
        mixed, *rest = seen["weights"]
        golden.holds(f"{stem}mixed_weights_f64", mixed, 1e-12)
        unmixed = np.where(batch.target.trusted, seen["share"], 0)
        golden.holds(f"{stem}pseudo_weight_f64", unmixed, 1e-12)
        for weights in rest:
            np.testing.assert_array_equal(weights, unmixed)
        label = np.where(seen["pasted"], batch.source.label, seen["label"])
        golden.holds(f"{stem}mixed_labels", label.astype(np.int32))
        cells = golden[f"{stem}fdist_mask"].mean()
        np.testing.assert_allclose(aux.metrics["distance_cells"], cells, rtol=1e-6)
        rate = float(golden["base_lr"]) * (1 - int(index) / int(golden["max_iters"]))
        golden.holds(f"{stem}rates", [rate, 10 * rate], 1e-12)
        if "augmented" in seen:
            images = [PIXELS.normalise(x)[:, ::2, ::2] for x in seen["augmented"]]
            holds(f"{stem}mixed_images_f64", images[0], 1e-6)
            if "mic" in file:
                visible = golden[f"{stem}mask_uniform"] > 0.7
                block = int(golden["mask_block_size"]) // 2
                visible = visible.repeat(block, 1).repeat(block, 2)[..., None]
                shown = np.where(visible, images[1], 0)
                holds(f"{stem}masked_images_f64", shown, 1e-6)
    for which, state in {"": model_state, "teacher_": method_state.model_state}.items():
        sums = []
        for name in golden[f"{case}__buffer_names"]:
            _, path = seeded.mmseg_place(str(name), 1)
            array = leaf(state, renamed(path))
            sums.append([array.sum(), np.linalg.norm(array)])
        holds(f"{case}__{which}buffer_sum_l2_f64", np.asarray(sums), 1e-8)


@pytest.mark.long
@pytest.mark.parametrize("case", ["plain", "aug"])
@pytest.mark.golden(
    "daformer_loop",
    "(?!.*(__acc__|grad_l2__(source|fdist)|teacher_logits|loss__.*(seg|dist)$"
    "|grad_l2__mix$)).*",
)
def test_daformer(golden, monkeypatch, case):
    golden.only(f"{case}__.*|(?!plain__|aug__).*")
    with jax.enable_x64(True):
        run(golden, monkeypatch, "daformer_loop", case)


@pytest.mark.long
@pytest.mark.golden(
    "hrda_loop",
    "(?!.*(__acc__|grad_l2__(source|fdist)|teacher_logits|loss__.*(seg|dist)$"
    "|grad_l2__mix$)).*",
)
def test_hrda(golden, monkeypatch):
    with jax.enable_x64(True):
        run(golden, monkeypatch, "hrda_loop", "plain")


@pytest.mark.long
@pytest.mark.parametrize("case", ["plain", "aug"])
@pytest.mark.golden(
    "mic_loop",
    "(?!.*(__acc__|grad_l2__(source|fdist|mix)|teacher_logits|loss__.*(seg|dist)$"
    "|grad_l2__masked$)).*",
)
def test_mic(golden, monkeypatch, case):
    golden.only(f"{case}__.*|(?!plain__|aug__).*")
    with jax.enable_x64(True):
        run(golden, monkeypatch, "mic_loop", case)


@pytest.mark.long
@pytest.mark.golden(
    "mic_hrda_loop",
    "(?!.*(__acc__|grad_l2__(source|fdist|mix)|teacher_logits|loss__.*(seg|dist)$"
    "|grad_l2__masked$)).*",
)
def test_mic_on_hrda(golden, monkeypatch):
    with jax.enable_x64(True):
        run(golden, monkeypatch, "mic_hrda_loop", "plain")
