import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax.ops import classmix, pseudo_labels, resample

C = 19
CASES = ("odd", "even", "novoid", "single")


def slots_of(values):
    """The label values of one image as a row of `classmix.draw_classes`."""
    row = np.zeros(C + 1, bool)
    row[np.where(values == 255, C, values)] = True
    return row


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    images = [
        rng.choice(values, (6, 7)) for values in ([0, 3, 4], [255], [1, 255], [2])
    ]
    return np.stack(images).astype(np.int32)


DRAW = jax.jit(classmix.draw_classes, static_argnames=("num_classes", "void"))
MASK = jax.jit(classmix.mask)


@pytest.mark.parametrize("void", [True, False])
def test_draws_half_of_the_present_classes(labels, void):
    present = np.stack([slots_of(np.unique(image)) for image in labels])
    if not void:
        present[:, -1] = False
    half = -(-present.sum(axis=-1) // 2)
    frequency = np.zeros(present.shape)
    for seed in range(200):
        chosen = np.asarray(
            DRAW(jax.random.key(seed), labels, num_classes=C, void=void)
        )
        assert not (chosen & ~present).any()
        np.testing.assert_array_equal(chosen.sum(axis=-1), half)
        frequency += chosen / 200
    # Every present class of an image is as likely as the others.
    likely = np.where(
        present, half[:, None] / np.maximum(present.sum(-1), 1)[:, None], 0
    )
    np.testing.assert_allclose(frequency, likely, atol=0.12)


def test_mask_and_mix_by_hand():
    labels = jnp.array([[[0, 2, 255]], [[1, 1, 7]]])
    chosen = jnp.array([[True, False, False, True], [False, True, False, False]])
    pasted = classmix.mask(labels, chosen)
    assert pasted.tolist() == [[[True, False, True]], [[True, True, False]]]
    assert (MASK(labels, chosen) == pasted).all()
    mixed = classmix.mix(pasted, labels, jnp.full_like(labels, 9))
    assert mixed.tolist() == [[[0, 9, 255]], [[1, 1, 9]]]
    images = jnp.arange(12.0).reshape(2, 1, 3, 2)
    mixed = classmix.mix(pasted, images, -images)
    np.testing.assert_array_equal(mixed[0, 0], [[0, 1], [-2, -3], [4, 5]])


def test_pixel_weights_by_hand():
    pasted = jnp.array([[[True, False]], [[False, False]]])
    confidence = jnp.array([[[0.99, 0.968]], [[0.5, 0.97]]])
    expected = {"batch": [1, 0.75, 0.75, 0.75], "image": [1, 1, 0.5, 0.5]}
    expected["pixel"] = [1, 1, 0, 1]
    for share, values in expected.items():
        weights = classmix.pixel_weights(pasted, confidence, share=share)
        np.testing.assert_array_equal(weights.ravel(), np.float32(values))
    with pytest.raises(ValueError, match="share"):
        classmix.pixel_weights(pasted, confidence, share="class")


@pytest.mark.parametrize("case", ["void", "novoid", "single"])
@pytest.mark.golden("daformer_mixing", "mask__.*")
def test_golden_mask_of_a_batch(golden, case):
    """DAFormer halves the classes of the whole batch, for every image."""
    stem = f"mask__{case}__"
    golden.only(f"{stem}.*")
    labels = golden[f"{stem}labels"]
    present = np.unique(labels)
    golden.holds(f"{stem}present", present.astype(np.int32))
    random = np.random.RandomState(golden[f"{stem}seed"])
    rows = []
    for b in (0, 1):
        choice = random.permutation(len(present))[: -(-len(present) // 2)]
        golden.holds(f"{stem}choice__im{b}", choice.astype(np.int32))
        golden.holds(f"{stem}classes__im{b}", present[choice].astype(np.int32))
        rows.append(slots_of(present[choice]))
    golden.holds(f"{stem}mask", MASK(labels, np.stack(rows)).astype(jnp.int32))
    for seed in range(20):
        chosen = classmix.draw_classes(
            jax.random.key(seed), labels, num_classes=C, of="batch"
        )
        assert not (chosen & ~slots_of(present)).any()
        np.testing.assert_array_equal(chosen.sum(-1), len(present) - len(present) // 2)


@pytest.mark.golden("daformer_mixing", "mix__.*", "mask__void__(labels|mask)")
def test_golden_mix_of_daformer(golden):
    pasted = golden["mask__void__mask"] == 1
    labels = classmix.mix(
        pasted, golden["mask__void__labels"], golden["mix__pseudo_labels"]
    )
    golden.holds("mix__labels", labels)
    weights = golden["mix__pseudo_weights"]
    golden.holds("mix__weights", classmix.mix(pasted, np.ones_like(weights), weights))
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    source, target = (
        ((golden[f"mix__{domain}_images"] - mean) / std).astype(np.float32)
        for domain in ("source", "target")
    )
    image = np.asarray(classmix.mix(pasted, source, target), np.float64)
    norms = np.linalg.norm(image.reshape(2, -1), axis=-1)
    golden.holds("mix__images_l2", norms, 1e-9)


@pytest.mark.golden("mic", "pseudo__.*")
def test_golden_weights_of_mic(golden):
    """The share of confident pixels of both images, and none on the margins."""
    probabilities = jax.nn.softmax(golden["pseudo__logits"])
    golden.holds("pseudo__label", probabilities.argmax(-1).astype(jnp.int32))
    nothing = jnp.zeros(probabilities.shape[:3], bool)
    rows = np.ones(nothing.shape, bool)
    rows[:, :2] = rows[:, -5:] = False
    trusted = {"": None, "_valid": golden["pseudo__valid"] == 1, "_rows": rows}
    for name, mask in trusted.items():
        ours = classmix.pixel_weights(nothing, probabilities.max(-1), trusted=mask)
        golden.holds(f"pseudo__weight{name}", ours, 1e-7)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.golden("dacs", "mask__.*")
def test_golden_mask(golden, case):
    stem = f"mask__{case}__"
    golden.only(f"{stem}.*")
    labels = golden[f"{stem}labels"]
    # The draws of the original, from numpy's old generator.
    random = np.random.RandomState(golden[f"{stem}seed"])
    drawn = np.asarray(DRAW(jax.random.key(0), labels, num_classes=C))
    rows = []
    for b, image in enumerate(labels):
        present = np.unique(image)
        golden.holds(f"{stem}present__im{b}", present)
        choice = random.permutation(len(present))[: drawn[b].sum()]
        golden.holds(f"{stem}choice__im{b}", choice)
        golden.holds(f"{stem}classes__im{b}", present[choice])
        rows.append(slots_of(golden[f"{stem}classes__im{b}"]))
    pasted = MASK(labels, np.stack(rows))
    golden.holds(f"{stem}mask", pasted.astype(jnp.int32))


@pytest.mark.golden(
    "dacs",
    "teacher_logits_low",
    "pseudo__.*",
    "mask__odd__(labels|mask)",
    "mix__(source_images|target_images|images|labels|weights__threshold.*)",
)
def test_golden_mixing(golden):
    logits = resample.bilinear(golden["teacher_logits_low"], (24, 32))
    probabilities = jax.nn.softmax(logits)
    confidence = probabilities.max(axis=-1)
    golden.holds("pseudo__max_prob", confidence)
    pseudo = pseudo_labels.thresholded(probabilities, threshold=0.0)
    golden.holds("pseudo__label", pseudo)

    pasted = golden["mask__odd__mask"] == 1
    for name, ours in (
        ("images", (golden["mix__source_images"], golden["mix__target_images"])),
        ("labels", (golden["mask__odd__labels"], pseudo)),
    ):
        golden.equals(f"mix__{name}", classmix.mix(pasted, *ours))

    threshold = float(golden["pseudo__threshold"])
    nothing = np.zeros_like(pasted)
    share = {
        kind: classmix.pixel_weights(
            nothing, confidence, threshold=threshold, share=kind
        )
        for kind in ("batch", "image")
    }
    golden.holds("pseudo__share", share["batch"][0, 0, 0], 1e-7)
    golden.holds("pseudo__share_per_image", share["image"][:, 0, 0], 1e-7)
    for name, kind in (("threshold_uniform", "batch"), ("threshold", "pixel")):
        ours = classmix.pixel_weights(
            pasted, confidence, threshold=threshold, share=kind
        )
        golden.holds(f"mix__weights__{name}", ours, 1e-7)
