"""`python -m lsr_jax.streets`: the contact sheet, preparation, wrong arguments."""

import cv2
import numpy as np
import pytest

from lsr_jax import streets
from lsr_jax.streets import __main__ as command_line
from lsr_jax.streets import dataset


def test_contact_sheet_holds_the_pairs_it_is_asked_for(tmp_path):
    path = tmp_path / "sheet.png"
    arguments = f"--contact_sheet {path} --preset tiny --pairs 2 --size 96x48".split()
    assert command_line.main(arguments) == 0
    sheet = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    # Two rows of four pictures, each with a gap; 19 names in columns of 90 pixels.
    assert sheet.shape == (2 * 52 + 5 * 18, 4 * 100, 3)
    image, _ = streets.draw(
        1,
        domain="camera",
        split="train",
        preset=streets.PRESETS["tiny"],
        size=(48, 96),
    )
    np.testing.assert_array_equal(sheet[52:100, 200:296], image)


def test_prepare_prints_the_folder(tmp_path, capsys, monkeypatch):
    calls = []

    def prepare(preset, **options):
        calls.append((preset.name, options))
        return tmp_path / "done"

    monkeypatch.setattr(dataset, "prepare", prepare)
    arguments = ["--prepare", "--preset", "large", "--workers", "3"]
    assert command_line.main([*arguments, "--data_dir", str(tmp_path)]) == 0
    assert calls == [("large", {"data_dir": tmp_path, "workers": 3})]
    assert capsys.readouterr().out == f"{tmp_path / 'done'}\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", "give either --contact_sheet PNG or --prepare"),
        ("--prepare --preset street", "--preset=street: value should be one of"),
        ("--prepare --workers 0", "--workers=0"),
        ("--contact_sheet x.png --size 96", "expected WIDTHxHEIGHT"),
        ("--contact_sheet x.png --size 8x8", "expected 32 pixels or more"),
        ("--contact_sheet /no/such/folder/x.png", "/no/such/folder/x.png"),
        ("--contact_sheet x.txt", "x.txt: expected a .png file"),
        ("--prepare --nonsense", "flag 'nonsense'"),
        ("--prepare --pairs 3", "--pairs: --prepare does not use it"),
        (
            "--contact_sheet x.png --workers 2",
            "--workers: --contact_sheet does not use",
        ),
    ],
)
def test_wrong_arguments_give_one_line_and_code_2(arguments, named, capsys):
    assert command_line.main(arguments.split()) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert named in message
