"""Imported weights over a fresh model: by name, and nothing by accident."""

import jax
import numpy as np
import pytest

from lsr_jax import convert, errors, models

TINY = models.Architecture(4, 4, (1, 1, 2, 1))


@pytest.fixture
def fresh():
    def build(**options):
        model = models.build(backbone=TINY, **options)
        return model, *model.init(jax.random.key(0), (33, 33))

    return build


def test_adapted_checkpoint_replaces_everything(layout_state, write, fresh):
    imported = convert.load(write(layout_state("clan")[0]))
    model, params, state = fresh(head="two_heads", aspp_dilations=(6, 12, 18, 24))
    merged, merged_state = convert.overlay(params, state, imported)
    jax.tree.map(np.testing.assert_array_equal, merged, imported.params)
    jax.tree.map(np.testing.assert_array_equal, merged_state, imported.model_state)
    images = np.ones((1, 33, 33, 3), np.float32)
    outputs, _ = jax.jit(model.forward, static_argnums=3)(
        merged, merged_state, images, False
    )
    assert np.isfinite(outputs.logits).all()


def test_model_takes_the_branches_and_heads_that_it_runs(layout_state, write, fresh):
    imported = convert.load(write(layout_state("maxsquare")[0]))
    _, params, state = fresh(aspp_dilations=(6, 12))
    merged, _ = convert.overlay(params, state, imported)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    kernel = merged["head"]["conv2d_list_1"]["kernel"]
    expected = imported.params["head"]["conv2d_list_1"]["kernel"]
    np.testing.assert_array_equal(kernel, expected)


def test_initialisation_file_leaves_the_heads_fresh(layout_state, write, fresh):
    imported = convert.load(write(layout_state("torchvision_resnet")[0]))
    options = {"head": "multi_level", "aspp_dilations": (6, 12, 18, 24)}
    _, params, state = fresh(num_classes=7, **options)
    merged, _ = convert.overlay(params, state, imported)
    jax.tree.map(np.testing.assert_array_equal, merged["aux_head"], params["aux_head"])
    jax.tree.map(np.testing.assert_array_equal, merged["head"], params["head"])
    body = imported.params["backbone"]
    jax.tree.map(np.testing.assert_array_equal, merged["backbone"], body)


def test_sixteen_classes_into_nineteen(layout_state, write, fresh):
    imported = convert.load(write(layout_state("lsr", classes=16)[0]))
    _, params, state = fresh()
    with pytest.raises(errors.InputError, match="head has 16 classes, the model 19"):
        convert.overlay(params, state, imported)
    merged, _ = convert.overlay(params, state, imported, skip_head=True)
    jax.tree.map(np.testing.assert_array_equal, merged["head"], params["head"])


def test_missing_second_head_and_other_body(layout_state, write, fresh):
    imported = convert.load(write(layout_state("lsr")[0]))
    _, params, state = fresh(head="two_heads")
    with pytest.raises(errors.InputError, match="missing 4: params/aux_head"):
        convert.overlay(params, state, imported)
    deeper = models.build(backbone=models.Architecture(4, 4, (1, 1, 1, 1)))
    params, state = deeper.init(jax.random.key(0), (33, 33))
    with pytest.raises(errors.InputError, match=r"unexpected 15: .*layer3_1"):
        convert.overlay(params, state, imported)


def test_preprocessing_must_agree_unless_allowed(layout_state, write):
    info = convert.load(write(layout_state("torchvision_resnet")[0])).info
    convert.check_preprocessing(info, "imagenet")
    convert.check_preprocessing(info, "caffe", allow=True)
    with pytest.raises(errors.InputError, match=r"'imagenet' input.*'caffe'"):
        convert.check_preprocessing(info, "caffe")
