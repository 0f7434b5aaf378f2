"""Small folders in exactly the layouts of the real data sets, drawn once."""

import pytest

from benchmarks import dataset_folders

SIZE = (64, 128)


@pytest.fixture(scope="session")
def downloads(tmp_path_factory):
    """Folder with a small folder of each data set, and Cityscapes' zips."""
    root = tmp_path_factory.mktemp("downloads")
    dataset_folders.gta5(root / "gta5", 8, size=(60, 120))
    dataset_folders.synthia_rand_cityscapes(
        root / "synthia_rand_cityscapes", 8, size=SIZE
    )
    dataset_folders.cityscapes(root / "cityscapes", {"train": 7, "val": 3}, size=SIZE)
    dataset_folders.cityscapes_zips(root / "cityscapes", root / "zips")
    dataset_folders.cross_city(
        root / "cross_city", {"train": 4, "test": 3}, ("Rome", "Rio"), size=SIZE
    )
    dataset_folders.urbansyn(root / "urbansyn", 7, size=SIZE)
    dataset_folders.camvid(root / "camvid", {"train": 4, "val": 3}, size=SIZE)
    return root
