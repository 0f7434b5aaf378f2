"""Layouts are recognised, read strictly by name, laid over a model, and written again."""

import hashlib
import json
import pathlib

import jax
import numpy as np
import pytest

from lsr_jax import convert, errors, models
from lsr_jax.convert import names, weight_files

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
TINY = models.Architecture(4, 4, (1, 1, 2, 1))
FOUR = (6, 12, 18, 24)


NEVER = "a branch that never runs"


@pytest.mark.parametrize("all_branches", [True, False])
@pytest.mark.parametrize(
    ("name", "layout", "head", "batch_norm", "runs"),
    [
        ("adaptsegnet_single", "adaptsegnet|bdl", "single", "frozen_affine", None),
        ("adaptsegnet", "adaptsegnet|advent", "multi_level", "frozen_affine", None),
        ("clan", "clan|f2a", "two_heads", "frozen_affine", FOUR),
        ("maxsquare", "maxsquare|oce", "multi_level", "train", (6, 12)),
        ("lsr", "lsr", "single", "train", (6, 12)),
    ],
)
def test_adapted_checkpoints(
    layout_state, write, name, layout, head, batch_norm, runs, all_branches
):
    state, wrapped = layout_state(name, classes=16)
    path = write(state)
    if runs is None and not all_branches:
        with pytest.raises(errors.InputError, match="several layouts with different"):
            convert.load(path)
        return
    params, model_state, info = convert.load(path, all_branches=all_branches)
    runs = FOUR if all_branches else runs
    assert info["layout"] == layout
    assert info["preprocessing"] == "caffe"
    assert info["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info["arguments"] == {
        "backbone": TINY,
        "num_classes": 16,
        "head": head,
        "aspp_dilations": runs,
        "batch_norm": batch_norm,
        "freeze_stem_affine": wrapped,
    }
    prefix = "module." if wrapped else ""
    kernel = state[f"{prefix}layer3.1.conv2.weight"]
    found = params["backbone"]["layer3_1"]["conv2"]["kernel"]
    np.testing.assert_array_equal(found, kernel.transpose(2, 3, 1, 0))
    projected = params["backbone"]["layer2_0"]["downsample_bn"]["scale"]
    np.testing.assert_array_equal(
        projected, state[f"{prefix}layer2.0.downsample.1.weight"]
    )
    var = model_state["backbone"]["bn1"]["var"]
    np.testing.assert_array_equal(var, state[f"{prefix}bn1.running_var"])
    assert ("aux_head" in params) == (head != "single")
    reasons = set(info["ignored"].values())
    assert reasons - {NEVER} == {"a counter that nothing reads"}
    assert (NEVER in reasons) == (runs != FOUR)
    assert len(info["loaded"]) + len(info["ignored"]) == len(state)


def fresh(arguments):
    """Shapes of a new network, which `overlay` leaves where a file has nothing."""
    model = models.build(**arguments)
    return jax.eval_shape(lambda key: model.init(key, (32, 32)), jax.random.key(0))


def test_cag_checkpoint(layout_state, tmp_path):
    """As its trainer saves it: the network lies under two entries of the file."""
    pytest.importorskip("torch")
    state, _ = layout_state("cag", classes=16)
    path = tmp_path / "cag.pth"
    weight_files.write(path, state, wrapped=("DeepLab", "model_state"))
    params, model_state, info = convert.load(path, architecture="deeplabv3plus")
    assert info["layout"] == "cag"
    assert info["preprocessing"] == "unit"
    assert info["fresh"] == []
    assert info["arguments"] == {
        "backbone": TINY,
        "architecture": "deeplabv3plus",
        "num_classes": 16,
        "head": "single",
        "aspp_dilations": (6, 12, 18),
        "batch_norm": "train",
        "freeze_stem_affine": False,
    }
    kernel = state["decoder.last_conv.8.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["head"]["classifier"]["kernel"], kernel)
    var = model_state["head"]["pooled"]["bn"]["var"]
    np.testing.assert_array_equal(var, state["aspp.global_avg_pool.2.running_var"])
    body = convert.load(path, skip_head=True)
    assert set(body.params) == set(body.model_state) == {"backbone"}
    laid, _ = convert.overlay(*fresh(info["arguments"]), convert.load(path))
    jax.tree.map(np.testing.assert_array_equal, laid, params)
    with pytest.raises(errors.InputError, match="holds a deeplabv3plus, expected deep"):
        convert.load(path, architecture="deeplabv2")
    other = fresh(info["arguments"] | {"num_classes": 19})
    with pytest.raises(errors.InputError, match="head has 16 classes, the model 19"):
        convert.overlay(*other, convert.load(path))


def test_imagenet_body_under_deeplabv3plus(layout_state, write):
    state, _ = layout_state("torchvision_resnet")
    imported = convert.load(write(state), architecture="deeplabv3plus")
    assert imported.info["arguments"]["architecture"] == "deeplabv3plus"
    params, model_state = fresh(imported.info["arguments"])
    laid, _ = convert.overlay(params, model_state, imported)
    assert laid["head"] == params["head"]
    jax.tree.map(
        np.testing.assert_array_equal, laid["backbone"], imported.params["backbone"]
    )


@pytest.mark.parametrize(
    ("name", "preprocessing", "reason"),
    [
        ("torchvision_resnet", "imagenet", "the ImageNet classifier"),
        ("deeplab_init", "caffe", "the head of another task"),
    ],
)
def test_initialisation_files(layout_state, write, name, preprocessing, reason):
    params, model_state, info = convert.load(
        write(layout_state(name)[0]), num_classes=7
    )
    assert info["layout"] == name
    assert info["preprocessing"] == preprocessing
    assert reason in info["ignored"].values()
    assert set(params) == set(model_state) == {"backbone"}
    assert {path.split("/")[1] for path in info["fresh"]} == {"head"}


@pytest.mark.parametrize("name", ["vgg16", "vgg13"])
def test_torchvision_vgg_skips_a_pool(vgg_state, write, name):
    groups = models.BACKBONES[name].groups
    state = vgg_state(groups, deeplab=False)
    params, model_state, info = convert.load(write(state))
    assert model_state == {}
    assert info["arguments"]["backbone"] == name
    last, ours = {"vgg16": (28, 27), "vgg13": (22, 21)}[name]
    found = params["backbone"][f"features_{ours}"]["kernel"]
    expected = state[f"features.{last}.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(found, expected)
    fc = {path.split("/")[2] for path in info["fresh"] if "backbone" in path}
    assert fc == {f"features_{ours + 2}", f"features_{ours + 4}"}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_adapted_vgg(vgg_state, head_state, write, prefix):
    state = vgg_state(deeplab=True) | head_state("classifier", 1024)
    path = write({prefix + name: value for name, value in state.items()})
    params, _, info = convert.load(path, backbone="vgg16", all_branches=True)
    assert info["layout"] == ("oce|lsr" if prefix else "adaptsegnet")
    assert "features_31" in params["backbone"]
    assert params["head"]["conv2d_list_3"]["bias"].shape == (19,)


@pytest.mark.parametrize(
    ("name", "layout", "backbone"),
    [
        ("lsr_resnet101", "lsr", "resnet101"),
        ("multi_resnet101", "maxsquare", "resnet101"),
        ("clan_resnet101", "clan", "resnet101"),
        ("lsr_vgg16", "lsr", "vgg16"),
        ("lsr_vgg13", "lsr", "vgg13"),
    ],
)
def test_names_recorded_from_the_originals(monkeypatch, name, layout, backbone):
    entries = json.loads((GOLDENS / f"{name}_params.json").read_text())
    arrays = {key: np.zeros(shape, np.float32) for key, shape, _ in entries}
    monkeypatch.setattr(weight_files, "read", lambda path, entry: arrays)
    monkeypatch.setattr(weight_files, "fingerprint", lambda path: "")
    imported = convert.load(
        "file.pth", layout=layout, backbone=backbone, num_classes=19
    )
    assert imported.info["fresh"] == []
    counters = sum(kind == "counter" for _, _, kind in entries)
    never = "a branch that never runs"
    dead = [name for name, why in imported.info["ignored"].items() if why == never]
    assert len(imported.info["loaded"]) == len(entries) - counters - len(dead)
    dilations = FOUR if layout == "clan" else (6, 12)
    assert imported.info["arguments"]["aspp_dilations"] == dilations
    assert len(imported.params["head"]) == len(dilations)


def test_shared_layout_with_other_branches_must_be_named(layout_state, write):
    path = write(layout_state("advent")[0])
    with pytest.raises(errors.InputError, match=r"adaptsegnet runs \(6, 12\); advent"):
        convert.load(path)
    running = convert.load(path, layout="adaptsegnet")
    assert set(running.params["aux_head"]) == {"conv2d_list_0", "conv2d_list_1"}
    assert running.info["ignored"]["layer5.conv2d_list.3.bias"] == (
        "a branch that never runs"
    )


def test_both_sides_of_a_mismatch_are_listed(layout_state, write):
    state, _ = layout_state("clan")
    del state["layer3.1.bn2.running_mean"]
    state["layer9.weight"] = np.zeros(3, np.float32)
    state["layer1.0.conv1.weight"] = np.zeros((4, 5, 1, 1), np.float32)
    with pytest.raises(errors.InputError) as caught:
        convert.load(write(state))
    message = str(caught.value)
    assert "missing 1: layer3.1.bn2.running_mean" in message
    assert "unexpected 1: layer9.weight" in message
    assert "layer1.0.conv1.weight (1, 1, 5, 4) instead of (1, 1, 4, 4)" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 19}, "head has 16 classes, the model 19"),
        ({"backbone": "vgg16"}, "holds a ResNet"),
        ({"layout": "clan"}, "looks like lsr"),
        ({"backbone": "resnet50"}, "missing 165: layer1.1"),
    ],
)
def test_file_that_is_not_the_model(layout_state, write, options, message):
    path = write(layout_state("lsr", classes=16)[0])
    with pytest.raises(errors.InputError, match=message):
        convert.load(path, **options)


def test_head_skipped_on_purpose(layout_state, write):
    path = write(layout_state("lsr", classes=16)[0])
    params, _, info = convert.load(path, num_classes=19, skip_head=True)
    assert set(params) == {"backbone"}
    assert info["arguments"]["num_classes"] == 19
    assert info["ignored"]["clas.conv2d_list.0.bias"] == "a head, skipped on purpose"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"decoder.last_conv.8.weight": np.zeros(3)},
            "expected a DeepLabV2, DeepLabV3",
        ),
        ({"conv1.weight": np.zeros(3), "classifier.bias": np.zeros(1)}, "found names"),
    ],
)
def test_other_networks_are_named(write, state, message):
    with pytest.raises(errors.InputError, match=message):
        convert.load(write(state))


def test_body_without_a_head(resnet_state, write):
    with pytest.raises(errors.InputError, match="without a head or classifier"):
        convert.load(write(resnet_state()))


def zeros(backbone=TINY, **options):
    """A network of zeros, in place of a fresh one."""
    shapes = fresh({"backbone": backbone, **options})
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def test_adapted_checkpoint_replaces_everything(layout_state, write):
    imported = convert.load(write(layout_state("clan")[0]))
    options = {"head": "two_heads", "aspp_dilations": FOUR}
    model, (params, state) = models.build(backbone=TINY, **options), zeros(**options)
    merged, merged_state = convert.overlay(params, state, imported)
    jax.tree.map(np.testing.assert_array_equal, merged, imported.params)
    jax.tree.map(np.testing.assert_array_equal, merged_state, imported.model_state)
    images = np.ones((1, 33, 33, 3), np.float32)
    outputs, _ = jax.jit(model.forward, static_argnums=3)(
        merged, merged_state, images, False
    )
    assert np.isfinite(outputs.logits).all()


def test_what_the_model_does_not_have_is_an_error_or_left_out_on_request(
    layout_state, write
):
    path = write(layout_state("maxsquare")[0])
    params, state = zeros(aspp_dilations=(6, 12))
    with pytest.raises(errors.InputError, match="unexpected 4: params/aux_head"):
        convert.overlay(params, state, convert.load(path))
    imported = convert.load(path, skip_aux_head=True, all_branches=True)
    with pytest.raises(errors.InputError, match="unexpected 4: params/head/conv2d_lis"):
        convert.overlay(params, state, imported)
    imported = convert.load(path, skip_aux_head=True)
    assert imported.info["arguments"]["head"] == "single"
    assert imported.info["ignored"]["layer5.conv2d_list.0.bias"] == (
        "a head, skipped on purpose"
    )
    merged, _ = convert.overlay(params, state, imported)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    kernel = merged["head"]["conv2d_list_1"]["kernel"]
    expected = imported.params["head"]["conv2d_list_1"]["kernel"]
    np.testing.assert_array_equal(kernel, expected)


def test_initialisation_file_leaves_the_heads_fresh(layout_state, write):
    imported = convert.load(write(layout_state("torchvision_resnet")[0]))
    options = {"head": "multi_level", "aspp_dilations": (6, 12, 18, 24)}
    params, state = zeros(num_classes=7, **options)
    merged, _ = convert.overlay(params, state, imported)
    jax.tree.map(np.testing.assert_array_equal, merged["aux_head"], params["aux_head"])
    jax.tree.map(np.testing.assert_array_equal, merged["head"], params["head"])
    body = imported.params["backbone"]
    jax.tree.map(np.testing.assert_array_equal, merged["backbone"], body)


def test_sixteen_classes_into_nineteen(layout_state, write):
    path = write(layout_state("lsr", classes=16)[0])
    params, state = zeros()
    imported = convert.load(path)
    with pytest.raises(errors.InputError, match="head has 16 classes, the model 19"):
        convert.overlay(params, state, imported)
    convert.save(path.with_name("folder"), imported)
    for place in (path, path.with_name("folder")):
        body = convert.load(place, skip_head=True)
        merged, _ = convert.overlay(params, state, body)
    jax.tree.map(np.testing.assert_array_equal, merged["head"], params["head"])


def test_missing_second_head_and_other_body(layout_state, write):
    imported = convert.load(write(layout_state("lsr")[0]))
    params, state = zeros(head="two_heads")
    with pytest.raises(errors.InputError, match="missing 4: params/aux_head"):
        convert.overlay(params, state, imported)
    params, state = zeros(models.Architecture(4, 4, (1, 1, 1, 1)))
    with pytest.raises(errors.InputError, match=r"unexpected 15: .*layer3_1"):
        convert.overlay(params, state, imported)


LAYOUTS = (
    *("adaptsegnet", "advent", "bdl", "clan", "f2a", "maxsquare", "oce", "lsr"),
    "cag",
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_export_then_import_is_bit_exact(layout_state, write, tmp_path, layout):
    state, _ = layout_state(layout)
    running = convert.load(write(state), layout=layout)
    convert.save(tmp_path / "folder", running)
    kept = convert.load(tmp_path / "folder")
    assert kept.info == running.info
    exported = tmp_path / "exported.safetensors"
    convert.export(kept, exported, layout=layout)
    arrays = weight_files.read(exported)
    assert set(arrays) == set(state)
    prefix = "module." if layout in ("maxsquare", "oce", "lsr") else ""
    for name in running.info["loaded"]:
        assert arrays[prefix + name].tobytes() == state[prefix + name].tobytes()
    again = convert.load(exported, layout=layout)
    jax.tree.map(np.testing.assert_array_equal, again[:2], running[:2])


@pytest.mark.parametrize("name", ["folder", "own.safetensors"])
def test_what_is_asked_of_converted_weights_is_checked(
    layout_state, write, tmp_path, name
):
    imported = convert.load(write(layout_state("lsr")[0]))
    convert.save(tmp_path / name, imported)
    for asked, message in (
        ({"layout": "advent"}, "has the layout lsr, expected advent"),
        ({"architecture": "daformer"}, "architecture deeplabv2, expected daformer"),
        ({"backbone": "resnet101"}, "has the backbone .*, expected resnet101"),
        ({"num_classes": 7}, "has the num_classes 19, expected 7"),
        ({"all_branches": True}, "without the ASPP branches that never run; convert"),
        ({"entry": "ema_model"}, "has one network, no 'ema_model'"),
    ):
        with pytest.raises(errors.InputError, match=f"{name}: .*{message}"):
            convert.load(tmp_path / name, **asked)
    same = {"layout": "lsr", "architecture": "deeplabv2", "num_classes": 19}
    assert convert.load(tmp_path / name, **same).info == imported.info


def test_branches_that_never_run_are_zeros(layout_state, write, tmp_path):
    imported = convert.load(write(layout_state("lsr")[0]))
    convert.export(imported, tmp_path / "e.safetensors", layout="lsr")
    arrays = weight_files.read(tmp_path / "e.safetensors")
    assert not arrays["module.clas.conv2d_list.2.weight"].any()
    assert arrays["module.clas.conv2d_list.1.weight"].all()


def test_layout_that_cannot_hold_the_network(layout_state, write, tmp_path):
    imported = convert.load(write(layout_state("clan")[0]))
    with pytest.raises(errors.InputError, match="cannot hold"):
        convert.export(imported, tmp_path / "e.safetensors", layout="lsr")
    assert not (tmp_path / "e.safetensors").exists()


def test_existing_places_are_not_overwritten(layout_state, write, tmp_path):
    path = write(layout_state("lsr")[0])
    imported = convert.load(path)
    with pytest.raises(errors.InputError, match="already exists"):
        convert.export(imported, path, layout="lsr")
    with pytest.raises(errors.InputError, match="already exists"):
        convert.save(tmp_path, imported)


def test_export_loads_into_a_fresh_torch_module(layout_state, write, tmp_path):
    """The module's outputs are the model's, so kernels and statistics landed right."""
    torch = pytest.importorskip("torch")
    imported = convert.load(write(layout_state("lsr")[0]))
    convert.export(imported, tmp_path / "lsr.pth", layout="lsr")
    state = torch.load(tmp_path / "lsr.pth", weights_only=True)["state_dict"]
    twin = _twin(torch)
    twin.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
    twin.eval()
    images = np.random.default_rng(0).standard_normal((1, 33, 41, 3)).astype(np.float32)
    with torch.no_grad():
        expected = twin(torch.from_numpy(images).permute(0, 3, 1, 2))
    model = models.build(**imported.info["arguments"])
    outputs, _ = model.forward(imported.params, imported.model_state, images, False)
    expected = expected.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-4)


def _twin(torch):
    """A small module of our own with the names of LSR's checkpoints."""
    import twins

    nn = torch.nn

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv2d_list = nn.ModuleList(
                nn.Conv2d(128, 19, 3, padding=d, dilation=d) for d in (6, 12, 18, 24)
            )

        def forward(self, x):
            return self.conv2d_list[0](x) + self.conv2d_list[1](x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(4)
            inner = 4
            for layer, count in enumerate((1, 1, 2, 1)):
                width, stride = 4 * 2**layer, 2 if layer == 1 else 1
                blocks = []
                for index in range(count):
                    first = index == 0
                    dilation = (1, 1, 2, 4)[layer]
                    stride = stride if first else 1
                    sizes = (inner, width, stride, dilation, first)
                    blocks.append(twins.Bottleneck(*sizes, caffe=True))
                    inner = 4 * width
                setattr(self, f"layer{layer + 1}", nn.Sequential(*blocks))
            self.clas = Head()

        def forward(self, x):
            x = self.bn1(self.conv1(x)).relu()
            x = nn.functional.max_pool2d(x, 3, 2, 1, ceil_mode=True)
            return self.clas(self.layer4(self.layer3(self.layer2(self.layer1(x)))))

    return Net()


BROKEN = {
    "not finite 1: params/backbone/layer1_0/conv1/kernel": (
        "layer1.0.conv1.weight",
        np.nan,
    ),
    "not finite 1: params/head/conv2d_list_1/bias": ("clas.conv2d_list.1.bias", np.inf),
    "variances below 0 1: model_state/backbone/bn1/var": ("bn1.running_var", -1),
}


@pytest.mark.parametrize("message", BROKEN)
def test_values_that_cannot_be_trained_are_refused(
    layout_state, write, tmp_path, message
):
    state, _ = layout_state("lsr")
    whole = convert.load(write(state))
    name, value = BROKEN[message]
    state[f"module.{name}"].flat[0] = value
    path = write(state)
    with pytest.raises(errors.InputError, match=message) as caught:
        convert.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    # A folder that was damaged after it was written.
    flat = names.flatten(whole.params, whole.model_state)
    flat[message.split()[-1]].flat[0] = value
    convert.save(tmp_path / "folder", whole)
    with pytest.raises(errors.InputError, match=message):
        convert.load(tmp_path / "folder")


PREFIXES = ("_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.a.")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers(layout_state, write, prefix):
    state, _ = layout_state("lsr")
    whole = convert.load(write(state))
    stripped = {name.removeprefix("module."): value for name, value in state.items()}
    other = convert.load(write({prefix + name: x for name, x in stripped.items()}))
    jax.tree.map(np.testing.assert_array_equal, other[:2], whole[:2])
    assert other.info["layout"] == "lsr"
