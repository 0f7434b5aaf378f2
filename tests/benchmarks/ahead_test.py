"""The HLO parser on programs written by hand, and the command on a TPU that is absent."""

import collections
import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import ahead, hlo, steps
from lsr_jax.errors import InputError
from lsr_jax.training import sharding

PROGRAM = """
HloModule jit_step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %add = f32[]{:T(128)} add(%a, %b)
}

%fused (p0: bf16[1,8,8,3], p1: f32[3,3,3,16]) -> bf16[1,8,8,16] {
  %p0 = bf16[1,8,8,3]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = f32[3,3,3,16]{3,2,1,0:T(8,128)} parameter(1)
  ROOT %conv = bf16[1,8,8,16]{3,2,1,0:T(8,128)(2,1)} convolution(%p0, %p1), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name="jit(step)/jvp(Net)/conv1/conv_general_dilated" stack_frame_id=1}
}

%turned (p: f32[600,700]) -> f32[700,600] {
  %p = f32[600,700]{1,0:T(8,128)} parameter(0)
  ROOT %t = f32[700,600]{1,0:T(8,128)} transpose(%p), dimensions={1,0}
}

%once (state: (s32[], f32[700,600])) -> pred[] {
  %state = (s32[]{:T(128)}, f32[700,600]{1,0:T(8,128)}) parameter(0)
  %index = s32[]{:T(128)} get-tuple-element(%state), index=0
  %limit = s32[]{:T(128)} constant(1)
  ROOT %lt = pred[]{:T(512)} compare(%index, %limit), direction=LT
}

%body (s: (s32[], f32[700,600])) -> (s32[], f32[700,600]) {
  %s = (s32[]{:T(128)}, f32[700,600]{1,0:T(8,128)}) parameter(0)
  %g = f32[700,600]{1,0:T(8,128)} get-tuple-element(%s), index=1
  %c = f32[700,600]{0,1:T(8,128)} copy(%g)
  ROOT %r = (s32[]{:T(128)}, f32[700,600]{1,0:T(8,128)}) tuple(%g, %c)
}

ENTRY %main (x: bf16[1,8,8,3], k: f32[3,3,3,16], m: f32[600,700]) -> f32[16] {
  %x = bf16[1,8,8,3]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %k = f32[3,3,3,16]{3,2,1,0:T(8,128)} parameter(1)
  %m = f32[600,700]{1,0:T(8,128)} parameter(2)
  %f = bf16[1,8,8,16]{3,2,1,0:T(8,128)(2,1)} fusion(%x, %k), kind=kOutput, calls=%fused, metadata={op_name="jit(step)/jvp(Net)/conv1"}
  %turn = f32[700,600]{1,0:T(8,128)} fusion(%m), kind=kLoop, calls=%turned, metadata={op_name="jit(step)/transpose"}
  %start = (f32[600,700]{1,0:T(8,128)S(1)}, f32[600,700]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%m)
  %done = f32[600,700]{1,0:T(8,128)S(1)} copy-done(%start)
  %loop = (s32[]{:T(128)}, f32[700,600]{1,0:T(8,128)}) while(%init), condition=%once, body=%body
  %call = (f32[4]{0}, u8[0]{0}) custom-call(%x, %m), custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/conv2/conv_general_dilated"}
  %both = (f32[16]{0:T(128)}, f32[32]{0:T(128)}) all-reduce(%v, %w), channel_id=1, replica_groups=mesh['axis_0'=4] {'axis_0'}, to_apply=%sum
  %one = f32[16]{0:T(128)} all-reduce(%v), channel_id=2, replica_groups={{0,1}}, to_apply=%sum
  %many = (f32[16]{0}, f32[64]{0}) all-gather-start(%one), dimensions={0}
  ROOT %gathered = f32[64]{0} all-gather-done(%many)
}
"""


@pytest.fixture(scope="module")
def program():
    return hlo.parse(PROGRAM)


def test_instructions_have_shapes_operands_calls_and_names(program):
    assert program.entry == "main"
    named = {line.name: line for line in program.computations["main"]}
    assert named["f"].opcode == "fusion"
    assert named["f"].operands == ("x", "k")
    assert named["f"].calls == ("fused",)
    assert named["f"].op_name == "jit(step)/jvp(Net)/conv1"
    assert [str(shape) for shape in named["both"].shapes] == ["f32[16]", "f32[32]"]
    assert named["loop"].calls == ("body",)


def test_bytes_with_and_without_the_padding_of_tiles():
    (shape,) = (
        hlo.parse(
            "ENTRY %m (x: s32[]) -> f32[] {\n"
            "  %y = bf16[1,720,1280,19]{3,2,1,0:T(8,128)(2,1)} copy(%x)\n}"
        )
        .computations["m"][0]
        .shapes
    )
    assert shape.bytes == 720 * 1280 * 19 * 2
    assert shape.padded_bytes == 720 * 1280 * 128 * 2
    minor_columns = shape._replace(order=(2, 1, 3, 0))
    assert minor_columns.padded_bytes == shape.bytes
    assert hlo.Shape("pred", ()).padded_bytes == 1
    assert hlo.Shape("f32", (130,), (0,), (128,)).padded_bytes == 4 * 256


def test_collectives_count_each_start_once_and_its_result_only(program):
    assert hlo.collectives(program) == {
        "all-reduce": (2, 4 * (16 + 32 + 16), 4 * (16 + 32)),
        "all-gather": (1, 4 * 64, 4 * 64),
    }


def test_products_are_found_in_fusions_and_library_calls(program):
    inside, library = hlo.products(program)
    assert [shape.dtype for shape in inside[1]] == ["bf16", "f32"]
    assert library[0].opcode == "__cudnn$convForward"
    assert [str(shape) for shape in library[1]] == ["bf16[1,8,8,3]", "f32[600,700]"]


def test_moves_are_copies_and_fusions_of_nothing_else(program):
    """Also those in a loop; a prefetch keeps the layout."""
    assert [line.name for line in hlo.moves(program)] == ["turn", "c"]


def test_arrays_are_read_and_written_once_by_each_instruction(program):
    image, kernel, matrix = 2 * 8 * 8 * 3, 4 * 3 * 3 * 3 * 16, 4 * 600 * 700
    lines = {
        "f": image + kernel + 2 * 8 * 8 * 16,
        "turn": 2 * matrix,
        "c": 2 * matrix,
        "call": image + matrix + 4 * 4,
        "both": 4 * (16 + 32),
        "one": 4 * 16,
        "many": 4 * (16 + 16 + 64),
        "gathered": 4 * (16 + 64 + 64),
    }
    assert hlo.accessed(program) == sum(lines.values())


LOOP = """
%below (n: s32[]) -> pred[] {
  %m = s32[] parameter(0)
  %forty = s32[] constant(40)
  ROOT %less = pred[] compare(%m, %forty), direction=LT
}

%cond (s: (s32[], f32[40,8], f32[40,8])) -> pred[] {
  %t = (s32[], f32[40,8]{1,0}, f32[40,8]{1,0}) parameter(0)
  %k = s32[] get-tuple-element(%t), index=0
  ROOT %on = pred[] fusion(%k), kind=kLoop, calls=%below
}

%cut (p: f32[40,8], i: s32[]) -> f32[8] {
  %p = f32[40,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %flat = f32[320]{0} bitcast(%p)
  %part = f32[8]{0} dynamic-slice(%flat, %i), dynamic_slice_sizes={8}
  ROOT %twice = f32[8]{0} add(%part, %part)
}

%put (to: f32[40,8], at: s32[], row: f32[8]) -> f32[40,8] {
  %row = f32[8]{0} parameter(2)
  %at = s32[] parameter(1)
  %to = f32[40,8]{1,0} parameter(0)
  %line = f32[1,8]{1,0} bitcast(%row)
  ROOT %new = f32[40,8]{1,0} dynamic-update-slice(%to, %line, %at, %at)
}

%body (s: (s32[], f32[40,8], f32[40,8])) -> (s32[], f32[40,8], f32[40,8]) {
  %s = (s32[], f32[40,8]{1,0}, f32[40,8]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%s), index=0
  %in = f32[40,8]{1,0} get-tuple-element(%s), index=1
  %out = f32[40,8]{1,0} get-tuple-element(%s), index=2
  %row.1 = f32[8]{0} fusion(%in, %n), kind=kLoop, calls=%cut
  %call = (f32[8]{0}, s8[1000]{0}) custom-call(%row.1, %row.1), custom_call_target="__cublas$gemm"
  %got = f32[8]{0} get-tuple-element(%call), index=0
  %out.1 = f32[40,8]{1,0} fusion(%out, %n, %got), kind=kLoop, calls=%put
  ROOT %r = (s32[], f32[40,8]{1,0}, f32[40,8]{1,0}) tuple(%n, %in, %out.1)
}

ENTRY %main (a: f32[40,8]) -> f32[40,8] {
  %a = f32[40,8]{1,0} parameter(0)
  %start = (s32[], f32[40,8]{1,0}, f32[40,8]{1,0}) tuple(%a, %a, %a)
  %loop = (s32[], f32[40,8]{1,0}, f32[40,8]{1,0}) while(%start), condition=%cond, body=%body
  ROOT %end = f32[40,8]{1,0} get-tuple-element(%loop), index=2
}
"""


def test_a_loop_counts_as_often_as_it_runs_and_a_slice_its_own_bytes():
    """So does what is written to a slice; a library's memory to work in is not counted."""
    loop = hlo.parse(LOOP)
    row, number = 4 * 8, 4
    cut, call, put = 2 * row + number, 2 * row, 2 * row + number
    assert hlo.accessed(loop) == 40 * (cut + call + put)
    assert len(hlo.products(loop)) == 40
    with pytest.raises(ValueError, match="one limit in the condition of loop, found 0"):
        hlo.accessed(hlo.parse(LOOP.replace("constant(40)", "negate(%m)")))


def test_convolutions_of_a_loop_are_traced_as_often_as_it_runs():
    def convolve(x):
        return jax.lax.conv(x, jnp.ones((2, 2, 1, 1)), (1, 1), "SAME")

    def step(x):
        return jax.lax.scan(lambda x, _: (convolve(convolve(x)), None), x, length=3)[0]

    jaxpr = jax.make_jaxpr(lambda x: convolve(step(x)))(jnp.ones((1, 2, 4, 4)))
    assert ahead.convolutions(jaxpr) == 7


def test_faults_name_what_and_where(program):
    setting = steps.Setting("lsr", (20, 20), (10, 20), dtype="bfloat16")
    found = ahead.faults(program, setting, expected=1)
    assert sorted((entry["fault"], entry["count"]) for entry in found) == [
        *(("large", 1), ("large", 1)),
        *(("move", 1), ("move", 1)),
        *(("product", 1), ("product", 1)),
        ("recomputed", 1),
    ]
    product = next(e for e in found if e["where"].startswith("jvp(Net)"))
    assert product["what"] == "bf16[1,8,8,3] x f32[3,3,3,16]"
    quiet = ahead.faults(program, setting._replace(dtype="float32"), expected=2)
    assert {entry["fault"] for entry in quiet} == {"move", "large"}


def test_text_without_a_program():
    with pytest.raises(ValueError, match="found no line that begins with ENTRY"):
        hlo.parse("HloModule empty")


def test_a_topology_is_a_known_chip_with_a_size():
    with pytest.raises(InputError, match=r"expected one of v5e, .* found 'tpu:2x2'"):
        ahead.mesh_of("tpu:2x2")


def test_mic_is_compiled_with_its_own_network():
    setting = steps.Setting(steps.MIC, (128, 128), (128, 128), backbone="mit_mini")
    network = steps.Program(setting, sharding.make_mesh(1)).model.arguments
    assert (network["architecture"], network["detail"]) == ("daformer", 0.5)


@pytest.mark.long
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu")
def test_mini_for_four_chips(tmp_path):
    """In a process of its own: this one has devices already.

    One all-reduce sums all gradients; the others are statistics of BatchNorm and sums of
    the loss. docs/performance.md explains the faults.
    """
    file = tmp_path / "numbers.json"
    sizes = ["--source_size=192x96", "--target_size=192x96"]
    command = ["-m", "benchmarks.ahead", "--quick", "--topology=v5e:2x2", *sizes]
    subprocess.run(
        [sys.executable, *command, f"--json={file}"],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    numbers = json.loads(file.read_text())
    assert numbers["fits"]
    assert set(numbers["collectives"]) == {"all-reduce"}
    traffic = numbers["collectives"]["all-reduce"]
    assert traffic["count"] <= 75
    assert traffic["largest_megabytes"] > 0.9 * traffic["megabytes"]
    kinds = collections.Counter()
    for fault in numbers["faults"]:
        kinds[fault["fault"]] += fault["count"]
    assert set(kinds) == {"move", "product"}
    assert kinds["move"] <= 10
    assert kinds["product"] <= 16
