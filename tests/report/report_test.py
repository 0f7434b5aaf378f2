"""Files that the report will quote, before anything is trained."""

import types

import pytest

from lsr_jax import report
from lsr_jax.errors import InputError
from lsr_jax.report import results


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


def test_recorded_rows_of_other_data_or_classes_are_left_out(tmp_path):
    rows = [
        dict.fromkeys(results.IDENTITY, "-")
        | {
            "domain": domain,
            "dataset": domain,
            "miou": 0.5,
            "iou": {"road": 0.5, "sky": 1},
        }
        for domain in ("source", "target")
    ]
    results.write(tmp_path / "rows.json", rows)
    config = {"recorded": (str(tmp_path / "rows.json"),)}

    def found(target, classes):
        evaluation = types.SimpleNamespace(
            run=types.SimpleNamespace(config=config),
            dataset={"source": "source", "target": target}.get,
            space=types.SimpleNamespace(classes=classes),
        )
        return report.recorded_rows(evaluation)

    assert found("target", ("road", "sky")) == rows
    assert found("camvid", ("road", "sky")) == rows[:1]
    assert found("target", ("sky", "road")) == []
