"""Files of the DAFormer family: Mix Transformers, ResNet V1c, DAFormer, HRDA and MIC."""

import functools
import json
import pathlib
import re

import jax
import numpy as np
import pytest
import seeded

from lsr_jax import convert, errors, models
from lsr_jax.convert import __main__ as command
from lsr_jax.convert import layouts, names, weight_files
from lsr_jax.models import mix_transformer
from lsr_jax.training import weights

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
BODY = ((16, 32, 40, 64), (1, 2, 1, 1))  # of mit_tiny_params.json
TINY = mix_transformer.Architecture(*BODY, head_width=24)
SIZES = {64: 16, 128: 32, 320: 40, 512: 64, 256: 24, 1024: 96}  # of mit_b5, and here
# SegFormer's names without the stage, and the others'; "#" is the stage from 0.
RENAMES = {
    "mit_openmmlab": {
        r"patch_embed#\.proj": "layers.#.0.projection",
        r"patch_embed#\.norm": "layers.#.0.norm",
        r"block#": "layers.#.1",
        r"^norm#": "layers.#.2",
        r"attn\.proj": "attn.attn.out_proj",
        r"mlp\.fc1": "ffn.layers.0",
        r"mlp\.dwconv\.dwconv": "ffn.layers.1",
        r"mlp\.fc2": "ffn.layers.4",
    },
    "mit_hf": {
        r"\.norm(\d)": r".layer_norm_\1",
        r"^norm#": "layer_norm.#",
        r"\.norm": ".layer_norm",
        r"patch_embed#": "patch_embeddings.#",
        r"block#": "block.#",
        r"attn\.proj": "attention.output.dense",
        r"attn\.": "attention.self.",
        r"self\.q\.": "self.query.",
        r"mlp\.fc(\d)": r"mlp.dense\1",
        r"^": "segformer.encoder.",
    },
}
CLASSIFIERS = {"mit": "head", "mit_openmmlab": "head", "mit_hf": "classifier"}


def recorded(name):
    """Names, shapes and kinds of the arrays of an original."""
    return json.loads((GOLDENS / f"{name}_params.json").read_text())


def transformer():
    """SegFormer's names and arrays of a small encoder."""
    return {n: x.astype(np.float32) for n, x in seeded.state_dict("mit_tiny").items()}


def renamed(state, layout):
    """The arrays of a Mix Transformer as another ImageNet file has them."""
    found = {}
    for name, value in state.items() if layout != "mit" else ():
        stage = re.search(r"\d", name)
        name = f"{name[: stage.start()]}#{name[stage.end() :]}"
        for old, new in RENAMES[layout].items():
            name = re.sub(old, new, name)
        found[name.replace("#", str(int(stage[0]) - 1))] = value
    for name in [name for name in found if ".kv." in name]:
        joint = found.pop(name)
        if layout == "mit_hf":
            found[name.replace("kv", "key")] = joint[: len(joint) // 2]
            found[name.replace("kv", "value")] = joint[len(joint) // 2 :]
        else:
            query = found.pop(name.replace(".kv.", ".q."))
            name = name.replace("attn.kv.", "attn.attn.in_proj_")
            found[name] = np.concatenate([query, joint])
    for name in found:
        if re.search(r"ffn\.layers\.[04]\.weight", name):
            found[name] = found[name][:, :, None, None]
    return found or state


def image_net(layout):
    return renamed(transformer(), layout) | {
        f"{CLASSIFIERS[layout]}.{leaf}": np.zeros(1000, np.float32)
        for leaf in ("weight", "bias")
    }


def network(detail=False):
    """A small DAFormer, or HRDA's, with the names of the published checkpoints."""
    draw = np.random.default_rng(1)
    state = {f"backbone.{name}": value for name, value in transformer().items()}
    for name, shape, kind in recorded("hrda_head_b5" if detail else "daformer_head_b5"):
        value = draw.random([SIZES.get(size, size) for size in shape], np.float32)
        state[f"decode_head.{name}"] = (
            np.array(3, np.int64) if kind == "counter" else value
        )
    return state


def copies(state):
    """Student, teacher and the frozen network, in one state_dict."""
    return {
        f"{key}.{name}": np.asarray(value + value.dtype.type(step))
        for step, key in enumerate(("model", "ema_model", "imnet_model"))
        for name, value in state.items()
    }


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def exported(imported, path, layout):
    convert.export(imported, path, layout=layout)
    return weight_files.read(path)


@pytest.mark.parametrize("layout", CLASSIFIERS)
def test_image_net_files_are_one_network(layout, write, tmp_path):
    state = image_net(layout)
    imported = convert.load(write(state), architecture="daformer")
    info = imported.info
    assert (info["layout"], info["preprocessing"]) == (layout, "imagenet")
    assert info["arguments"]["architecture"] == "daformer"
    body = info["arguments"]["backbone"]
    assert (body.widths, body.depths) == BODY
    assert set(info["ignored"].values()) == {"the ImageNet classifier"}
    assert {path.split("/")[1] for path in info["fresh"]} == {"head"}
    kernel = imported.params["backbone"]["block2_1"]["attn"]["kv"]["kernel"]
    np.testing.assert_array_equal(
        kernel, transformer()["block2.1.attn.kv.weight"].transpose()
    )
    expected, _ = seeded.mmseg_trees("mit_tiny")
    same(imported.params["backbone"], expected)
    convert.save(tmp_path / "folder", imported)
    again = convert.load(tmp_path / "folder")
    assert again.info == info
    for other in CLASSIFIERS:
        arrays = exported(again, tmp_path / f"{other}.safetensors", other)
        wanted = renamed(transformer(), other)
        assert arrays.keys() == wanted.keys()
        for name, value in wanted.items():
            assert arrays[name].tobytes() == value.tobytes()
            assert arrays[name].shape == value.shape


LOST = {
    "mit": "block1.0.attn.kv.bias",
    "mit_openmmlab": "layers.1.1.0.attn.attn.in_proj_weight",
    "mit_hf": "segformer.encoder.block.1.0.attention.self.value.bias",
}


@pytest.mark.parametrize("layout", LOST)
def test_names_without_a_partner_are_listed(layout, write):
    state = image_net(layout)
    del state[LOST[layout]]
    state["pos_embed.weight"] = np.zeros(3, np.float32)
    with pytest.raises(errors.InputError) as caught:
        convert.load(write(state))
    assert f"missing 1: {LOST[layout]}; unexpected 1: pos_embed.weight" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("layout", "name", "message"),
    [
        ("mit", "block1.0.attn.q.weight", r"q.weight \(16, 17\) instead of \(16, 16\)"),
        ("mit_openmmlab", LOST["mit_openmmlab"], r"in_proj_weight \(32, 33\) instead"),
        ("mit_hf", LOST["mit_hf"], r"value.bias \(33,\) instead of \(32,\)"),
    ],
)
def test_other_shapes_are_listed(layout, name, message, write):
    state = image_net(layout)
    state[name] = np.concatenate([state[name], state[name][:1]])
    with pytest.raises(errors.InputError, match=f"wrong shape 1: .*{message}"):
        convert.load(write(state))


@pytest.mark.parametrize("detail", [False, True])
@pytest.mark.parametrize("entry", [None, "ema_model"])
def test_checkpoints_have_a_student_and_a_teacher(detail, entry, write, tmp_path):
    state = network(detail)
    path = write(copies(state))
    imported = convert.load(path, entry=entry)
    info = imported.info
    assert (info["layout"], info["preprocessing"]) == ("daformer", "imagenet")
    assert info["fresh"] == []
    assert info["arguments"]["backbone"] == TINY
    assert info["arguments"]["fusion"] == "sepaspp"
    assert info["arguments"].get("detail") == (0.5 if detail else None)
    taken, other = ("ema_model", "model") if entry else ("model", "ema_model")
    reasons = {
        f"{layouts.COPIES[other]} ({other})",
        "the frozen ImageNet network (imnet_model)",
        "a counter that nothing reads",
    }
    assert set(info["ignored"].values()) == reasons
    assert len(info["loaded"]) + len(info["ignored"]) == 3 * len(state)
    expected = {n: value + (taken != "model") for n, value in state.items()}
    arrays = exported(imported, tmp_path / "e.safetensors", "daformer")
    assert {name.removeprefix("model.") for name in arrays} == expected.keys()
    for name in info["loaded"]:
        assert arrays[f"model.{name}"].tobytes() == expected[name].tobytes()
    same(convert.load(tmp_path / "e.safetensors")[:2], imported[:2])


def test_checkpoint_of_mmcv(tmp_path):
    torch = pytest.importorskip("torch")
    state = {n: torch.from_numpy(value) for n, value in copies(network()).items()}
    moments = {0: {"exp_avg": torch.ones(2)}}
    whole = {"meta": {"iter": 3}, "state_dict": state, "optimizer": {"state": moments}}
    torch.save(whole, tmp_path / "iter_3.pth")
    student = convert.load(tmp_path / "iter_3.pth")
    convert.export(student, tmp_path / "student.pth", layout="daformer")
    kept = torch.load(tmp_path / "student.pth", weights_only=True)["state_dict"]
    name = "model.decode_head.conv_seg.weight"
    assert torch.equal(kept[name], state[name])
    with pytest.raises(
        errors.InputError, match="no network 'teacher'; found state_dic"
    ):
        convert.load(tmp_path / "iter_3.pth", entry="teacher")


@functools.cache
def zeros(**arguments):
    """A network in place of a fresh one."""
    model = models.build(**arguments)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), (64, 64)))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def import_into(path, detail=None, **options):
    """As ``init_from`` reads a file."""
    arguments = {"backbone": TINY, "architecture": "daformer", "detail": detail}
    model = models.build(**arguments).arguments
    given = {"model": model, "preprocessing": "imagenet"}
    return weights.import_file(path, zeros(**arguments), **given, **options)


@pytest.mark.parametrize("layout", CLASSIFIERS)
def test_a_stage_starts_from_an_encoder(layout, write):
    params, _ = import_into(write(image_net(layout)))
    same(params["backbone"], seeded.mmseg_trees("mit_tiny")[0])
    assert not any(leaf.any() for leaf in jax.tree.leaves(params["head"]))


def test_a_stage_starts_from_student_or_teacher(write):
    state = network(detail=True)
    path = write(copies(state))
    bias = state["decode_head.scale_attention.conv_seg.bias"]
    for entry, step in ((None, 0), ("ema_model", 1)):
        params, _ = import_into(path, detail=0.5, entry=entry)
        np.testing.assert_array_equal(
            params["attention"]["conv_seg"]["bias"], bias + np.float32(step)
        )
    params, _ = import_into(path, detail=0.5, skip_head=True)
    assert not params["attention"]["conv_seg"]["bias"].any()
    assert params["backbone"]["norm1"]["scale"].all()
    with pytest.raises(errors.InputError, match=r"unexpected .*params/attention"):
        import_into(path)


@pytest.mark.parametrize("fusion", ["aspp", "conv1", "isa"])
def test_fusion_is_told_by_names(fusion, write):
    arguments = {"backbone": TINY, "architecture": "daformer", "fusion": fusion}
    state = {}
    for place, shape in names.shapes(arguments).items():
        (piece,) = names.pieces(place, {"head": "single", **arguments}, "daformer")
        state[piece.name] = names.to_torch(np.ones(shape, np.float32))
    path = write(state)
    assert convert.load(path).info["arguments"]["fusion"] == fusion
    with pytest.raises(
        errors.InputError, match=f"has fusion {fusion} instead of sepas"
    ):
        import_into(path)


@pytest.mark.parametrize(
    ("layout", "arguments", "files"),
    [
        ("mit", {"backbone": "mit_b0"}, {"": "mit_b0"}),
        pytest.param(
            "daformer",
            {"backbone": "mit_b5", "detail": 0.5},
            {"backbone.": "mit_b5", "decode_head.": "hrda_head_b5"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_published_names_and_shapes(layout, arguments, files):
    arguments = {"architecture": "daformer", "head": "single", **arguments}
    expected = {
        prefix + name: tuple(shape)
        for prefix, file in files.items()
        for name, shape, kind in recorded(file)
        if kind != "counter"
    }
    found = {}
    for place, shape in names.shapes(arguments).items():
        for piece in names.pieces(place, arguments, layout):
            empty = np.broadcast_to(np.float32(0), shape)
            axes = names.TO_TORCH.get(len(shape))
            found[piece.name] = empty.transpose(axes).shape
    assert found == expected


def v1c(resnet_state):
    """A small ResNet V1c with its classifier, and half of the width in its stem."""
    body = {
        n: x
        for n, x in resnet_state().items()
        if n.split(".")[0] not in ("conv1", "bn1")
    }
    draw = np.random.default_rng(3)
    for index, (out, inner) in enumerate(((2, 3), (2, 2), (4, 2))):
        body[f"stem.{3 * index}.weight"] = draw.random((out, inner, 3, 3), np.float32)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            body[f"stem.{3 * index + 1}.{leaf}"] = draw.random(out, np.float32)
    return body


V1C = models.Architecture(4, 4, (1, 1, 2, 1), v1c=True)


def test_resnet_v1c(resnet_state, write, tmp_path):
    state = v1c(resnet_state)
    imported = convert.load(
        write(state | {"fc.weight": np.zeros((9, 128), np.float32)})
    )
    info = imported.info
    assert (info["layout"], info["preprocessing"]) == ("resnet_v1c", "imagenet")
    assert info["arguments"]["backbone"] == V1C
    assert info["ignored"]["fc.weight"] == "the ImageNet classifier"
    arrays = exported(imported, tmp_path / "e.safetensors", "resnet_v1c")
    for name in info["loaded"]:
        assert arrays[name].tobytes() == state[name].tobytes()
    params, _ = convert.overlay(*zeros(backbone=V1C), imported)
    kernel = state["stem.3.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["backbone"]["stem_3"]["kernel"], kernel)
    del state["stem.3.weight"]
    with pytest.raises(errors.InputError, match=r"missing 1: stem.3.weight"):
        convert.load(write(state))


@pytest.mark.parametrize("head", ["", "head.", "scale_attention."])
def test_deeplabv2_of_the_family(head, resnet_state, write, tmp_path):
    """DAFormer's and HRDA's comparison, DeepLabV2 on ResNet V1c."""
    heads = ("",) if not head else ("head.", "scale_attention.")
    state = {f"backbone.{name}": value for name, value in v1c(resnet_state).items()}
    for name in heads:
        for branch in (0, 1):
            start = f"decode_head.{name}aspp_modules.{branch}.conv"
            state[f"{start}.weight"] = np.ones((19, 128, 3, 3), np.float32)
            state[f"{start}.bias"] = np.full(19, branch, np.float32)
    state = {f"model.{name}": value for name, value in state.items()}
    imported = convert.load(write(state), architecture="deeplabv2")
    arguments = imported.info["arguments"]
    assert arguments["aspp_dilations"] == (6, 12)
    assert arguments.get("detail") == (0.5 if head else None)
    arrays = exported(imported, tmp_path / "e.safetensors", "daformer")
    for name in imported.info["loaded"]:
        assert arrays[f"model.{name}"].tobytes() == state[f"model.{name}"].tobytes()
    merged, _ = convert.overlay(*zeros(**arguments), imported)
    same(merged, imported.params)


def trained_segformer():
    state = {f"backbone.{name}": value for name, value in transformer().items()}
    head = {f"decode_head.linear_c{i}.proj.bias": np.ones(4) for i in (1, 2, 3, 4)}
    return state | head | {"decode_head.conv_seg.weight": np.ones((19, 24, 1, 1))}


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (trained_segformer, {}, "missing .*; unexpected 4: decode_head.linear_c1"),
        (network, {"backbone": "mit_b5"}, "Mix Transformer .*, expected mit_b5"),
        (network, {"backbone": "resnet101"}, "Mix Transformer .*, expected resnet101"),
        (network, {"num_classes": 16}, "head has 19 classes, the model 16"),
        (network, {"architecture": "deeplabv2"}, "a daformer, expected deeplabv2"),
        (
            network,
            {"layout": "mit"},
            "'mit' does not fit; the file looks like daformer",
        ),
        (network, {"entry": "ema_model"}, "no network 'ema_model'; found"),
        (
            transformer,
            {"architecture": "deeplabv3plus"},
            "the body of a daformer, expected deeplabv3plus",
        ),
    ],
)
def test_file_that_is_not_the_model(make, options, message, write):
    with pytest.raises(errors.InputError, match=message) as caught:
        convert.load(write(make()), **options)
    assert "\n" not in str(caught.value)


def test_files_of_others_are_not_this_family(resnet_state, write, tmp_path):
    imported = convert.load(write(network()))
    with pytest.raises(errors.InputError, match="lsr: cannot hold a daformer on"):
        convert.export(imported, tmp_path / "e.safetensors", layout="lsr")
    fc = {"fc.weight": np.ones((9, 128), np.float32)}
    path = write(resnet_state() | fc, "torchvision.safetensors")
    with pytest.raises(errors.InputError, match="body of a deeplabv2, expected daform"):
        convert.load(path, architecture="daformer")
    with pytest.raises(errors.InputError, match=r"a ResNet .*, expected resnet101_"):
        convert.load(path, backbone="resnet101_v1c")
    convert.save(tmp_path / "folder", imported)
    with pytest.raises(errors.InputError, match="has one network, no 'ema_model'"):
        convert.load(tmp_path / "folder", entry="ema_model")


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(models.BACKBONES, "mit_b0", TINY)
    path = tmp_path / "hrda.safetensors"
    weight_files.write(path, copies(network(detail=True)))
    folder, out = tmp_path / "folder", tmp_path / "encoder.safetensors"
    flags = ["--model", "daformer_mit_b0", "--out", str(folder), "--entry", "ema_model"]
    assert command.main(["from-torch", str(path), *flags]) == 0
    printed = capsys.readouterr().out
    assert "layout daformer" in printed
    assert "the student (model)" in printed
    flags = ["--layout", "mit_hf", "--out", str(out)]
    assert command.main(["to-torch", str(folder), *flags]) == 0
    arrays = weight_files.read(out)
    teacher = {name: value + 1 for name, value in transformer().items()}
    assert arrays.keys() == renamed(teacher, "mit_hf").keys()
    for name, value in renamed(teacher, "mit_hf").items():
        np.testing.assert_array_equal(arrays[name], value)
