import json
import os
import pickle
import shutil

import damage
import numpy as np
import pytest
from PIL import Image

from benchmarks import dataset_folders
from lsr_jax.configs import default
from lsr_jax.data import (
    label_spaces,
    pipeline,
    prepare,
    records,
    sampling,
    sources,
)
from lsr_jax.data.layouts import LAYOUTS
from lsr_jax.errors import InputError

SIZE = (32, 64)


def spec(name, root, **changes):
    splits = {
        **dict.fromkeys(("cityscapes", "camvid"), ("train", "val")),
        "cross_city": ("rome_train", "rome_test"),
    }
    train, val = splits.get(name, ("train_lsr", "val_lsr"))
    values = {"name": name, "root": str(root), "size": SIZE, "train": train, "val": val}
    return {**default.domain().to_dict(), **values, **changes}


def examples(source, *, labelled=True):
    return [
        records.decode(source[i], labelled=labelled, same_size=False)
        for i in range(len(source))
    ]


def same(one, other):
    assert [e["id"] for e in one] == [e["id"] for e in other]
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a.get("label"), b.get("label"))


@pytest.fixture(scope="module")
def out(downloads, tmp_path_factory):
    """Everything prepared twice: at training size, and as it is."""
    out = tmp_path_factory.mktemp("prepared")
    for name, layout in LAYOUTS.items():
        for size in (SIZE, None):
            prepare.prepare(
                layout, downloads / name, size=size, out=out / str(size), progress=False
            )
    return out


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("part", ["train", "val"])
def test_prepared_records_are_the_raw_files(name, part, downloads, out):
    roots = (downloads / name, out / str(SIZE), out / "None")
    opened = []
    for root in roots:
        description = spec(name, root)
        source = sources.open_domain(description).open(description[part])
        opened.append(pickle.loads(pickle.dumps(source)))
    labelled = not (name == "cross_city" and part == "train")
    assert ("label" in opened[0][0]) == labelled
    found = [examples(source, labelled=labelled) for source in opened]
    same(found[0], found[1])
    same(found[0], found[2])
    native = part == "val" and name in ("cityscapes", "cross_city", "camvid")
    for example in found[0]:
        assert example["image"].shape == (*SIZE, 3)
        if labelled:
            assert example["label"].shape == ((64, 128) if native else SIZE)
            assert set(np.unique(example["label"])) <= {*range(19), 255}


def test_an_example_is_what_was_drawn(downloads):
    """By PIL and by the tables of classes, from the drawing itself."""
    description = spec("synthia_rand_cityscapes", downloads / "synthia_rand_cityscapes")
    for space, classes in (
        ("synthia", label_spaces.NAMES),
        ("synthia16", label_spaces.NAMES_16),
    ):
        domain = sources.open_domain({**description, "space": space, "train": "train"})
        assert domain.space.classes == classes
        (_, _, example, *_) = examples(domain.open("train"))
        image, truth = dataset_folders.draw(102, domain="rendered", size=(64, 128))
        resized = Image.fromarray(image).resize(SIZE[::-1], Image.BICUBIC)
        np.testing.assert_array_equal(example["image"], resized)
        truth = np.asarray(Image.fromarray(truth).resize(SIZE[::-1], Image.NEAREST))
        for index, name in enumerate(classes):
            np.testing.assert_array_equal(
                example["label"] == index, truth == label_spaces.TRAIN_ID[name]
            )


def test_named_splits_lists_and_sums(downloads, out, tmp_path):
    lines = [f"/images/{i:05d}.png /labels/{i:05d}.png" for i in (7, 2, 5)]
    path = tmp_path / "mine.txt"
    path.write_text("\n".join(lines))
    for root in (downloads / "gta5", out / str(SIZE)):
        domain = sources.open_domain(spec("gta5", root, train=str(path)))

        def ids(split, domain=domain):
            return [example["id"] for example in examples(domain.open(split))]

        assert ids(str(path)) == [f"images/{i:05d}.png" for i in (7, 2, 5)]
        # One of seven is held out.
        assert ids("val_lsr") == ["images/00007.png"]
        assert ids("train_lsr+val_lsr") == ids("train_lsr") + ids("val_lsr")
        assert len(ids("train_lsr")) == 7
    path.write_text("images/none.png labels/none.png")
    with pytest.raises(InputError, match=r"images/none\.png"):
        sources.open_domain(spec("gta5", downloads / "gta5", train=str(path)))
    with pytest.raises(InputError, match=r"images/none\.png"):
        sources.open_domain(spec("gta5", out / str(SIZE), train=str(path)))


def test_fingerprints_tell_data_apart(downloads, out):
    def fingerprint(**changes):
        return sources.open_domain(spec("gta5", **changes)).fingerprint

    for root in (downloads / "gta5", out / str(SIZE)):
        first = fingerprint(root=root)
        assert first == fingerprint(root=root)
        assert first != fingerprint(root=root, train="train")
        assert first != fingerprint(root=root, space="cityscapes13")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "gta6"}, "data name: .*gta5.*found 'gta6'"),
        ({"root": "nowhere"}, "^nowhere: expected GTA5 .*no such folder.*data.check"),
        ({"train": "trian"}, "gta5: expected a split of train, .*found 'trian'"),
        ({"space": "synthia"}, "space of gta5: .*cityscapes13, found 'synthia'"),
        ({"on_bad_example": "go"}, "on_bad_example: expected stop or skip, found 'go'"),
    ],
)
def test_unusable_configs(changes, message, downloads):
    with pytest.raises(InputError, match=message) as caught:
        sources.open_domain({**spec("gta5", downloads / "gta5"), **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "cityscapes"}, "space: expected '' or 'streets' .*'cityscapes'$"),
        ({"size": (32, 64)}, r"size: expected \(0, 0\) or \(64, 128\) .* \(32, 64\)$"),
        ({"size": (64,)}, r"size: expected \(0, 0\) or \(64, 128\) .* found \(64,\)$"),
        ({"on_bad_example": "skip"}, "on_bad_example: expected 'stop' .*found 'skip'$"),
        (
            {"on_bad_example": "go"},
            "on_bad_example: expected stop or skip, found 'go'$",
        ),
    ],
)
def test_drawn_images_have_fixed_options(changes, message, tmp_path):
    """Nothing is drawn for a config that asks for other images."""
    drawn = {"name": "streets_camera", "preset": "tiny", "root": str(tmp_path)}
    with pytest.raises(InputError, match=f"^data {message}"):
        sources.open_domain({**default.domain().to_dict(), **drawn, **changes})
    assert list(tmp_path.iterdir()) == []


def test_unusable_prepared_folders(out):
    root = out / str(SIZE)
    folder = root / "gta5" / "64x32" / "1.0.0"
    with pytest.raises(InputError, match="expected the dataset cityscapes, found gta5"):
        sources.open_domain(spec("cityscapes", folder))
    with pytest.raises(InputError, match=r"expected images of 20x10 .* found 64x32"):
        sources.open_domain(spec("gta5", folder, size=(10, 20)))


def test_classes_of_domains_and_network_agree(downloads):
    data = {
        "source": spec(
            "synthia_rand_cityscapes", downloads / "synthia_rand_cityscapes"
        ),
        "target": spec("cityscapes", downloads / "cityscapes", space="cityscapes16"),
    }
    with pytest.raises(InputError, match="synthia with 19 and cityscapes16 with 16"):
        sources.open_domains(data, num_classes=16)
    data["source"]["space"] = "synthia16"
    with pytest.raises(InputError, match=r"num_classes: expected 16.* found 19"):
        sources.open_domains(data, num_classes=19)
    assert set(sources.open_domains(data, num_classes=16)) == {"source", "target"}


def test_every_problem_ends_the_start(downloads, tmp_path, capsys):
    root = damage.gta5(downloads, tmp_path / "gta5")
    description = spec("gta5", root, train="train", val="train")
    bad = [f"{kind}/0000{n}" for kind, n in
           (("images", 1), ("labels", 2), ("labels", 3), ("images", 5),
            ("images", 7), ("labels", 9))]  # fmt: skip
    for _ in list(bad):
        with pytest.raises(InputError) as caught:
            sources.open_domain(description)
        named = [name for name in bad if f"{root}/{name}.png: " in str(caught.value)]
        assert named, str(caught.value)
        # Remove what was named, as the message says, and meet the next.
        number = named[0][-5:]
        for kind in ("images", "labels"):
            (root / kind / f"{number}.png").unlink(missing_ok=True)
        bad.remove(named[0])
    # The id is met when the label is decoded.
    source = sources.open_domain(description).open("train")
    with pytest.raises(InputError, match=r"labels/00004\.png: id 99 is unknown"):
        examples(source)


def test_skipping_bad_examples(downloads, tmp_path, capsys):
    root = damage.gta5(downloads, tmp_path / "gta5")
    description = spec("gta5", root, train="train", on_bad_example="skip")
    source = sources.open_domain(description).open("train")
    assert [pair.image[-5:-4] for pair in source.pairs] == ["4", "6", "8"]
    assert "skipped (6 of gta5, train)" in capsys.readouterr().err
    with pipeline.train_batches(source, None, batch_size=2, seed=0) as batches:
        ids = [name for _ in range(6) for name in next(batches)[1]["source"]]
    assert set(ids) == {"images/00006.png", "images/00008.png"}
    told = capsys.readouterr().err
    assert told.count("skipped (1 in this process)") == 1
    assert "labels/00004.png" in told


@pytest.mark.parametrize("name", ["gta5", "cityscapes"])
def test_classes_are_counted_in_labels_as_downloaded(name, downloads, out):
    found = []
    for root in (downloads / name, out / str(SIZE), out / "None"):
        description = spec(name, root)
        source = sources.open_domain(description).open(description["train"])
        found.append(sampling.class_pixels(source, 19, progress=False))
    raw = sources.open_domain({**description, "root": str(downloads / name)})
    whole = [
        np.bincount(raw.open(description["train"]).full_label(i).ravel())[:19].sum()
        for i in range(len(found[0]))
    ]
    assert found[0].sum(axis=1).tolist() == whole
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_a_folder_without_pixels_of_classes_is_one_line(out, tmp_path):
    shutil.copytree(out / str(SIZE) / "gta5", tmp_path / "gta5")
    next(tmp_path.rglob("train.pixels.npz")).unlink()
    source = sources.open_domain(spec("gta5", tmp_path)).open("train_lsr")
    with pytest.raises(InputError, match=r"train\.pixels\.npz: expected .*; remove"):
        sampling.class_pixels(source, 19, progress=False)


def test_unlabelled_training_needs_no_labels(downloads, tmp_path):
    root = tmp_path / "cityscapes"
    root.mkdir()
    (root / "leftImg8bit").symlink_to(downloads / "cityscapes" / "leftImg8bit")
    domain = sources.open_domain(spec("cityscapes", root))
    source = domain.open("train")
    assert "label" not in source[0]
    with pipeline.train_batches(None, source, batch_size=2, seed=0) as batches:
        batch, _ = next(batches)
    assert batch.target.label is None
    assert batch.target.image.shape == (2, *SIZE, 3)


def test_evaluation_reads_labels_as_they_came(downloads):
    domain = sources.open_domain(spec("cityscapes", downloads / "cityscapes"))
    with pipeline.eval_batches(domain.open("val"), batch_size=2) as batches:
        images, valid, _ = next(batches)
    assert images.image.shape == (2, *SIZE, 3)
    assert images.label.shape == (2, 64, 128)
    assert valid.all()


def test_what_labels_mean_is_part_of_the_identity(downloads, out, tmp_path):
    root = shutil.copytree(downloads / "gta5", tmp_path / "gta5")
    text = {
        "splits": {"train": {"images": "images/*.png", "labels": "labels/*.png"}},
        "label_format": "palette",
        "ids": {"7": "road", "26": "car"},
        "ignored": [i for i in range(35) if i not in (7, 26)],
    }

    def domain(**changes):
        (tmp_path / "own.json").write_text(json.dumps({**text, **changes}))
        name = str(tmp_path / "own.json")
        changed = {"root": root, "train": "train", "val": "train", "space": ""}
        return sources.open_domain({**spec(name, root), **changed})

    first = domain()
    assert first == first._replace(open=first.open)
    assert first.identity["classes"] == "road, car"
    assert first.identity["ids"] == "7 road, 26 car"
    again = domain()
    assert (again.fingerprint, again.identity) == (first.fingerprint, first.identity)
    fewer = {"26": "car", "8": "road"}
    for key, changes in (
        ("classes", {"classes": ["car", "road"]}),
        ("ids", {"ids": {"26": "road", "7": "car"}, "classes": ["road", "car"]}),
        ("ignored", {"ignored": [*text["ignored"], 200]}),
        ("patterns", {"splits": {"train": {**text["splits"]["train"], "native_labels": True}}}),
        ("ids", {"ids": fewer, "ignored": [*range(8), *range(9, 26), *range(27, 35)]}),
    ):  # fmt: skip
        other = domain(**changes)
        assert other.identity[key] != first.identity[key]
        assert other.fingerprint != first.fingerprint
    os.utime(root / "labels" / "00001.png", ns=(1, 1))
    touched = domain()
    assert touched.identity["files"] != first.identity["files"]
    assert touched.fingerprint != first.fingerprint


def test_a_list_with_labels_of_its_own_is_read_or_refused(downloads, out, tmp_path):
    root = shutil.copytree(downloads / "gta5", tmp_path / "gta5")
    shutil.copytree(root / "labels", root / "pseudo")
    dataset_folders.save_palette(
        root / "pseudo" / "00002.png", np.full((60, 120), 26, np.uint8)
    )
    path = tmp_path / "list.txt"
    path.write_text("images/00002.png pseudo/00002.png\n")
    raw = sources.open_domain(spec("gta5", root, train=str(path)))
    (example,) = examples(raw.open(str(path)))
    assert (example["label"] == label_spaces.TRAIN_ID["car"]).all()
    for label in ("pseudo/00002.png", "labels/00003.png"):
        path.write_text(f"images/00002.png {label}\n")
        with pytest.raises(
            InputError, match=f"^{path}.* '?{label}'?.*(prepared|stored)"
        ):
            sources.open_domain(spec("gta5", out / str(SIZE), train=str(path)))


def test_a_folder_prepared_without_labels_refuses_a_list_with_labels(
    downloads, tmp_path
):
    root = shutil.copytree(downloads / "gta5", tmp_path / "gta5")
    shutil.rmtree(root / "labels")
    prepare.prepare(LAYOUTS["gta5"], root, size=SIZE, out=tmp_path, progress=False)
    path = tmp_path / "list.txt"
    path.write_text("images/00002.png labels/00002.png\n")
    with pytest.raises(InputError, match=r"labels/00002\.png.*: no such label file"):
        sources.open_domain(spec("gta5", tmp_path, train=str(path), val="train"))
    path.write_text("images/00002.png\n")
    domain = sources.open_domain(spec("gta5", tmp_path, train=str(path), val="train"))
    assert not records.is_labelled(domain.open(str(path)))


def test_evaluation_opens_what_is_there(downloads, tmp_path):
    root = shutil.copytree(downloads / "cityscapes", tmp_path / "cityscapes")
    shutil.rmtree(root / "leftImg8bit" / "train")
    layout, stored = LAYOUTS["cityscapes"], tmp_path / "prepared"
    options = {"size": SIZE, "splits": ["val"], "progress": False}
    prepare.prepare(layout, root, out=stored, **options)
    gone = str(tmp_path / "gone.txt")
    for given in (
        spec("cityscapes", root),
        spec("cityscapes", stored),
        spec("cityscapes", root, train=gone),
        spec("cityscapes", stored, train=gone),
    ):
        domain = sources.open_domain(given, training=False)
        assert not domain.has_training_images
        assert len(domain.open("val")) == 3
        with pytest.raises(InputError):
            sources.open_domain(given)
    with pytest.raises(InputError, match="found 'trian'; correct the split's name"):
        sources.open_domain(spec("cityscapes", root, train="trian"), training=False)
    whole = spec("cityscapes", downloads / "cityscapes")
    assert sources.open_domain(whole, training=False).has_training_images


def test_mixed_labels_are_named(downloads, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("images/00001.png\nalone.png\n")
    root = shutil.copytree(downloads / "gta5", tmp_path / "gta5")
    shutil.copy(root / "images" / "00001.png", root / "alone.png")
    with pytest.raises(InputError, match=r"alone.png: has no label, though others"):
        sources.open_domain(spec("gta5", root, train=str(path)))


def test_fewer_images_than_published_is_said_once(downloads, out, capsys):
    for root in (downloads / "gta5", out / str(SIZE)):
        data = dict.fromkeys(("source", "target"), spec("gta5", root))
        domains = sources.open_domains(data, num_classes=19)
        line = "gta5 train: expected 24966 images, as are published, found 8"
        assert capsys.readouterr().err.count(f"warning: {line}") == 1
        (warning,) = sources.warnings(domains)
        assert warning.startswith(line)


def test_a_folder_that_was_prepared_with_skips_says_so(downloads, tmp_path, capsys):
    root = damage.gta5(downloads, tmp_path / "gta5")
    options = {"size": SIZE, "out": tmp_path, "progress": False}
    prepare.prepare(LAYOUTS["gta5"], root, on_bad_example="skip", **options)
    description = spec("gta5", tmp_path, train="train", val="train")
    with pytest.raises(InputError, match=r"00001.png: .* it is truncated"):
        sources.open_domain(description).open("train")
    skipping = {**description, "on_bad_example": "skip"}
    assert len(sources.open_domain(skipping).open("train")) == 2
    assert "skipped (6 of " in capsys.readouterr().err
    with pytest.raises(InputError, match="finished folder without 6 pairs, first: "):
        prepare.prepare(LAYOUTS["gta5"], root, **options)


def test_originals_that_changed_since_they_were_prepared_are_a_warning(
    downloads, tmp_path
):
    root = shutil.copytree(downloads / "gta5", tmp_path / "gta5_raw")
    prepare.prepare(LAYOUTS["gta5"], root, size=SIZE, out=tmp_path, progress=False)

    def found():
        return [*sources.open_domain(spec("gta5", tmp_path)).warnings]

    assert len(found()) == 1  # on the number of images
    os.utime(root / "labels" / "00001.png", ns=(1, 1))
    _, line = found()
    assert "gta5_raw has changed since it was prepared (found 8 images, " in line
    shutil.rmtree(root)
    assert len(found()) == 1


def test_lists_of_camvid_name_folders_of_another_machine(downloads):
    root = downloads / "camvid"
    domain = sources.open_domain(spec("camvid", root, train=str(root / "train.txt")))
    same(examples(domain.open(str(root / "train.txt"))), examples(domain.open("train")))
    assert [label_spaces.NAMES[i] for i in domain.space.declared] == sorted(
        label_spaces.CAMVID_IDS.values(), key=label_spaces.NAMES.index
    )
    with pytest.raises(InputError, match=r"found none among the 0 of test/\*\.png"):
        domain.open("test")
