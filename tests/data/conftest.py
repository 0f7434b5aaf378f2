"""Small folders in exactly the layouts of the real data sets, drawn once."""

import pytest

from benchmarks import dataset_folders

SIZE = (64, 128)


@pytest.fixture(scope="session")
def downloads(tmp_path_factory):
    """Folder with gta5, synthia_rand_cityscapes, cityscapes, zips and cross_city."""
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
    return root
