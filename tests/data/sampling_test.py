import collections
import itertools

import numpy as np
import pytest

from lsr_jax.data import pipeline, records, sampling
from lsr_jax.errors import InputError

NAMES = tuple(f"c{c}" for c in range(19))


class Stripes:
    """Image i shows class i % 3 on its upper 2 of 4 rows, and class 3 below."""

    count, on_bad_example = 6, "stop"

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        label = np.full((4, 5), 3, np.uint8)
        label[:2] = index % 3
        image = np.full((4, 5, 3), index, np.uint8)
        return {"image": image, "label": label, "id": f"image {index}"}


SOURCE = Stripes()


@pytest.mark.golden("daformer_rcs", "stats__.*", "probs__.*", "draw__min_pixels")
def test_golden_probabilities(golden):
    for temperature in (0.01, 0.05, 0.5):
        found = sampling.rare_classes(
            golden["stats__pixels"],
            NAMES,
            temperature=temperature,
            min_pixels=int(golden["draw__min_pixels"]),
        )
        name = f"probs__T{temperature}".replace(".", "p")
        golden.holds(f"{name}__classes", found.classes)
        golden.holds(f"{name}__own_p_f64", found.probabilities, 1e-10)
        # The original subtracts, divides and exponentiates in float32.
        wanted = golden[f"{name}__p"]
        one = wanted.dtype.type(1)
        golden.holds(f"{name}__p", found.probabilities, 2e-5, scale=("1", one))


@pytest.mark.golden(
    "daformer_rcs",
    "stats__pixels",
    "probs__T0p01__p",
    "images__.*",
    r"draw__(seed|min_pixels)",
    r"draw\d+__(class|image)",
)
def test_golden_draws(golden):
    found = sampling.rare_classes(
        golden["stats__pixels"],
        NAMES,
        temperature=0.01,
        min_pixels=int(golden["draw__min_pixels"]),
    )
    images = dict(zip(found.classes.tolist(), found.images, strict=True))
    for c in range(19):
        golden.holds(f"images__class{c:02}", images[c])
    # The first draw with numpy's legacy generator; crops come between the others.
    rng = np.random.RandomState(int(golden["draw__seed"]))
    first = found._replace(probabilities=golden["probs__T0p01__p"]).draw(rng)
    golden.equals("draw0__class", first[0])
    golden.equals("draw0__image", first[1])
    for j in range(1, 12):
        assert golden[f"draw{j}__image"] in images[int(golden[f"draw{j}__class"])]


def test_classes_are_drawn_by_rarity_and_images_by_class():
    pixels = np.array([[90, 0, 10, 0], [95, 5, 0, 0], [50, 8, 42, 0]])
    rare = sampling.rare_classes(pixels, NAMES, temperature=0.5, min_pixels=5)
    share = np.array([13, 52, 235]) / 300
    expected = np.exp((1 - share) / 0.5)
    np.testing.assert_array_equal(rare.classes, [1, 2, 0])
    np.testing.assert_allclose(rare.probabilities, expected / expected.sum())
    assert [found.tolist() for found in rare.images] == [[2], [0, 2], [0, 1, 2]]
    rng = np.random.default_rng(0)
    drawn = collections.Counter(rare.draw(rng) for _ in range(4000))
    for c, p, found in zip(*rare, strict=True):
        for image in found:
            assert drawn[c, image] / 4000 == pytest.approx(p / len(found), abs=0.03)


def test_a_class_without_an_image_is_named():
    pixels = np.array([[90, 7], [95, 5]])
    with pytest.raises(InputError, match=r"less than 7, the most pixels of c1 .* 7;"):
        sampling.rare_classes(pixels, NAMES, temperature=0.01, min_pixels=7)
    assert sampling.rare_classes(pixels, NAMES, min_pixels=7) is None


def rare():
    pixels = sampling.class_pixels(SOURCE, 5, progress=False)
    return sampling.rare_classes(pixels, NAMES, temperature=0.1, min_pixels=0)


def take(count, **options):
    options = {"batch_size": 4, "seed": 3, "rare": rare(), **options}
    with pipeline.train_batches(SOURCE, Stripes(), **options) as batches:
        return list(itertools.islice(batches, count))


def test_pixels_are_counted_over_joined_sources_and_skipped_labels():
    pixels = sampling.class_pixels(records.Joined([SOURCE, SOURCE]), 5, progress=False)
    expected = np.zeros((12, 5), int)
    expected[:, 3] = 10
    expected[np.arange(12), np.tile([0, 1, 2], 4)] = 10
    np.testing.assert_array_equal(pixels, expected)

    class Bad(Stripes):
        def __getitem__(self, index):
            return {"label": b"no png", "id": "x"} if index == 1 else SOURCE[index]

    with pytest.raises(InputError, match=r"^x: label"):
        sampling.class_pixels(Bad(), 5, progress=False)
    skipping = Bad()
    skipping.on_bad_example = "skip"
    found = sampling.class_pixels(skipping, 5, progress=False)
    assert found[1].sum() == 0
    np.testing.assert_array_equal(found[2:], expected[2:6])


def test_images_show_the_class_that_they_are_drawn_for():
    for batch, _ in take(20):
        assert batch.source.drawn.dtype == np.int32
        assert batch.target.drawn is None
        for label, drawn in zip(batch.source.label, batch.source.drawn, strict=True):
            assert drawn in label
    names = [name for _, ids in take(20) for name in ids["target"]]
    assert set(names) == {f"image {i}" for i in range(6)}


def test_draws_depend_on_the_seed_and_the_step_alone():
    def same(one, other):
        for (a, a_ids), (b, b_ids) in zip(one, other, strict=True):
            assert a_ids == b_ids
            np.testing.assert_array_equal(a.source.drawn, b.source.drawn)

    whole = take(6)
    same(whole[4:], take(2, start_step=4))
    assert take(6, seed=4)[0][1] != whole[0][1]
    assert len({ids["source"] for _, ids in whole}) > 1
    hosts = [take(3, process_index=i, process_count=2) for i in range(2)]
    for (batch, ids), (one, first), (other, second) in zip(
        whole[:3], *hosts, strict=True
    ):
        assert ids["source"] == first["source"] + second["source"]
        drawn = np.concatenate([one.source.drawn, other.source.drawn])
        np.testing.assert_array_equal(batch.source.drawn, drawn)


@pytest.mark.slow
def test_workers_draw_the_same():
    for (a, a_ids), (b, b_ids) in zip(take(5), take(5, workers=2), strict=True):
        assert a_ids == b_ids
        np.testing.assert_array_equal(a.source.drawn, b.source.drawn)
