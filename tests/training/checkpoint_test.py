"""Checkpoints that can be trusted: every kind of damage is found, named and survived."""

import errno
import json
import shutil
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from orbax.checkpoint import v1 as next_generation

from lsr_jax.errors import InputError, TrainingError
from lsr_jax.training import checkpoint, distributed, sharding
from lsr_jax.training.checkpoint import Checkpointer
from lsr_jax.training.state import TrainState
from lsr_jax.types import Frozen

# Orbax drops its coroutines when one of them fails.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


NETWORK = (
    {"head": {"kernel": jnp.zeros((64, 64))}},
    {"mean": jnp.zeros(5, jnp.bfloat16)},
)


def state(value, devices=1):
    """A small state that differs in every leaf by ``value``."""
    kernel = jnp.arange(4096, dtype=jnp.float32).reshape(64, 64) + value
    whole = TrainState(
        step=jnp.int32(value),
        params={"model": {"head": {"kernel": kernel}}, "disc": jnp.ones(3) * value},
        model_state={"mean": jnp.full(5, value, jnp.bfloat16)},
        method_state={"seen": jnp.zeros(5, bool)},
        opt_state=(jnp.int32(value), {"kernel": kernel * 2}),
        rng=jax.random.key(value),
        skipped=jnp.int32(0),
    )
    return sharding.replicate(whole, sharding.make_mesh(devices))


def facts(step, best=None):
    return {"step": step, "best": best and {"step": best}, "log": None}


def save(folder, steps, best=None, **options):
    with Checkpointer(folder, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(step), facts(step, best))


def comparable(tree):
    return jax.device_get(tree.replace(rng=jax.random.key_data(tree.rng)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 2 and 4, whole; to be copied."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    save(folder, [2, 4])
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def arrays_of(checkpoint):
    """Its files, the largest first: that one holds arrays."""
    files = [path for path in (checkpoint / "state").rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


def flip(path, place=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


def test_what_was_saved_comes_back_on_any_number_of_devices(folder):
    for devices in (1, 4):
        with Checkpointer(folder) as checkpoints:
            found, its_facts = checkpoints.restore_newest(state(0, devices))
        chex.assert_trees_all_equal(comparable(found), comparable(state(4)))
        assert its_facts["step"] == 4
        assert len(found.step.devices()) == devices


def rewrite(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new))


def replace(path, other):
    shutil.rmtree(path)
    shutil.copytree(other, path)


DAMAGE = {
    "an array's bit": lambda c: flip(arrays_of(c)[0]),
    "an array's first bit": lambda c: flip(arrays_of(c)[0], 0.0),
    "an array cut": lambda c: arrays_of(c)[0].write_bytes(
        arrays_of(c)[0].read_bytes()[:1000]
    ),
    "an array's file gone": lambda c: arrays_of(c)[0].unlink(),
    "the tree gone": lambda c: (c / "state" / "_METADATA").unlink(),
    "a bit of the tree": lambda c: flip(c / "state" / "_METADATA"),
    "the facts gone": lambda c: (c / "facts" / "metadata").unlink(),
    "a fact changed": lambda c: rewrite(
        c / "facts" / "metadata", b'"step": 4', b'"step": 3'
    ),
    "no hash": lambda c: (c / "facts" / "metadata").write_text('{"step": 4}'),
    "another step's": lambda c: replace(c, c.parent / "2"),
    "the types gone": lambda c: shutil.rmtree(c / "state" / "array_metadatas"),
    "the index gone": lambda c: (c / "state" / "manifest.ocdbt").unlink(),
    "everything gone": lambda c: [p.unlink() for p in c.rglob("*") if p.is_file()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_passed_over(damage, folder, capfd):
    DAMAGE[damage](folder / "4")
    with Checkpointer(folder) as checkpoints:
        with pytest.raises(InputError, match=r"checkpoint .*/4: cannot be restored"):
            checkpoints.restore(4, state(0))
        found, its_facts = checkpoints.restore_newest(state(0))
        chex.assert_trees_all_equal(comparable(found), comparable(state(2)))
        assert its_facts["step"] == 2
        checkpoints.save(4, state(4), facts(4))
    warnings = [line for line in capfd.readouterr().err.splitlines() if "warn" in line]
    assert len(warnings) == 1
    assert "checkpoints/4" in warnings[0]
    assert "using step 2" in warnings[0]
    assert (folder.parent / "damaged" / "4").is_dir()
    with Checkpointer(folder) as checkpoints:
        assert checkpoints.restore_newest(state(0))[1]["step"] == 4


def test_a_damaged_checkpoint_that_cannot_be_moved_is_an_error(folder):
    DAMAGE["everything gone"](folder / "4")
    (folder.parent / "damaged").write_text("")
    with (
        Checkpointer(folder) as checkpoints,
        pytest.raises(TrainingError, match=r"damaged: cannot be written: .* exists"),
    ):
        checkpoints.restore_newest(state(0))


def test_only_the_first_process_moves_a_damaged_checkpoint(folder, monkeypatch):
    DAMAGE["everything gone"](folder / "4")
    for main in (False, True):
        monkeypatch.setattr(distributed, "is_main", lambda main=main: main)
        with Checkpointer(folder) as checkpoints:
            assert checkpoints.restore_newest(state(0))[1]["step"] == 2
        assert (folder / "4").is_dir() == (not main)
        assert (folder.parent / "damaged" / "4").is_dir() == main


def test_arrays_that_are_not_those_that_were_saved_are_named(folder):
    """As after a bit that flipped where Orbax has no checksum."""
    changed = state(4).replace(params={**state(4).params, "disc": jnp.zeros(3)})
    sealed = checkpoint.seal(facts(4), checkpoint.host_copy(changed))
    (folder / "4" / "facts" / "metadata").write_text(json.dumps(sealed))
    message = r"params/disc changed since they were saved \(1 of 9 arrays\)"
    with (
        Checkpointer(folder) as checkpoints,
        pytest.raises(InputError, match=message),
    ):
        checkpoints.restore(4, state(0))


def test_nothing_usable_is_an_error_and_nothing_is_moved(folder):
    for step in ("2", "4"):
        arrays_of(folder / step)[0].unlink()
    with (
        Checkpointer(folder) as checkpoints,
        pytest.raises(InputError, match="checkpoints/4: cannot be restored") as caught,
    ):
        checkpoints.restore_newest(state(0))
    message = "none of the 2 checkpoints is usable"
    assert message in str(caught.value)
    assert {path.name for path in folder.iterdir()} == {"2", "4"}


def test_a_foreign_checkpoint_is_named(folder):
    other = state(0).replace(
        method_state={"seen": jnp.zeros(5, bool), "x": jnp.ones(1)}
    )
    smaller = state(0).replace(params={"model": {"head": {"kernel": jnp.ones((2, 2))}}})
    with Checkpointer(folder) as checkpoints:
        for template in (other, smaller):
            with pytest.raises(InputError, match="checkpoints/4: cannot be restored"):
                checkpoints.restore_newest(template)


def test_an_empty_folder_is_a_fresh_start(tmp_path):
    with Checkpointer(tmp_path / "none") as checkpoints:
        assert checkpoints.restore_newest(state(0)) is None


@pytest.mark.parametrize(
    ("best", "every", "kept"),
    [
        (None, 0, [5, 6]),
        (2, 0, [2, 5, 6]),
        (None, 3, [3, 5, 6]),
        (1, 2, [1, 2, 4, 5, 6]),
    ],
)
def test_newest_two_best_one_and_every_nth_are_kept(best, every, kept, tmp_path):
    save(tmp_path / "c", range(1, 7), best, keep_every=every)
    with Checkpointer(tmp_path / "c", read_only=True) as checkpoints:
        assert checkpoint.checkpoint_steps(checkpoints.folder) == kept


@pytest.mark.parametrize("again", [False, True])
def test_the_best_one_is_there_also_after_damage_of_the_newest(again, tmp_path):
    """Step 4 became the best, and is damaged: the best before it still counts."""
    folder = tmp_path / "c"
    for steps, best in (((1, 2, 3), 1), ((4,), 4)):
        save(folder, steps, best)  # opened anew, as by a run that goes on
    DAMAGE["everything gone"](folder / "4")
    with Checkpointer(folder, read_only=not again) as checkpoints:
        if again:
            assert checkpoints.restore_newest(state(0))[1]["step"] == 3
        assert checkpoints.reported_network(NETWORK)[2] == 1


def test_reading_leaves_a_save_of_another_process_alone(folder):
    half = folder / "6.orbax-checkpoint-tmp"
    half.mkdir()
    with Checkpointer(folder, read_only=True) as checkpoints:
        (params, _), its_facts, _ = checkpoints.reported_network(NETWORK)
    assert its_facts["step"] == 4
    kernel = state(4).params["model"]["head"]["kernel"]
    np.testing.assert_array_equal(params["head"]["kernel"], kernel)
    assert half.is_dir()
    save(folder, [6])
    assert sorted(path.name for path in folder.iterdir()) == ["4", "6"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(28, "No space left on device"),
            "device; the previous .*; free disk space, then",
        ),
        (
            ValueError("UNKNOWN: No space left on device"),
            "the previous .*; free disk space, then",
        ),
        (
            OSError(13, "Permission denied"),
            "denied; the previous .*; correct that, then",
        ),
    ],
)
def test_a_disk_that_refuses_is_an_error_that_keeps_the_last_one(
    error, message, folder, monkeypatch
):
    def refuse(*_, **__):
        raise error

    with Checkpointer(folder) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", refuse)
        with pytest.raises(TrainingError, match=message):
            checkpoints.save(6, state(6), facts(6))
    with Checkpointer(folder) as again:
        assert again.restore_newest(state(0))[1]["step"] == 4


def test_a_save_that_orbax_drops_is_an_error(folder):
    with (
        Checkpointer(folder) as checkpoints,
        pytest.raises(TrainingError, match=r"/3: .* a later step exists \(found 4\);"),
    ):
        checkpoints.save(3, state(3), facts(3))


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_the_next_generation_of_orbax_reads_it(folder):
    found = next_generation.load_checkpointables(folder / "4", {"state": None})["state"]
    kernel = found["params"]["model"]["head"]["kernel"]
    np.testing.assert_array_equal(kernel, state(4).params["model"]["head"]["kernel"])


def test_leaves_are_named_by_their_path():
    tree = {"params": {"model": [jnp.ones(2), jnp.zeros(())]}, "rng": jax.random.key(3)}
    assert set(checkpoint.host_copy(tree)) == {
        "params/model/0",
        "params/model/1",
        "rng",
    }


def test_a_digest_sees_every_bit_the_shape_and_the_dtype():
    one = np.arange(6, dtype=np.float32)
    flipped = one.copy()
    flipped.view(np.uint8)[-1] ^= 1
    others = [flipped, one.reshape(2, 3), one.astype(np.float64), -one, one[::-1]]
    found = checkpoint.digests(dict(enumerate([one, *others])))
    assert len(set(found.values())) == 6
    transposed = one.reshape(2, 3).T
    zeros = checkpoint.digests(
        {
            "view": transposed,
            "copy": np.ascontiguousarray(transposed),
            "zero": np.float32(0.0),
            "minus": np.float32(-0.0),
        }
    )
    assert zeros["view"] == zeros["copy"]
    assert zeros["zero"] != zeros["minus"]


def test_a_seal_covers_facts_and_arrays():
    sealed = checkpoint.seal({"step": 4, "best": None}, {"a": np.ones(2)})
    checkpoint.check_seal(sealed)
    for change in ({"step": 5}, {"arrays": {}}, {"sha256": ""}, {"more": 1}):
        with pytest.raises(ValueError, match="not those that were saved"):
            checkpoint.check_seal({**sealed, **change})
    for foreign in ({"step": 4}, [], None):
        with pytest.raises(ValueError, match="no hashes of its arrays"):
            checkpoint.check_seal(foreign)


def test_arrays_that_differ_are_named():
    saved = {"a": "1", "b": "2"}
    checkpoint.check_arrays(saved, {"a": "1"}, whole=False)
    with pytest.raises(ValueError, match="another state: b"):
        checkpoint.check_arrays(saved, {"a": "1"}, whole=True)
    with pytest.raises(ValueError, match="b changed since"):
        checkpoint.check_arrays(saved, {"b": "3"}, whole=False)


def test_another_type_or_shape_is_named():
    wanted = {"rng": jax.random.key(3), "mean": jnp.ones(2)}
    numbers = jax.random.key_data(wanted["rng"])

    def check(**changed):
        found = {**wanted, **changed}
        checkpoint.check_leaves(*map(checkpoint.typed_leaves, (wanted, found)))

    check()
    for changed, message in (
        ({"rng": numbers}, r"rng \(found uint32\[2\], expected key"),
        ({"mean": jnp.ones(2, jnp.bfloat16)}, r"bfloat16\[2\], expected float32\[2\]"),
        ({"mean": jnp.ones((2, 1))}, r"float32\[2, 1\], expected float32\[2\]"),
        ({"more": jnp.ones(1)}, r"also has more \(1 in all\)"),
    ):
        with pytest.raises(ValueError, match=message):
            check(**changed)


def test_only_the_network_is_compared_before_reading():
    tree = {"params": {"model": {"head": np.zeros((3, 19))}}, "opt_state": np.zeros(2)}
    assert checkpoint.network_leaves(tree) == {"params/model/head": "[3, 19]"}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("out of memory"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        ValueError("INTERNAL: [OS error 5: EIO Input/output error]"),
        NameError("a bug"),
    ],
)
def test_what_is_no_damage_moves_nothing(error, folder, monkeypatch):
    """A failing disk or a full memory says nothing about the newest checkpoint."""

    def fail(*_, **__):
        raise error

    is_bug = isinstance(error, MemoryError | NameError)
    with Checkpointer(folder) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "item_metadata", fail)
        with pytest.raises(type(error) if is_bug else TrainingError):
            checkpoints.restore_newest(state(0))
    assert {path.name for path in folder.iterdir()} == {"2", "4"}
    assert not (folder.parent / "damaged").exists()


def test_arrays_are_hashed_off_the_training_thread(tmp_path, monkeypatch):
    threads = []
    digests = checkpoint.digests

    def recording(arrays):
        threads.append(threading.current_thread())
        return digests(arrays)

    monkeypatch.setattr(checkpoint, "digests", recording)
    save(tmp_path / "c", [2])
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_a_donated_state_is_saved_as_it_was(tmp_path):
    """The next step overwrites the buffers while Orbax writes and hashes."""
    step = jax.jit(
        lambda x: x.replace(params=jax.tree.map(jnp.negative, x.params)),
        donate_argnums=0,
    )
    with Checkpointer(tmp_path / "c") as checkpoints:
        before = state(2)
        expected = comparable(before)
        checkpoints.save(2, before, facts(2))
        for _ in range(3):
            before = step(before)
        checkpoints.wait()
        found, _ = checkpoints.restore(2, state(0))
    chex.assert_trees_all_equal(comparable(found), expected)


def test_process_0_decides_which_step_is_restored(folder, monkeypatch, capsys):
    """Process 0 sees step 2 alone; this one, which sees step 4 too, restores 2."""
    monkeypatch.setattr(
        distributed, "from_main", lambda own: [2] if own == [2, 4] else own
    )
    with Checkpointer(folder) as checkpoints:
        assert checkpoints.restore_newest(state(0))[1]["step"] == 2
    assert capsys.readouterr().err == ""


def test_what_only_some_processes_can_read_is_an_error(folder, monkeypatch):
    """Process 0 read step 4; in this one it is damaged: nothing is moved."""
    DAMAGE["everything gone"](folder / "4")
    monkeypatch.setattr(
        distributed, "from_main", lambda own: [False] if own == [True] else own
    )
    with (
        Checkpointer(folder) as checkpoints,
        pytest.raises(InputError, match="checkpoints/4: cannot be restored"),
    ):
        checkpoints.restore_newest(state(0))
    assert (folder / "4").is_dir()


# One of two frozen parts, at different depths, is large.
FROZEN_PARTS = ({"kernel": (512, 512)}, (5,))


def with_frozen(value, frozen=0):
    """`state`, and frozen parts that differ by ``frozen``; `method_state` is nested."""
    parts = jax.tree.map(
        lambda shape: jax.random.normal(jax.random.key(frozen), shape),
        FROZEN_PARTS,
        is_leaf=lambda x: isinstance(x, tuple) and isinstance(x[0], int),
    )
    method_state = {
        "inner": (Frozen(parts[0]), jnp.ones(2) * value),
        "b": Frozen(parts[1]),
    }
    return state(value).replace(method_state=method_state)


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def saved_frozen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frozen") / "checkpoints"
    with Checkpointer(folder) as checkpoints:
        for step in (2, 4):
            checkpoints.save(step, with_frozen(step), facts(step))
    return folder


@pytest.fixture
def frozen_folder(saved_frozen, tmp_path):
    return shutil.copytree(saved_frozen, tmp_path / "checkpoints")


def test_frozen_parts_are_stored_once(frozen_folder):
    large = 4 * 512 * 512
    assert size(frozen_folder / "frozen") > 0.9 * large  # normal numbers, compressed
    assert all(size(frozen_folder / step) < 0.2 * large for step in ("2", "4"))
    assert checkpoint.checkpoint_steps(frozen_folder) == [2, 4]
    before = size(frozen_folder)
    for devices in (1, 4):
        template = sharding.replicate(with_frozen(0, 1), sharding.make_mesh(devices))
        with Checkpointer(frozen_folder) as checkpoints:
            found, _ = checkpoints.restore_newest(template)
        chex.assert_trees_all_equal(comparable(found), comparable(with_frozen(4)))
        kernel = found.method_state["inner"][0].value["kernel"]
        assert len(kernel.devices()) == devices
    with Checkpointer(frozen_folder) as checkpoints:
        checkpoints.save(6, found.replace(step=jnp.int32(6)), facts(6))
        checkpoints.save(8, found.replace(step=jnp.int32(8)), facts(8))
    assert size(frozen_folder) < before + 0.1 * large  # two for two
    with Checkpointer(frozen_folder) as checkpoints:
        assert checkpoints.restore_newest(template)[1]["step"] == 8


def test_frozen_parts_are_not_written_where_orbax_cleans_up(tmp_path, monkeypatch):
    """Orbax removes unfinished saves in the background once a folder is opened."""
    found, save = [], ocp.PyTreeCheckpointHandler.save

    def watched(self, directory, *args, **keywords):
        assert directory.exists()
        found.append(list(ocp.utils.tmp_checkpoints(tmp_path)))
        save(self, directory, *args, **keywords)

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "save", watched)
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(2, with_frozen(2), facts(2))
    assert found == [[]]


def test_the_network_is_read_without_frozen_parts(frozen_folder):
    shutil.rmtree(frozen_folder / "frozen")
    with Checkpointer(frozen_folder, read_only=True) as checkpoints:
        _, its_facts, _ = checkpoints.reported_network(NETWORK)
    assert its_facts["step"] == 4


def other_frozen(folder):
    """Those of another run of the same method."""
    shutil.rmtree(folder / "frozen")
    with Checkpointer(folder.parent / "other") as checkpoints:
        checkpoints.save(2, with_frozen(2, frozen=1), facts(2))
    shutil.copytree(folder.parent / "other" / "frozen", folder / "frozen")


FROZEN_DAMAGE = {
    "gone": (lambda folder: shutil.rmtree(folder / "frozen"), ""),
    "a bit": (
        lambda folder: flip(
            max((folder / "frozen").rglob("*"), key=lambda p: p.stat().st_size)
        ),
        "",
    ),
    "another run's": (other_frozen, r"method_state/.*changed .* \(2 of 2 arrays\)"),
}


@pytest.mark.parametrize("damage", FROZEN_DAMAGE)
def test_damaged_frozen_parts_are_an_error_and_nothing_is_moved(damage, frozen_folder):
    break_it, reason = FROZEN_DAMAGE[damage]
    break_it(frozen_folder)
    message = rf"checkpoints/frozen: cannot be restored .*{reason}.*; copy it back, or"
    with (
        Checkpointer(frozen_folder) as checkpoints,
        pytest.raises(InputError, match=message) as caught,
    ):
        checkpoints.restore_newest(with_frozen(0))
    assert "\n" not in str(caught.value)
    assert checkpoint.checkpoint_steps(frozen_folder) == [2, 4]


def test_a_stage_that_begins_anew_replaces_frozen_parts(frozen_folder):
    for step in ("2", "4"):
        shutil.rmtree(frozen_folder / step)
    with Checkpointer(frozen_folder) as checkpoints:
        assert checkpoints.restore_newest(with_frozen(0)) is None
        checkpoints.save(2, with_frozen(2, frozen=1), facts(2))
    with Checkpointer(frozen_folder) as checkpoints:
        found, _ = checkpoints.restore_newest(with_frozen(0))
    chex.assert_trees_all_equal(comparable(found), comparable(with_frozen(2, frozen=1)))
