"""An installed lsr_jax trains without a checkout around it."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import setuptools

from lsr_jax import files

ROOT = Path(__file__).parents[1]


def test_configs_and_recorded_rows_are_packaged():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = setuptools.find_packages(ROOT, **setup["packages"]["find"])
    assert {"lsr_jax", "lsr_jax.configs", "lsr_jax.methods"} <= set(packages)
    assert setup["package-data"]["lsr_jax.configs"] == ["*.json"]
    for file in (ROOT / "configs").iterdir():
        assert (ROOT / "lsr_jax" / "configs" / file.name).samefile(file)


def test_recorded_rows_are_found_without_a_checkout(tmp_path, monkeypatch):
    rows = "docs/results/streets_oracle.json"
    assert files.of_project(rows) == ROOT / rows
    monkeypatch.setattr(files, "__file__", str(tmp_path / "lsr_jax" / "files.py"))
    assert files.of_project(rows) == tmp_path / rows
    installed = tmp_path / "lsr_jax" / "configs" / "streets_oracle.json"
    installed.parent.mkdir(parents=True)
    installed.touch()
    assert files.of_project(rows) == installed


def test_a_config_is_found_by_its_name_from_any_folder(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lsr_jax.train"),
            *("--config", "streets:lsr,tiny", "--print_config"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "adapt.method.name = 'lsr'" in done.stdout


@pytest.mark.long
def test_the_wheel_holds_everything(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", ROOT]
    subprocess.run([*command, "-w", tmp_path], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = [path.relative_to(ROOT) for path in (ROOT / "lsr_jax").rglob("*.py")]
    assert {path.as_posix() for path in sources} <= names
    for name in (
        "configs/streets.py",
        "configs/streets_oracle.json",
        "assets/README.md",
        "assets/streets_mini.safetensors",
        "train.py",
    ):
        assert f"lsr_jax/{name}" in names
