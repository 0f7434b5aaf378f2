import pytest

from benchmarks import pages
from lsr_jax.errors import InputError

BEGIN, END = pages.markers("numbers")


def test_the_part_is_replaced_and_the_prose_left(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nProse.\n")
    for text in ("| new |", "| newer |"):
        pages.replace(page, "numbers", text)
        assert page.read_text() == (f"# Title\n\n{BEGIN}\n{text}\n{END}\n\nProse.\n")


@pytest.mark.parametrize("page", ["no markers", f"{END}{BEGIN}", BEGIN * 2 + END])
def test_a_page_needs_its_markers(tmp_path, page):
    path = tmp_path / "page.md"
    path.write_text(page)
    with pytest.raises(InputError, match="expected the lines"):
        pages.replace(path, "numbers", "| new |")
    assert path.read_text() == page
