"""The example of docs/your_data.md, executed; and descriptions with errors."""

import json
import pathlib
import re
import shlex

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from lsr_jax.configs import gta2cs
from lsr_jax.data import check, custom, prepare, records, sources
from lsr_jax.errors import InputError

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "your_data.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.S)
EXAMPLE = json.loads(next(body for kind, body in BLOCKS if kind == "json"))
COMMANDS = [
    shlex.split(line)
    for kind, body in BLOCKS
    if kind == "sh"
    for line in body.replace("\\\n", "").splitlines()
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder of the example, with its data and its description."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number, name in enumerate(re.findall(r"photos/(\S+)\.jpg +masks", TEXT)):
        image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        label = rng.choice(np.array([0, 1, 2, 3, 9], np.uint8), (60, 80))
        for path, pixels in (
            (f"data/ports/photos/{name}.jpg", image),
            (f"data/ports/masks/{name}.png", label),
        ):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / path)
        assert number < 3
    (tmp_path / "ports.json").write_text(json.dumps(EXAMPLE))
    return tmp_path


def domains(command):
    """The data of the config that the command asks for."""
    config = gta2cs.get_config(command[3].partition(":")[2])
    changes = [word.removeprefix("--config.") for word in command[4:]]
    flat = dict(change.split("=", 1) for change in changes)
    for key, value in flat.items():
        section, _, name = key.rpartition(".")
        part = config
        for word in section.split("."):
            part = part[word]
        assert name in part
        part[name] = (
            type(part[name])(eval(value)) if key[-4:] in ("size", "sses") else value
        )
    assert isinstance(config, ConfigDict)
    return sources.open_domains(
        config.data.to_dict(), num_classes=config.model.num_classes
    )


def test_the_example_of_the_documentation(folder, capsys):
    first, second, train = COMMANDS
    assert check.main([*first[3:], "--workers", "1"]) == 0
    assert "0 problems" in capsys.readouterr().out
    assert np.asarray(Image.open("sheet.png")).ndim == 3
    assert prepare.main([*second[3:], "--workers", "1"]) == 0
    source = domains(train)["source"]
    assert source.space.classes == ("water", "sky", "vessel")
    assert source.space.colors == ((0, 90, 160), (70, 130, 180), (220, 60, 20))
    opened = source.open("train")
    assert len(opened) == 2
    example = records.decode(opened[0], labelled=True)
    raw = Image.open("data/ports/masks/harbour/0001.png").resize(
        (64, 48), Image.NEAREST
    )
    expected = np.array([255, 0, 1, 2] + [255] * 6, np.uint8)[np.asarray(raw)]
    np.testing.assert_array_equal(example["label"], expected)
    image = Image.open("data/ports/photos/harbour/0001.jpg").resize(
        (64, 48), Image.BICUBIC
    )
    np.testing.assert_array_equal(example["image"], image)


def test_ids_with_the_names_of_cityscapes_take_its_classes(tmp_path):
    path = tmp_path / "mine.json"
    changed = {**EXAMPLE, "ids": {"1": "car", "2": "road", "3": "car"}, "palette": {}}
    path.write_text(json.dumps(changed))
    layout = custom.find_layout(str(path))
    space = sources.label_space({"space": "cityscapes13"}, layout)
    assert space.num_classes == 13
    assert space.encode(np.arange(5, dtype=np.uint8)).tolist() == [255, 9, 0, 9, 255]


def test_a_space_without_any_of_the_classes_is_an_error(tmp_path):
    path = tmp_path / "mine.json"
    ids = {"1": "terrain", "2": "truck", "3": "vessel"}
    changed = {**EXAMPLE, "ids": ids, "palette": {"vessel": [220, 60, 20]}}
    path.write_text(json.dumps({**changed, "classes": ["terrain", "truck"]}))
    layout = custom.find_layout(str(path))
    with pytest.raises(
        InputError, match=r"cityscapes13, found terrain, truck; set .*''"
    ):
        sources.label_space({"space": "cityscapes13"}, layout)
    sources.label_space({"space": "cityscapes"}, layout)
    path.write_text(json.dumps(changed))
    with pytest.raises(InputError, match=r"sky, .*bicycle\), found vessel; rename"):
        sources.label_space({"space": "cityscapes"}, custom.find_layout(str(path)))


def test_names_of_cityscapes_itself_are_known(tmp_path):
    path = tmp_path / "mine.json"
    ids = {"7": "Road", "19": "traffic light", "20": "traffic_sign", "9": "parking"}
    palette = {"traffic sign": [1, 2, 3], "parking": [4, 5, 6]}
    path.write_text(
        json.dumps({**EXAMPLE, "ids": ids, "palette": palette, "ignored": []})
    )
    layout = custom.find_layout(str(path))
    assert layout.classes == ("road", "light", "sign", "parking")
    assert layout.colors[1:] == ((250, 170, 30), (1, 2, 3), (4, 5, 6))
    space = sources.label_space({"space": "cityscapes"}, layout)
    found = {i: space.classes[c] for i, c in enumerate(space.lut) if c < 255}
    assert found == {7: "road", 19: "light", 20: "sign"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splits": {}}, "splits: expected a value"),
        ({"splits": {"Train!": {"images": "*.jpg"}}}, "splits: expected names of"),
        ({"splits": {"all": {"images": "*.jpg"}}}, "and not 'all'"),
        ({"splits": {"a": {"images": "x.jpg"}}}, r"a\.images: expected a pattern"),
        ({"splits": {"a": {"image": "*.jpg"}}}, r"a\.image: expected one of the keys"),
        ({"splits": {"a": {"images": "*.jpg", "labels": "*/*.png"}}}, "the stars of"),
        ({"label_format": "gray"}, "label_format: expected palette or grey or red16"),
        ({"ids": {"256": "sky"}}, "ids: expected ids of 0-255, found '256'"),
        ({"ids": {"x": "sky"}}, "ids: expected ids of 0-255, found 'x'"),
        (
            {"classes": ["sea"]},
            "classes: expected names that occur in ids, found 'sea'",
        ),
        ({"palette": {}}, r"palette\.water: expected \[red, green, blue\]"),
        ({"palete": {}}, "palete: expected one of the keys"),
        ({"ignored": "9"}, "ignored: expected a list"),
        ({"ignored": [[1]]}, "ignored: expected ids of 0-255"),
        ({"palette": {"water": 5}}, r"palette\.water: expected \[red, green, blue\]"),
        ({"palette": {"water": [True, 0, 0]}}, r"palette\.water: expected \[red"),
        ({"palette": None}, r"palette\.water: expected \[red, green, blue\]"),
        ({"classes": [["water"]]}, "classes: expected names of classes"),
        ({"classes": ["water", "water"]}, "classes: expected every name once"),
        ({"ids": {"9" * 5000: "sky"}}, "ids: expected ids of 0-255, found '999"),
        ({"ids": {"7": "sky", "07": "sea"}}, "ids: expected ids of 0-255, found '07'"),
        ({"ids": {"7": 5}}, "ids: expected names of classes, found 5"),
        (
            {"ids": {str(i): str(i) for i in range(256)}},
            "classes: expected at most 255",
        ),
        ({"a\nb": 1}, "a b: expected one of the keys"),
        ({"splits": {"a": {"images": "/abs/*.png"}}}, "below the data folder"),
        ({"splits": {"a": {"images": "i/a**.png"}}}, "with single stars"),
        ({"splits": {"a": {"images": "{..,i}/*.png"}}}, "below the data folder"),
    ],
)
def test_bad_descriptions_name_the_key(change, message, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**EXAMPLE, **change}))
    with pytest.raises(InputError, match=f"^{path}: .*{message}") as caught:
        custom.read(path)
    assert "\n" not in str(caught.value)


def test_no_description(tmp_path):
    with pytest.raises(InputError, match="expected the description"):
        custom.find_layout(str(tmp_path / "none.json"))
    for content in ("{", "[" * 100_000, "1" * 5000, "[]"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(InputError, match="expected the description"):
            custom.find_layout(str(tmp_path / "bad.json"))


def test_null_means_no_entry(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**EXAMPLE, "ignored": None, "classes": None}))
    layout = custom.read(path)
    assert layout.ignored == frozenset()
    assert set(layout.classes) == set(EXAMPLE["ids"].values())
