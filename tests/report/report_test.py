"""Files that the report will quote, before anything is trained."""

import pytest

from lsr_jax import report
from lsr_jax.errors import InputError


def test_recorded_rows_are_read(load_config):
    config = load_config("streets")
    assert config["recorded"]
    report.check_recorded(config)
    report.check_recorded({"recorded": ()})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope.json", "no such file; run evaluate.py first"),
        ("folder", "folder: cannot be read: "),
        ("words.json", "not a list of result rows"),
        ("other.json", "not a list of result rows"),
    ],
)
def test_files_without_rows_are_named(name, message, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "words.json").write_text("words")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match=f"^recorded: .*{message}") as caught:
        report.check_recorded({"recorded": (str(tmp_path / name),)})
    assert "\n" not in str(caught.value)
