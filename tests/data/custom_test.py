"""The example of docs/your_data.md, executed; and descriptions with errors."""

import json
import pathlib
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from lsr_jax import cli
from lsr_jax.data import (
    check,
    custom,
    image_io,
    listing,
    prepare,
    records,
    sources,
)
from lsr_jax.data.archives import Folder
from lsr_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "your_data.md").read_text()
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


def test_the_example_of_the_documentation(folder, capsys):
    first, second, train = COMMANDS[:3]
    assert check.main([*first[3:], "--workers", "1"]) == 0
    assert "0 problems" in capsys.readouterr().out
    assert np.asarray(Image.open("sheet.png")).ndim == 3
    assert prepare.main([*second[3:], "--workers", "1"]) == 0
    config = cli.read_config(f"{ROOT}/{train[3]}", train[4:])
    domains = sources.open_domains(
        config["data"], num_classes=config["model"]["num_classes"]
    )
    assert len(domains["target"].open(config["data"]["target"]["train"])) == 1
    source = domains["source"]
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
        (
            {"label_format": "gray"},
            "label_format: expected palette or grey or red16 or colors",
        ),
        ({"ids": {"256": "sky"}}, "ids: expected ids of 0-255, found '256'"),
        ({"ids": {"x": "sky"}}, "ids: expected ids of 0-255, found 'x'"),
        (
            {"classes": ["sea"]},
            "classes: expected names that occur in ids, found 'sea'",
        ),
        ({"palette": {}}, r"palette\.water: expected \[red, green, blue\]"),
        ({"palete": {}}, "palete: expected one of the keys"),
        ({"palette": {"sea": [1, 2, 3]}}, "palette: expected names that occur in ids"),
        (
            {
                "ids": {"1": "sign", "2": "traffic sign"},
                "palette": {"sign": [1, 2, 3], "Traffic Sign": [3, 2, 1]},
            },
            r"palette.Traffic Sign: expected \[1, 2, 3\], as another sign, found \[3",
        ),
        ({"ignored": [0, 3]}, "ignored: expected no id of a class, found 3"),
        ({"classes": []}, "classes: expected a name"),
        ({"size": "64"}, "size: expected WIDTHxHEIGHT such as 1280x720, found '64'"),
        ({"splits": {"a": {"images": "*.jpg", "labels": ""}}}, "the stars of"),
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


def test_a_missing_folder_is_one_line_with_the_commands(tmp_path):
    (tmp_path / "Ports.json").write_text(json.dumps(EXAMPLE))
    layout = custom.read(tmp_path / "Ports.json")
    with pytest.raises(InputError, match=r"check Ports\.json .*prepare Ports\.json "):
        listing.open_files(layout, tmp_path / "nowhere")


def test_spaces_around_a_name_make_no_other_class(tmp_path):
    path = tmp_path / "mine.json"
    ids = {"1": "water", "2": "water ", "3": " vessel"}
    path.write_text(json.dumps({**EXAMPLE, "ids": ids}))
    assert custom.read(path).classes == ("water", "vessel")


def test_a_key_that_is_given_twice_is_named(tmp_path):
    path = tmp_path / "twice.json"
    text = json.dumps(EXAMPLE).replace('"2": "sky"', '"1": "sky"')
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{path}: .* the key '1' twice"):
        custom.read(path)


@pytest.mark.parametrize(
    ("one", "other", "space", "classes"),
    [
        (["water", "sky"], ["water", "sky"], "", 2),
        (["car", "sky"], ["traffic light"], "cityscapes13", 13),
        (["car", "parking"], ["wall"], "cityscapes16", 16),
        (["car"], ["terrain"], "cityscapes", 19),
    ],
)
def test_a_config_of_descriptions(one, other, space, classes, tmp_path):
    text = {**EXAMPLE, "ignored": [], "palette": {}}
    for name, names in (("one", one), ("other", other)):
        ids = {str(i): n for i, n in enumerate(names)}
        palette = {n: [1, 2, 3] for n in names}
        content = {**text, "ids": ids, "palette": palette}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    words = f"{tmp_path}/one.json,{tmp_path}/other.json"
    for method in ("", ",max_square,resnet50", ",oce,paper", ",lsr,tiny"):
        config = cli.read_config(f"custom:{words}{method}")
        assert config["model"]["num_classes"] == classes
        for domain in ("source", "target"):
            data = config["data"][domain]
            assert (data["space"], data["train"], data["val"]) == (
                space,
                "train",
                "val",
            )
            assert data["root"] == f"{tmp_path}/data/ports"
            assert data["size"] == ((64, 128) if "tiny" in method else (48, 64))
    assert cli.run_name(f"custom:{words},lsr") == "custom-one-other-lsr"


def test_bad_arguments_of_the_config_of_descriptions(tmp_path):
    path = tmp_path / "one.json"
    path.write_text(json.dumps({**EXAMPLE, "size": None}))
    for words, message in (
        ("", "expected SOURCE.json,TARGET.json, found 0 descriptions"),
        (f":{path}", "found 1 descriptions"),
        (f":{path},{path}", f'{path}: "size": expected WIDTHxHEIGHT'),
        (f":{path},no.json", "^no.json: expected the description"),
        (f":{path},{path},lrs", "'lrs' is unknown"),
    ):
        with pytest.raises(InputError, match=message):
            cli.read_config(f"custom{words}")
    assert cli.read_config(f"custom:{path},{path},tiny")["model"]["num_classes"] == 3


def test_masks_that_are_painted(tmp_path):
    text = {
        "splits": {"train": {"images": "*.jpg", "labels": "*.png"}},
        "label_format": "colors",
        "ids": {"#005AA0": "water", "#dc3c14": "vessel", "#ff0000": "vessel"},
        "ignored": ["#000000"],
    }
    path = tmp_path / "painted.json"

    def read(**changes):
        path.write_text(json.dumps({**text, **changes}))
        return custom.read(path)

    layout = read()
    assert layout.classes == ("water", "vessel")
    assert layout.colors == ((0, 90, 160), (220, 60, 20))
    colors = np.array([[0, 90, 160], [220, 60, 20], [255, 0, 0], [0, 0, 0]], np.uint8)
    picture = np.random.default_rng(0).integers(0, 4, (6, 8))
    for file_format in ("PNG", "BMP", "TIFF"):
        Image.fromarray(colors[picture]).save(tmp_path / "a.png", file_format)
        label = image_io.Reader(Folder(tmp_path), layout).label("a.png")
        space = sources.label_space({"space": ""}, layout)
        expected = np.array([0, 1, 1, 255])[picture]
        np.testing.assert_array_equal(space.encode(label), expected)
    other = read(ignored=["#010101"])
    with pytest.raises(InputError, match=r"a.png: color #000000 is unknown"):
        image_io.Reader(Folder(tmp_path), other).label("a.png")
    assert other.meaning() != layout.meaning()
    for changes, message in (
        ({"ids": {"1": "water"}}, "ids: expected colors such as #804080, found '1'"),
        ({"ignored": [0]}, "ignored: expected colors such as #804080, found 0"),
        ({"ignored": ["#005aa0"]}, "every color once, #005AA0 or, found '#005aa0'"),
        ({"ignored": ["#ff0000"]}, "ignored: expected no id of a class"),
    ):
        with pytest.raises(InputError, match=message):
            read(**changes)
