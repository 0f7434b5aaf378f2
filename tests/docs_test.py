"""Files, modules and links that the documentation names exist."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FILE = re.compile(
    r"\b(?:(?:lsr_jax|tests|docs|configs|examples|benchmarks)/[\w/]+\.(?:py|md|json))\b"
)
MODULE_FILE = re.compile(r"`(\w+/\w+\.py)`")  # in lsr_jax or at the top
MODULE = re.compile(r"python -m ((?:lsr_jax|benchmarks|examples)[\w.]*\w)")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
# The method that the page adds, and a mistake in the table of error messages.
ABSENT = {"lsr_jax/methods/confident.py", "configs/nope.py"}


def page_id(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_names_in_the_documentation_exist(page):
    text = page.read_text()
    files = set(FILE.findall(text)) - ABSENT
    assert [name for name in files if not (ROOT / name).is_file()] == []
    files = set(MODULE_FILE.findall(text)) - ABSENT
    tops = (ROOT, ROOT / "lsr_jax")
    assert [name for name in files if not any((d / name).is_file() for d in tops)] == []
    modules = set(MODULE.findall(text))
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []
    links = {link for link in LINK.findall(text) if "://" not in link}
    assert [link for link in links if not (page.parent / link).exists()] == []
