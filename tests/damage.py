"""One pair of each kind that `check` has to find, in a copy of a GTA5 folder."""

import shutil

import numpy as np
from PIL import Image

from benchmarks import dataset_folders


def gta5(downloads, root):
    """Pairs 1-5 are bad, one image and one label are alone; 6 and 8 are well."""
    shutil.copytree(downloads / "gta5", root)
    images, labels = root / "images", root / "labels"
    image = images / "00001.png"
    image.write_bytes(image.read_bytes()[:1000])
    dataset_folders.save_grey(labels / "00002.png", np.full((60, 120), 7, np.uint8))
    dataset_folders.save_palette(labels / "00003.png", np.full((60, 110), 7, np.uint8))
    dataset_folders.save_palette(labels / "00004.png", np.full((60, 120), 99, np.uint8))
    pixels = np.asarray(Image.open(images / "00005.png")).astype(np.uint16)
    dataset_folders.cv2.imwrite(str(images / "00005.png"), 257 * pixels)
    (labels / "00007.png").unlink()
    shutil.copy(labels / "00006.png", labels / "00009.png")
    return root


KINDS = {
    "missing pair": 2,
    "unreadable": 1,
    "wrong mode": 2,
    "wrong size": 1,
    "unknown id": 1,
}
