"""What is written for TensorBoard, read back."""

import eventfiles
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from lsr_jax.data import label_spaces
from lsr_jax.methods.feature_norm import WithPrevious
from lsr_jax.methods.lsr import LSRState
from lsr_jax.ops.prototypes import Prototypes
from lsr_jax.training import sharding
from lsr_jax.training.metrics import MetricsLog
from lsr_jax.training.tensorboard import BINS, Board, Events
from lsr_jax.types import Batch, Images


def test_a_histogram_is_that_of_numpy(tmp_path):
    values = np.random.default_rng(0).normal(3.0, 2.0, (9, 19))
    with Events(tmp_path, first=5) as events:
        events.histogram(5, "norms", values)
        events.histogram(6, "norms", np.float32([2.0]))
    (step, tag, many), (_, _, one) = eventfiles.shown(tmp_path)
    assert (step, tag) == (5, "norms")
    found = many.histo
    assert (found.min, found.max) == (values.min(), values.max())
    np.testing.assert_allclose(
        [found.num, found.sum, found.sum_squares],
        [values.size, values.sum(), (values**2).sum()],
    )
    counts, edges = np.histogram(values, bins=BINS)
    # The first bucket is empty: its limit is the left edge of the second.
    np.testing.assert_array_equal(found.bucket, [0, *counts])
    np.testing.assert_allclose(found.bucket_limit, edges)
    assert (one.histo.min, one.histo.max, sum(one.histo.bucket)) == (2, 2, 1)


def test_an_image_keeps_its_pixels_and_its_description(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    with Events(tmp_path, first=1) as events:
        events.image(1, "target", pixels, "street_1.png")
    ((_, _, value),) = eventfiles.shown(tmp_path)
    found, size = eventfiles.pixels(value)
    np.testing.assert_array_equal(found, pixels)
    assert size == (5, 7, 3)
    assert value.metadata.summary_description == "street_1.png"


def test_everything_is_on_disk_at_once(tmp_path):
    with Events(tmp_path, first=3) as events:
        events.scalars(3, {"a": 1.5, "b": float("inf")})
        begin, *rest = eventfiles.read(tmp_path)
    assert begin.step == 3
    assert begin.session_log.status == event_pb2.SessionLog.START
    found = [(e.step, e.summary.value[0].simple_value) for e in rest]
    assert found == [(3, 1.5), (3, float("inf"))]


SPACE = label_spaces.SPACES["streets"]
MEAN = np.float32([[3, 4, 0], [9, 9, 9], [0, 0, 2], [0, 5, 5], [0, 0, 0]])
SEEN = np.array([True, False, True, True, True])
PROTOTYPES = Prototypes(jnp.asarray(MEAN), jnp.asarray(SEEN))


class Untouchable:
    """Fails when anything is read of it."""

    def __getattr__(self, name):
        raise AssertionError(f"{name} was read")


def state_shown(folder, method_state, goodput=()):
    with MetricsLog(folder, start=0) as log:
        Board(log.events, SPACE).state(7, method_state, dict(goodput))
    found = eventfiles.shown(folder)
    assert {step for step, _, _ in found} <= {7}
    return {tag: value for _, tag, value in found}


@pytest.mark.parametrize(
    ("method_state", "name"),
    [
        (PROTOTYPES, "prototypes"),
        (LSRState(PROTOTYPES, jnp.zeros(())), "prototypes"),
        (WithPrevious(LSRState(PROTOTYPES, jnp.zeros(())), {}), "method/prototypes"),
    ],
    ids=["oce", "lsr", "lsr with the added norm"],
)
def test_norms_and_angles_of_the_prototypes_seen(tmp_path, method_state, name):
    found = state_shown(tmp_path, method_state)
    assert set(found) == {f"{name}/norms", f"{name}/angles"}
    norms, angles = (found[f"{name}/{kind}"].histo for kind in ("norms", "angles"))
    lengths = np.linalg.norm(MEAN[SEEN], axis=1)
    assert (norms.num, norms.min, norms.max) == (4, 0, lengths.max())
    assert norms.sum == pytest.approx(lengths.sum())
    # Three pairs; the zero vector, though seen, has no direction.
    by_hand = np.degrees([np.pi / 2, np.arccos(0.8 / 2**0.5), np.pi / 4])
    assert angles.num == 3
    assert (angles.min, angles.max) == pytest.approx((45, 90))
    assert angles.sum == pytest.approx(by_hand.sum())
    assert sum(angles.bucket) == 3


def test_what_does_not_exist_is_not_shown(tmp_path):
    one = PROTOTYPES._replace(seen=jnp.arange(5) == 2)
    assert set(state_shown(tmp_path / "one", one)) == {"prototypes/norms"}
    none = PROTOTYPES._replace(seen=jnp.zeros(5, bool))
    assert state_shown(tmp_path / "none", none) == {}
    assert state_shown(tmp_path / "other", {"teacher": jnp.ones(3)}) == {}


def test_goodput_is_a_scalar_of_each_kind(tmp_path):
    found = state_shown(
        tmp_path, {}, {"goodput": 0.75, "lost_data_seconds": 1.5}.items()
    )
    values = {tag: value.simple_value for tag, value in found.items()}
    assert values == {"goodput": 0.75, "lost_data_seconds": 1.5}


def random_batch():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 8, 4, 6, 3), np.uint8)
    label = rng.integers(0, 19, (8, 4, 6), np.uint8)
    label[:, 0] = 255
    return Batch(Images(image[0], label), Images(image[1], None))


def test_first_images_with_coloured_labels(tmp_path):
    batch = random_batch()
    placed = sharding.shard_batch(batch, sharding.make_mesh(8))
    ids = {"source": tuple("abcdefgh"), "target": tuple("stuvwxyz")}
    with MetricsLog(tmp_path, start=4) as log:
        Board(log.events, SPACE).batch(5, placed, ids)
    found = eventfiles.shown(tmp_path)
    assert [(step, tag) for step, tag, _ in found] == [
        (5, "before_augmentation/source"),
        (5, "before_augmentation/target"),
    ]
    words = [value.metadata.summary_description for _, _, value in found]
    assert words == ["a, before augmentation", "s, before augmentation"]
    source, target = (eventfiles.pixels(value)[0] for _, _, value in found)
    assert source.shape == (4, 12, 3)
    np.testing.assert_array_equal(source[:, :6], batch.source.image[0])
    np.testing.assert_array_equal(source[0, 6:], np.zeros((6, 3)))
    for row, column in np.ndindex(3, 6):
        color = SPACE.colors[batch.source.label[0, row + 1, column]]
        assert tuple(source[row + 1, 6 + column]) == color
    np.testing.assert_array_equal(target, batch.target.image[0])


def test_a_domain_that_is_not_read_has_no_picture(tmp_path):
    batch = jax.tree.map(jnp.asarray, random_batch()._replace(target=None))
    with MetricsLog(tmp_path, start=0) as log:
        Board(log.events, SPACE).batch(1, batch, {"source": ("a",)})
    tags = [tag for _, tag, _ in eventfiles.shown(tmp_path)]
    assert tags == ["before_augmentation/source"]


def test_the_record_is_the_same_bytes_with_it(tmp_path):
    positions = []
    for name in ("plain", "shown"):
        with MetricsLog(tmp_path / name, start=0) as log:
            board = Board(log.events if name == "shown" else None, SPACE)
            board.batch(
                1,
                jax.tree.map(jnp.asarray, random_batch()),
                {"source": ("a",), "target": ("b",)},
            )
            log.write(1, {"total": 1 / 3})
            board.state(1, PROTOTYPES, {"goodput": 0.5})
            log.write(2, {"total": 2 / 3})
            positions.append(log.position())
    assert positions[0] == positions[1]
    texts = [(tmp_path / x / "metrics.jsonl").read_bytes() for x in ("plain", "shown")]
    assert texts[0] == texts[1]
    count = [len(eventfiles.shown(tmp_path / x)) for x in ("plain", "shown")]
    assert count == [2, 7]


def test_other_processes_read_and_write_nothing():
    board = Board(None, SPACE)
    board.batch(1, Untouchable(), Untouchable())
    board.state(1, Untouchable(), Untouchable())
