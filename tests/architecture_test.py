"""Which package may import which, checked on the sources with `ast`."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A package may import itself and packages of the levels above it.
LEVELS = [
    {"errors", "types"},
    {"files", "keywords"},
    {"cli"},
    {"ops"},
    {"losses", "models", "data", "augment"},
    {"methods"},
    {"training.sharding"},
    {
        "training.optimizer",
        "training.state",
        "training.step",
        "training.distributed",
        "training.microbatch",
        "training.metrics",
        "training.tensorboard",
        "evaluation",
    },
    {"training.schema"},
    {"convert"},
    {"training.checkpoint", "training.compile", "training.stop"},
    {"training.workdir"},
    {"training.weights"},
    {"training.stage"},
    {"training.selection"},
    {"training.loop"},
    {"report"},
    {"predict", "export", "study", "train", "evaluate"},
]
# Libraries that only these packages may import.
LIBRARIES = {
    "flax.linen": ("models",),
    "grain": ("data",),
    "tensorflow_datasets": ("data",),
    "orbax": ("training.checkpoint",),
    "torch": ("convert",),
    "ml_collections": ("cli",),
    "tensorflow": (),
}
FILES = sorted((ROOT / "lsr_jax").rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "lsr_jax").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def package_of(module: str) -> tuple[int, str] | None:
    for level, packages in enumerate(LEVELS):
        for package in packages:
            if inside(module, package):
                return level, package
    return None


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_only_packages_above(path):
    module = module_of(path)
    module = "data" if inside(module, "streets") else module  # they import each other
    if module in ("", "training", "__main__"):
        return
    level, package = package_of(module) or pytest.fail(f"add {module} to LEVELS")
    for name in imports_of(path):
        if not name.startswith("lsr_jax."):
            continue
        name = name.removeprefix("lsr_jax.")
        target = package_of("data" if inside(name, "streets") else name)
        if target is None:
            continue  # a package itself: lsr_jax.training
        allowed = target[0] < level or target[1] == package
        # Modules of training on one level: step reads state.
        neighbours = target[0] == level and package.startswith("training.")
        assert allowed or neighbours, f"{module} imports {name}, which is not above it"


@pytest.mark.parametrize("library", LIBRARIES)
def test_library_is_imported_by_its_packages_only(library):
    for path in FILES:
        module = module_of(path)
        if any(inside(module, package) for package in LIBRARIES[library]):
            continue
        users = [name for name in imports_of(path) if inside(name, library)]
        assert not users, f"{module} imports {users}"


def test_every_module_has_a_docstring():
    missing = [p for p in FILES if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not missing
