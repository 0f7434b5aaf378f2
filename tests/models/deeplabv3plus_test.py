"""DeepLabV3+ against a live twin in PyTorch; its dropout; its groups of parameters."""

import copy
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax import convert, errors, models
from lsr_jax.convert import weight_files
from lsr_jax.training import optimizer

WIDTHS = {"stem": 8, "width": 8, "blocks": (1, 1, 1, 3)}
TINY = models.Architecture(**WIDTHS)
SIZE = (61, 74)


def build(**options):
    fixed = {"backbone": TINY, "num_classes": 5, "aspp_dilations": (6, 12, 18)}
    return models.build(architecture="deeplabv3plus", **fixed | options)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((3, *SIZE, 3))


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """A network of random weights in PyTorch, and the file that it saved."""
    pytest.importorskip("torch")
    import torch
    import twins

    torch.manual_seed(0)
    network = twins.DeepLabV3Plus(**WIDTHS, num_classes=5)
    for name, tensor in network.state_dict().items():
        if name.endswith(("bn.bias", "running_mean")):
            tensor.normal_(std=0.1)
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("twin") / "cag.pth"
    arrays = {name: x.numpy().copy() for name, x in network.state_dict().items()}
    weight_files.write(path, arrays, wrapped=("DeepLab", "model_state"))
    return network.double(), convert.load(path)


def torch_names(tree, twin):
    """The names of the twin's tensors in the shape of our tree."""
    named = {path: name for name, path in twin[1].info["loaded"].items()}

    def leaf(path, _):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        return named[path]

    return jax.tree_util.tree_map_with_path(leaf, tree)


@pytest.mark.slow
def test_training_is_that_of_the_twin(twin, images):
    """Outputs, gradients and running statistics in float64."""
    import torch

    network, (params, model_state, _) = twin
    network = copy.deepcopy(network).train()
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    features, logits = (x.permute(0, 2, 3, 1) for x in network(batch))
    (features.square().mean() + logits.sin().mean()).backward()
    gradients = {name: x.grad.numpy() for name, x in network.named_parameters()}
    after = {name: x.numpy() for name, x in network.state_dict().items()}

    def loss(params, model_state, images):
        outputs, moved = model.forward(params, model_state, images, True)
        value = jnp.square(outputs.features).mean() + jnp.sin(outputs.logits).mean()
        return value, (outputs, moved)

    model = build(dtype="float64")
    with jax.enable_x64(True):
        step = jax.jit(jax.grad(loss, has_aux=True))
        found, (outputs, moved) = step(params, model_state, images)
    assert outputs.features.dtype == jnp.float64
    assert np.asarray(outputs.features).min() == 0
    for ours, theirs in ((outputs.features, features), (outputs.logits, logits)):
        theirs = theirs.detach().numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-9 * np.abs(theirs).max())

    def close(leaf, name, torch_side):
        theirs = torch_side[name]
        theirs = theirs.transpose(2, 3, 1, 0) if theirs.ndim == 4 else theirs
        error = np.abs(np.asarray(leaf, np.float64) - theirs).max()
        assert error <= 1e-6 * np.abs(theirs).max() + 1e-12, name

    # Gradients and statistics of float32 leaves are rounded to float32.
    for trees, theirs in (
        ({"params": found}, gradients),
        ({"model_state": moved}, after),
    ):
        close_to = functools.partial(close, torch_side=theirs)
        jax.tree.map(close_to, trees, torch_names(trees, twin))


def test_evaluation_in_float32_is_close_to_the_twin(twin, images):
    import torch

    network, (params, model_state, _) = twin
    network.eval()
    with torch.no_grad():
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        expected = [x.permute(0, 2, 3, 1).numpy() for x in network(batch)]
    forward = jax.jit(build().forward, static_argnums=3)
    outputs, _ = forward(params, model_state, images.astype(np.float32), False)
    for ours, theirs in zip(outputs[:2], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_dropout_is_drawn_from_the_key(images):
    """Evaluation without dropout is that of the twin, above."""
    one_block = models.Architecture(8, 8, (1, 1, 1, 1))
    model = build(backbone=one_block, initialisation="released")
    params, state = model.init(jax.random.key(0), SIZE)
    images = images.astype(np.float32)
    forward = jax.jit(model.forward, static_argnums=3)
    keys = [jax.random.key(i) for i in range(2)]
    plain, _ = forward(params, state, images, True)
    dropped, _ = forward(params, state, images, True, keys[0])
    again, _ = forward(params, state, images, True, keys[0])
    other, _ = forward(params, state, images, True, keys[1])
    chex.assert_trees_all_equal(dropped, again)
    assert np.abs(dropped.features - other.features).max() > 0.1
    # A tenth of what was positive is 0, beside the half that ReLU leaves.
    share = [float((x.features > 0).mean()) for x in (plain, dropped)]
    assert 0.85 < share[1] / share[0] < 0.95
    kernel, bias = (params["head"]["classifier"][name] for name in ("kernel", "bias"))
    logits = dropped.features @ kernel[0, 0] + bias
    np.testing.assert_allclose(dropped.logits, logits, atol=1e-4)


def test_sizes_and_initial_weights():
    model = models.build(
        backbone="resnet101",
        architecture="deeplabv3plus",
        aspp_dilations=(6, 12, 18),
        initialisation="released",
    )
    assert model.feature_dim == 256
    assert model.feature_size((512, 896)) == (128, 224)
    shapes = jax.eval_shape(lambda key: model.init(key, (512, 896)), jax.random.key(0))
    assert shapes[0]["head"]["fused"]["conv"]["kernel"].shape == (1, 1, 1280, 256)
    assert shapes[0]["head"]["decoder1"]["conv"]["kernel"].shape == (3, 3, 304, 256)
    outputs, _ = jax.eval_shape(
        lambda *trees: model.forward(*trees, jnp.zeros((1, 512, 896, 3)), False),
        *shapes,
    )
    chex.assert_shape(outputs.features, (1, 128, 224, 256))
    chex.assert_shape(outputs.logits, (1, 128, 224, 19))

    small = build(initialisation="released")
    params, _ = small.init(jax.random.key(0), SIZE)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("kernel"):
            expected = (2 / np.prod(leaf.shape[:3])) ** 0.5
            np.testing.assert_allclose(leaf.std(), expected, rtol=4 * leaf.size**-0.5)
        elif name == "head/classifier/bias":
            assert 0 < np.abs(leaf).max() <= 32**-0.5
        else:
            np.testing.assert_array_equal(leaf, float(name.endswith("scale")))


@pytest.mark.parametrize("frozen_affine", [False, True])
def test_every_parameter_has_a_group(frozen_affine):
    batch_norm = "frozen_affine" if frozen_affine else "train"
    model = build(batch_norm=batch_norm)
    params, _ = jax.eval_shape(lambda key: model.init(key, SIZE), jax.random.key(0))
    groups = optimizer.model_groups(head_multiplier=1.0, frozen=model.frozen_paths)
    named = optimizer.labels({"model": params}, groups)
    chosen = {path: groups[int(index)] for path, index in flat(named).items()}
    affine = {p for p in chosen if p.split("/")[-1] in ("scale",)}
    for path, group in chosen.items():
        still = frozen_affine and path.rsplit("/", 1)[0] + "/scale" in affine
        assert group.multiplier == (None if still else 1.0), path
        assert group.repeats == 1


def flat(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "deeplabv3"}, "architecture: expected one of deeplabv2"),
        ({"head": "two_heads"}, "deeplabv3plus has a 'single' one"),
        ({"backbone": "vgg16"}, "backbone: deeplabv3plus needs layer1 of a ResNet"),
    ],
)
def test_bad_arguments_are_one_line(options, message):
    arguments = {"backbone": TINY, "architecture": "deeplabv3plus", **options}
    with pytest.raises(errors.InputError, match=message):
        models.build(**arguments)
