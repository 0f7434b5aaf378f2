"""No recorded number is left out in silence.

Every test of a golden names the keys it reads in its ``golden`` marker, and the fixture
in conftest fails where it reads fewer. Here all the markers of the tests together must
cover every key.
"""

import ast
import pathlib
import re

import numpy as np
import pytest

TESTS = pathlib.Path(__file__).parent
FILES = sorted(path.stem for path in (TESTS / "goldens").glob("*.npz"))

MARKER = "pytest.mark.golden"

ACCURACY = "accuracy of a training batch, which is not computed here"
PARTS_OF_A_STEP = {
    ".*__acc__.*": ACCURACY,
    ".*grad_l2__(source|fdist)_f64": "parts of the sum that is held at the step",
    ".*teacher_logits_f64": "its labels, their share and the teacher itself are held",
    "(?!.*_f64$).*(__loss__.*|grad_l2__(mix|masked))": "float32; held in float64",
}
PARTS_WITH_MASKS = {
    **PARTS_OF_A_STEP,
    ".*grad_l2__mix_f64": "part of the sum that is held at the step",
}

# {file: {pattern: why no test reads it}}
NOT_HELD = {
    "adaptsegnet": {
        "disc__conv_l2": "inside the discriminator; output and gradients are held",
    },
    "advent": {
        "disc__conv._l2": "inside the discriminator; output and gradients are held",
    },
    "cag": {
        "ce__bootstrap.*": "hard-pixel cross-entropy, not part of the method",
        "anchor_update__ma_.*": "a moving average that training never calls",
    },
    "clan": {
        "ce2d__n2__gamma.__mean__(value.*|grad_logits)": "beyond one image the "
        "original pairs pixels with classes of others; the right value is held",
    },
    "dacs": {
        "mixloss__mse__.*": "compares mixed images with unmixed labels; not offered",
    },
    "daformer_head": {".*__acc": ACCURACY},
    "daformer_mixing": {
        "jitter__.*_f64": "kornia turns hues with a pi of float32; held in float32",
    },
    "daformer_losses": {
        "resize__scale05__.*": "sides that 2 does not divide, which HRDA refuses",
    },
    "daformer_rcs": {
        r"draw\d+__target": "uniform, by numpy's legacy generator after the crops",
    },
    "daformer_loop": PARTS_OF_A_STEP,
    "hrda": {
        ".*acc_seg_f64": ACCURACY,
        "scale_box__out": "the box is scaled in the network, whose logits are held",
        "context_(image|logits).*|attention_logits.*|scaled_context_logits_f64": "inside "
        "the network; the fused logits, the detail's and every gradient are held",
        "eval__(fused|detail)_logits_f64": "inside; the enlarged logits are held",
        "(oneattention|fixed|lowloss|eval__nooverlap)__.*": "ablations, not offered",
        "slide__.*": "its windows overlap by half of the crop; see the windows' test",
    },
    "hrda_loop": PARTS_OF_A_STEP,
    "mic": {
        "(source|target)_images|labels|pseudo_(labels|weights)|param_names|separate.*": ""
        "the masked term is held in the whole iterations of mic_loop; masked source "
        "images are not offered",
    },
    "mic_loop": PARTS_WITH_MASKS,
    "mic_hrda_loop": PARTS_WITH_MASKS,
    "swd": {
        "toy__.*__seq__.*": "three updates and as many fresh passes a step would break "
        "the one train step; the same gradients taken at once are held",
    },
    "deeplab_lsr": {
        "(eval|train)__stage__(conv1|bn1|maxpool|layer[123])__.*": "inside the network, "
        "which returns layer4 and logits; both, and every gradient, are held",
        "train__bn_out__.*": "inside the network; its running statistics are held",
    },
    "deeplab_others": {
        ".*__eval__.*": "the body is that of deeplab_lsr, whose evaluation is held; the "
        "heads are held in training mode",
    },
}


def markers():
    """``(file, *patterns)`` of every ``@pytest.mark.golden``, without running a test."""
    for path in sorted(TESTS.rglob("*_test.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == MARKER:
                yield [ast.literal_eval(argument) for argument in node.args]


@pytest.mark.parametrize("file", FILES)
def test_every_key_of_a_golden_is_held_or_listed(file, golden_keys):
    with np.load(TESTS / "goldens" / f"{file}.npz") as arrays:
        assert set(arrays.files) == golden_keys[file].keys()
    held = [p for name, *patterns in markers() if name == file for p in patterns]
    listed = NOT_HELD.get(file, {})
    for key in golden_keys[file]:
        by_test = any(re.fullmatch(pattern, key) for pattern in held)
        by_list = any(re.fullmatch(pattern, key) for pattern in listed)
        assert by_test != by_list, f"{file}: {key}"
