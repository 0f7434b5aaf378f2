"""Files that cannot be read: one line, and no code runs. CAG's anchors."""

import builtins
import json
import os
import pickle

import numpy as np
import pytest

from lsr_jax import errors
from lsr_jax.convert import __main__ as command
from lsr_jax.convert import weight_files
from lsr_jax.methods import cag


@pytest.fixture
def state(layout_state):
    return layout_state("lsr")[0]


def _refused(path, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        weight_files.read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path):
    _refused(tmp_path / "none.pth", "no such file")


def test_truncated_safetensors(write, state):
    path = write(state)
    path.write_bytes(path.read_bytes()[:-1000])
    _refused(path, "expected a safetensors file")


def test_truncated_torch_file(tmp_path, state):
    pytest.importorskip("torch")
    path = tmp_path / "weights.pth"
    weight_files.write(path, state)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _refused(path, "expected a PyTorch file")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "expected a PyTorch or safetensors file, found an empty file"),
        (b"a page that says 404", "found one that begins with b'a page that says"),
        (b"\x89HDF\r\n", "found one that begins with b'.x89HDF"),
    ],
)
def test_no_checkpoint(tmp_path, content, reason):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    _refused(path, reason)


def test_checkpoint_without_weights(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "weights.pth")
    _refused(tmp_path / "weights.pth", "holds no weights")


def test_pickle_that_wants_to_run_code(tmp_path):
    torch = pytest.importorskip("torch")

    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"state_dict": Malicious()}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious()))
    _refused(tmp_path / "zip.pth", "refused, a pickle that asks for posix.mkdir")
    _refused(tmp_path / "plain.pth", "refused")
    assert not (tmp_path / "owned").exists()


ODD = {
    "sparse": lambda torch: torch.ones(2, 2).to_sparse(),
    "quantised": lambda torch: torch.quantize_per_tensor(
        torch.ones(2), 0.1, 0, torch.qint8
    ),
    "meta": lambda torch: torch.ones(2, device="meta"),
    "conjugate": lambda torch: torch.ones(2, dtype=torch.complex64).conj(),
    "complex": lambda torch: torch.ones(2, dtype=torch.complex64),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore")  # PyTorch's, about its quantised tensors
def test_tensors_without_plain_numbers(kind, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": {"conv.w": ODD[kind](torch)}}, tmp_path / "odd.pth")
    _refused(tmp_path / "odd.pth", "expected a (dense tensor|PyTorch file)|refused")


@pytest.mark.parametrize(
    "change",
    [
        [],
        {"arguments": 7},
        {"arguments": {}},
        {"arguments": {"backbone": "mini"}},
        {"arguments": {"backbone": 3, "aspp_dilations": [6]}},
        {"arguments": {"backbone": "mini", "aspp_dilations": ["6"]}},
        {"arguments": {"backbone": {"stem": 4, "width": 4}, "aspp_dilations": [6]}},
        {"fresh": None},
    ],
)
def test_a_folder_of_weights_with_another_description(change, tmp_path):
    arguments = {"backbone": "mini", "aspp_dilations": (6, 12)}
    text = {"file": "a", "layout": "lsr", "preprocessing": "caffe"}
    info = {**text, "arguments": arguments, "loaded": {}, "ignored": {}, "fresh": []}
    params = {"head": {"bias": np.ones(2, np.float32)}}
    path = tmp_path / "weights"
    weight_files.save(path, weight_files.Imported(params, {}, info))
    assert weight_files.read_own(path).info == info
    wrong = {**info, **change} if change else change
    (path / weight_files.INFO).write_text(json.dumps(wrong))
    with pytest.raises(errors.InputError, match=f"^{path}: expected weights") as caught:
        weight_files.read_own(path)
    assert "\n" not in str(caught.value)


def test_training_checkpoint_with_a_numpy_best_score(tmp_path, state):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    content = {"epoch": 3, "best_MIou": np.float64(0.4), "state_dict": tensors}
    torch.save(content, tmp_path / "weights.pth")
    arrays = weight_files.read(tmp_path / "weights.pth")
    assert arrays.keys() == state.keys()
    name = "module.layer4.0.conv2.weight"
    np.testing.assert_array_equal(arrays[name], state[name])


def test_torch_is_named_where_it_is_missing(tmp_path, monkeypatch):
    (tmp_path / "weights.pth").write_bytes(b"PK\x03\x04")
    load = builtins.__import__

    def without_torch(name, *arguments, **options):
        if name == "torch":
            raise ImportError(name)
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    _refused(tmp_path / "weights.pth", "need PyTorch")


ENDINGS = ("a.pkl", "a.pth.tar", "a.ckpt", "a.PTH", "a")


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_files_are_known_by_their_content(kind, state, tmp_path):
    if kind == "pth":
        pytest.importorskip("torch")
    whole = tmp_path / f"whole.{kind}"
    weight_files.write(whole, state)
    for name in ENDINGS:
        (tmp_path / name).write_bytes(whole.read_bytes())
        found = weight_files.read(tmp_path / name)
        np.testing.assert_equal(found, state)


WRAPPINGS = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"state": {0: state}}},
    "model_state_dict": lambda state: {"model_state_dict": state, "best": 0.4},
    "cag": lambda state: {"DeepLab": {"model_state": state}, "iter": 3},
    "beside": lambda state: {"model": state, "D": {"conv.weight": state["a"]}},
}


@pytest.mark.parametrize("kind", WRAPPINGS)
def test_the_network_in_a_training_checkpoint(kind, resnet_state, tmp_path):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(x) for name, x in resnet_state().items()}
    wrapped = WRAPPINGS[kind]({**state, "a": torch.ones(2)})
    torch.save(wrapped, tmp_path / "w.pth")
    assert weight_files.read(tmp_path / "w.pth").keys() == {*state, "a"}


def test_one_of_several_networks_is_named(resnet_state, tmp_path):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(x) for name, x in resnet_state().items()}
    other = {name: value + 1 for name, value in state.items()}
    torch.save({"model": state, "ema_model": other}, tmp_path / "w.pth")
    _refused(tmp_path / "w.pth", "several networks, model, ema_model; choose one with")
    found = weight_files.read(tmp_path / "w.pth", entry="ema_model")
    np.testing.assert_array_equal(found["conv1.weight"], other["conv1.weight"])
    with pytest.raises(
        errors.InputError, match="no network 'ema'; found model, ema_mo"
    ):
        weight_files.read(tmp_path / "w.pth", entry="ema")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_precisions_are_the_same_in_both_kinds(dtype, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensors = {
        "a": torch.linspace(-2, 2, 6, dtype=getattr(torch, dtype)).reshape(2, 3),
        "counter": torch.tensor(7),
    }
    torch.save(tensors, tmp_path / "w.pth")
    save_file(tensors, tmp_path / "w.safetensors")
    found = [weight_files.read(tmp_path / f"w.{k}") for k in ("pth", "safetensors")]
    np.testing.assert_equal(*found)
    np.testing.assert_array_equal(found[0]["a"], tensors["a"].float())


VECTORS = np.random.default_rng(0).uniform(size=(19, 8))
VECTORS[17] = 0
COUNT = np.arange(19.0)
PRESENT = (COUNT != 17).astype(float)
ANCHORS = {
    "array": (lambda torch: VECTORS, PRESENT),
    "tensor": (lambda torch: torch.from_numpy(VECTORS.astype(np.float32)), PRESENT),
    "counts": (
        lambda torch: {"objective_vectors": VECTORS, "objective_num": COUNT},
        COUNT,
    ),
    "list": (
        lambda torch: {
            "objective_vectors": torch.from_numpy(VECTORS),
            "objective_num": COUNT.tolist(),
        },
        COUNT,
    ),
}


@pytest.mark.parametrize("kind", ANCHORS)
def test_the_method_reads_the_anchors_that_the_command_wrote(tmp_path, capsys, kind):
    torch = pytest.importorskip("torch")
    make, count = ANCHORS[kind]
    torch.save(make(torch), tmp_path / "category_anchors")
    out = tmp_path / "anchors.npz"
    arguments = ["anchors", str(tmp_path / "category_anchors"), "--out", str(out)]
    assert command.main(arguments) == 0
    assert "18 of 19 classes, 8 channels" in capsys.readouterr().out
    vectors, found = cag.read_anchors(str(out), (19, 8))
    np.testing.assert_array_equal(vectors, VECTORS.astype(np.float32))
    np.testing.assert_array_equal(found, count)
    assert command.main(arguments) == 2
    assert "expected the name of a new .npz file" in capsys.readouterr().err


class CreatesFolder:
    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "expected an array of classes by channels"),
        (np.zeros(3), "expected an array of classes by channels"),
        (CreatesFolder(), "refused"),
    ],
)
def test_other_files_hold_no_anchors(tmp_path, capsys, monkeypatch, content, message):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "file.pth")
    assert command.main(["anchors", "file.pth", "--out", "out.npz"]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]
