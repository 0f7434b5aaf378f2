"""Write folders in the layouts of the real data sets, with images drawn by `streets`.

File names, PNG modes and bit depths are those of the downloads; sizes are arguments.
"""

import zipfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from lsr_jax import streets
from lsr_jax.data import label_spaces

SIZES = {
    "gta5": (1052, 1914),
    "synthia_rand_cityscapes": (760, 1280),
    "cityscapes": (1024, 2048),
    "cross_city": (1024, 2048),
    "urbansyn": (1024, 2048),
    "camvid": (360, 480),
}
CITIES = {"train": "aachen", "val": "frankfurt"}


def draw(index, *, domain, size):
    """Image, and label as trainIds."""
    return streets.draw(index, domain=domain, split="train", size=size)


def ids(label, names, void=0):
    """Map trainIds to the ids of a data set (id -> class name); `void` for other classes."""
    table = np.full(256, void, np.uint8)
    for raw, name in names.items():
        table[label_spaces.TRAIN_ID[name]] = raw
    return table[label]


def save_image(path, image):
    """Write an 8-bit RGB PNG, compressed as the downloads are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 6])


def save_grey(path, label):
    """Write an 8-bit gray PNG of ids (Cityscapes, Cross-City)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(label).save(path)


def save_palette(path, label):
    """Write an 8-bit palette PNG of ids with Cityscapes' colors (GTA5)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    palette = np.zeros((256, 3), np.uint8)
    for row in label_spaces.CLASSES:
        palette[row.cityscapes_id] = row.color
    image = Image.fromarray(label)
    image.putpalette(palette.ravel().tolist())
    image.save(path)


def save_red16(path, label):
    """Write a 16-bit RGB PNG with ids in red and instance numbers in green (SYNTHIA)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    instances = np.cumsum(np.ones_like(label, np.uint16), axis=1, dtype=np.uint16)
    pixels = np.stack([np.zeros_like(instances), instances, label.astype(np.uint16)], 2)
    cv2.imwrite(str(path), pixels)  # cv2 takes blue, green, red


def gta5(root, count, size=SIZES["gta5"]):
    """Write images/00001.png and labels/00001.png, ..."""
    for index in range(count):
        image, label = draw(index, domain="rendered", size=size)
        name = f"{index + 1:05d}.png"
        save_image(Path(root) / "images" / name, image)
        save_palette(
            Path(root) / "labels" / name, ids(label, label_spaces.CITYSCAPES_IDS)
        )


def synthia_rand_cityscapes(root, count, size=SIZES["synthia_rand_cityscapes"]):
    """Write RAND_CITYSCAPES/RGB/0000000.png and RAND_CITYSCAPES/GT/LABELS/0000000.png, ..."""
    root = Path(root) / "RAND_CITYSCAPES"
    for index in range(count):
        image, label = draw(100 + index, domain="rendered", size=size)
        name = f"{index:07d}.png"
        save_image(root / "RGB" / name, image)
        save_red16(root / "GT" / "LABELS" / name, ids(label, label_spaces.SYNTHIA_IDS))


def cityscapes(root, counts, size=SIZES["cityscapes"]):
    """Write leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY; `counts` is split -> images."""
    for split, count in counts.items():
        city = CITIES[split]
        for index in range(count):
            seed = 1000 * len(split) + index
            image, label = draw(seed, domain="camera", size=size)
            stem = f"{city}_{index:06d}_000019"
            images = Path(root) / "leftImg8bit" / split / city
            truths = Path(root) / "gtFine" / split / city
            save_image(images / f"{stem}_leftImg8bit.png", image)
            save_grey(
                truths / f"{stem}_gtFine_labelIds.png",
                ids(label, label_spaces.CITYSCAPES_IDS),
            )


def cityscapes_zips(unpacked, root):
    """Write the two official archives from an unpacked folder."""
    Path(root).mkdir(parents=True, exist_ok=True)
    for folder in ("leftImg8bit", "gtFine"):
        path = Path(root) / f"{folder}_trainvaltest.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted((Path(unpacked) / folder).rglob("*.png")):
                archive.write(file, file.relative_to(unpacked).as_posix())


def cross_city(root, counts, cities=("Rome",), size=SIZES["cross_city"]):
    """Write CITY/Images/{Train,Test} and CITY/Labels/Test; `counts` is split -> images."""
    for city in cities:
        for split, count in counts.items():
            for index in range(count):
                seed = 5000 * len(city) + 100 * len(split) + index
                image, label = draw(seed, domain="camera", size=size)
                stem = f"pano_{index:05d}_2_180"
                folder = Path(root) / city
                save_image(folder / "Images" / split.title() / f"{stem}.png", image)
                if split == "test":
                    save_grey(
                        folder / "Labels" / "Test" / f"{stem}_eval.png",
                        ids(label, label_spaces.CITYSCAPES_IDS),
                    )


def urbansyn(root, count, size=SIZES["urbansyn"]):
    """Write rgb/rgb_0001.png and ss/ss_0001.png, ..."""
    for index in range(count):
        image, label = draw(200 + index, domain="rendered", size=size)
        name = f"{index + 1:04d}.png"
        save_image(Path(root) / "rgb" / f"rgb_{name}", image)
        save_grey(
            Path(root) / "ss" / f"ss_{name}", ids(label, label_spaces.TRAIN_IDS, 19)
        )


def camvid(root, counts, size=SIZES["camvid"]):
    """Write SPLIT, SPLITannot and the lists SPLIT.txt; `counts` is split -> images."""
    for split, count in counts.items():
        lines = []
        for index in range(count):
            image, label = draw(300 + index, domain="camera", size=size)
            name = f"{index:04d}TP_{300 + index:06d}.png"
            save_image(Path(root) / split / name, image)
            save_grey(
                Path(root) / f"{split}annot" / name,
                ids(label, label_spaces.CAMVID_IDS, 11),
            )
            folder = "/SegNet/CamVid"
            lines.append(f"{folder}/{split}/{name} {folder}/{split}annot/{name}")
        (Path(root) / f"{split}.txt").write_text("\n".join(lines))
