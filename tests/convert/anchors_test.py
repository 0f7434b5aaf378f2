"""CAG's anchors, bare or counted, tensors or arrays, into a file for the method."""

import os

import numpy as np
import pytest

from lsr_jax.convert import __main__ as command
from lsr_jax.methods import cag

torch = pytest.importorskip("torch")

VECTORS = np.random.default_rng(0).uniform(size=(19, 8))
VECTORS[17] = 0
COUNT = np.arange(19.0)
PRESENT = (COUNT != 17).astype(float)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (VECTORS, PRESENT),
        (torch.from_numpy(VECTORS.astype(np.float32)), PRESENT),
        ({"objective_vectors": VECTORS, "objective_num": COUNT}, COUNT),
        (
            {
                "objective_vectors": torch.from_numpy(VECTORS),
                "objective_num": COUNT.tolist(),
            },
            COUNT,
        ),
    ],
)
def test_the_method_reads_what_the_command_wrote(tmp_path, capsys, content, count):
    torch.save(content, tmp_path / "category_anchors")
    out = tmp_path / "anchors.npz"
    arguments = ["anchors", str(tmp_path / "category_anchors"), "--out", str(out)]
    assert command.main(arguments) == 0
    assert "18 of 19 classes, 8 channels" in capsys.readouterr().out
    vectors, found = cag.read_anchors(str(out), (19, 8))
    np.testing.assert_array_equal(vectors, VECTORS.astype(np.float32))
    np.testing.assert_array_equal(found, count)
    assert command.main(arguments) == 2
    assert "expected the name of a new .npz file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "expected an array of classes by channels"),
        (np.zeros(3), "expected an array of classes by channels"),
        (Malicious(), "refused"),
    ],
)
def test_other_files_are_one_line(tmp_path, capsys, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "file.pth")
    assert command.main(["anchors", "file.pth", "--out", "out.npz"]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]
