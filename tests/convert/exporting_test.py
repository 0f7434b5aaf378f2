"""Export and back, bit for bit, and into a PyTorch module of LSR's names."""

import jax
import numpy as np
import pytest

from lsr_jax import convert, errors, models
from lsr_jax.convert import files

LAYOUTS = (
    *("adaptsegnet", "advent", "bdl", "clan", "f2a", "maxsquare", "oce", "lsr"),
    "cag",
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_export_then_import_is_bit_exact(layout_state, write, tmp_path, layout):
    state, _ = layout_state(layout)
    imported = convert.load(write(state), layout=layout)
    running = convert.running_branches(imported)
    convert.save(tmp_path / "folder", running)
    kept = convert.load(tmp_path / "folder")
    assert kept.info == running.info
    exported = tmp_path / "exported.safetensors"
    convert.export(kept, exported, layout=layout)
    arrays = files.read(exported).arrays
    assert set(arrays) == set(state)
    prefix = "module." if layout in ("maxsquare", "oce", "lsr") else ""
    for name in running.info["loaded"]:
        assert arrays[prefix + name].tobytes() == state[prefix + name].tobytes()
    again = convert.running_branches(convert.load(exported, layout=layout))
    jax.tree.map(np.testing.assert_array_equal, again[:2], running[:2])


def test_branches_that_never_run_are_zeros(layout_state, write, tmp_path):
    imported = convert.load(write(layout_state("lsr")[0]))
    convert.export(
        convert.running_branches(imported), tmp_path / "e.safetensors", layout="lsr"
    )
    arrays = files.read(tmp_path / "e.safetensors").arrays
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
    imported = convert.running_branches(convert.load(write(layout_state("lsr")[0])))
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
