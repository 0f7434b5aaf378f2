"""What a method may read before its stage: images in order, labels by right alone."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lsr_jax.augment import preprocess
from lsr_jax.errors import InputError
from lsr_jax.training import loop, sharding, state
from lsr_jax.types import Method

SIZE = (4, 6)


class Data:
    """Eleven images that hold their number, and labels which may not be read."""

    def __init__(self, domain, on_bad_example="stop", bad=()):
        self.domain, self.on_bad_example, self.bad = domain, on_bad_example, bad

    def __len__(self):
        return 11

    def __getitem__(self, index):
        def label():
            assert self.domain == "source", "a label of the target was read"
            return np.full(SIZE, index, np.uint8)

        image = np.full((*SIZE, 3), index, np.uint8)
        broken = {"image": b"no png"} if index in self.bad else {}
        return {"image": image, "label": label, "id": f"{index}", **broken}


def make_stage(method, *, labeler=False, **data):
    """As much of a `Stage` as a preparation reads."""
    run = SimpleNamespace(
        mesh=sharding.make_mesh(4),
        model=SimpleNamespace(forward=None, num_classes=5),
        normalise=lambda image: preprocess.normalise(image, preprocessing="unit"),
        open=lambda domain, part: Data(domain, **data),
        evaluation_batch_size=lambda: 4,
    )
    return SimpleNamespace(
        run=run,
        name="stage",
        method=method,
        folder=Path("stage"),
        labeler_network=lambda state: (
            ({"w": jnp.ones(2)}, {"mean": jnp.ones(1)})
            if labeler
            else (state.params["model"], state.model_state)
        ),
    )


def initial(method_state):
    params = {"model": {"w": jnp.zeros(2)}}
    optimizer = optax.sgd(0.1)
    return state.create(params, {"mean": jnp.zeros(1)}, method_state, optimizer, None)


def prepared(prepare, **options):
    method = Method(None, None, prepare)
    before = initial({})
    after = loop.prepare(make_stage(method, **options), before)
    return before, after


def test_a_method_without_preparation_stays_as_it_is():
    before, after = prepared(None)
    assert after is before


@pytest.mark.parametrize("domain", ["source", "target"])
def test_every_image_once_in_order_and_labels_by_right(domain):
    seen = []

    def prepare(method_state, given):
        for images, valid, ids in given.batches(domain, domain == "source"):
            assert images.image.sharding == sharding.split(sharding.make_mesh(4))
            assert images.image.dtype == jnp.float32
            assert images.image.shape == (4, *SIZE, 3)
            numbers = np.asarray(images.image)[:, 0, 0, 0] * 255
            if domain == "source":
                np.testing.assert_array_equal(images.label[:, 0, 0], numbers.round())
            else:
                assert images.label is None
            seen.extend(zip(numbers.round(), valid, ids, strict=True))
        return method_state

    prepared(prepare)
    assert seen == [(i, True, f"{i}") for i in range(11)] + [(10, False, "10")]


def test_target_labels_are_refused():
    def prepare(method_state, given):
        given.batches("target", True)

    with pytest.raises(ValueError, match="may not read target labels"):
        prepared(prepare)


def test_a_bad_image_is_skipped_in_its_place_or_ends_the_run():
    places = []

    def prepare(method_state, given):
        places.extend(
            valid for _, valids, _ in given.batches("target", False) for valid in valids
        )
        return method_state

    with pytest.raises(
        InputError,
        match="5: image: expected an image file, found 6 bytes that are no PNG",
    ):
        prepared(prepare, bad=(5, 10))
    places.clear()
    prepared(prepare, bad=(5, 10), on_bad_example="skip")
    assert np.flatnonzero(np.logical_not(places)).tolist() == [5, 10, 11]


@pytest.mark.parametrize("labeler", [False, True])
def test_the_labeler_has_buffers_of_its_own(labeler):
    def prepare(method_state, given):
        assert given.num_classes == 5
        assert given.folder == Path("stage")
        assert given.writes
        sums = given.compile(jnp.sum)(next(given.batches("target", False))[0].image)
        assert sums.sharding == sharding.replicated(sharding.make_mesh(4))
        return {"params": given.params, "statistics": given.model_state}

    before, after = prepared(prepare, labeler=labeler)
    value = int(labeler)
    np.testing.assert_array_equal(after.method_state["params"]["w"], value)
    np.testing.assert_array_equal(after.method_state["statistics"]["mean"], value)
    mesh = sharding.replicated(sharding.make_mesh(4))
    assert after.method_state["params"]["w"].sharding == mesh

    # A step donates the state, so no buffer may have two owners.
    assert not is_shared(after.method_state["params"]["w"], before.params["model"]["w"])
    whole = sharding.replicate(after, sharding.make_mesh(4))
    moved = jax.jit(lambda x: jax.tree.map(lambda y: y + 1, x), donate_argnums=0)(whole)
    np.testing.assert_array_equal(moved.method_state["params"]["w"], value + 1)


def test_a_process_that_does_not_see_the_labels_is_told_so(tmp_path):
    method = Method(None, None, lambda state, given: state, pseudo_labelled=True)
    with pytest.raises(InputError, match="pseudo-labels of process 0 are not visible"):
        loop.prepare(make_stage(method), initial({}))


def is_shared(left, right):
    pointers = [
        {shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards}
        for array in (left, right)
    ]
    return bool(pointers[0] & pointers[1])
