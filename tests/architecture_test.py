"""Who may import whom: the table of the house, read from the sources with `ast`."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A room imports its own level only inside itself, and any level above.
LEVELS = [
    {"errors", "types"},
    {"files"},
    {"cli"},
    {"ops"},
    {"losses", "models", "data", "augment"},
    {"methods"},
    {"training.ranges"},
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
    {"convert"},
    {"training.checkpoint", "training.compile", "training.stop"},
    {"training.workdir"},
    {"training.weights"},
    {"training.stage"},
    {"training.preparation", "training.selection"},
    {"training.loop"},
    {"report"},
    {"predict", "study", "train", "evaluate"},
]
# Libraries that live in one room only.
KEEPERS = {
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


def inside(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


def room_of(module: str) -> tuple[int, str] | None:
    for level, rooms in enumerate(LEVELS):
        for room in rooms:
            if inside(module, room):
                return level, room
    return None


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_only_rooms_above(path):
    module = module_of(path)
    module = "data" if inside(module, "streets") else module  # they read each other
    if module in ("", "training", "__main__"):
        return
    level, room = room_of(module) or pytest.fail(f"{module} belongs to no room")
    for name in imports_of(path):
        if not name.startswith("lsr_jax."):
            continue
        name = name.removeprefix("lsr_jax.")
        target = room_of("data" if inside(name, "streets") else name)
        if target is None:
            continue  # a package itself: lsr_jax.training
        allowed = target[0] < level or target[1] == room
        # The pieces of one room: step reads state.
        neighbours = target[0] == level and room.startswith("training.")
        assert allowed or neighbours, f"{module} imports {name}, which is not above it"


@pytest.mark.parametrize("library", KEEPERS)
def test_library_stays_in_its_room(library):
    for path in FILES:
        module = module_of(path)
        if any(inside(module, room) for room in KEEPERS[library]):
            continue
        users = [name for name in imports_of(path) if inside(name, library)]
        assert not users, f"{module} imports {users}"


def test_every_module_has_a_docstring():
    missing = [p for p in FILES if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not missing
