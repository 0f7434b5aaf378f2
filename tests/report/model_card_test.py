from lsr_jax.data import label_spaces
from lsr_jax.report import model_card, results
from lsr_jax.report.results import Table

MANIFEST = {
    "command": "python train.py --config configs/streets.py:lsr,tiny",
    "data": {"source": "ab12", "target": "cd34"},
    "versions": {"jax": "0.10"},
    "python": "3.11",
    "device_kind": "cpu",
    "devices": ["cpu:0"],
    "cpus": 4,
}


def test_card_says_what_was_trained_how_well_and_what_to_check(load_config):
    config = load_config("streets", "lsr,tiny")
    table = Table("mIoU", results.text_table({("", "x"): ("1.5",)}, ("lsr",), "stage"))
    text = model_card.markdown(
        config, MANIFEST, label_spaces.NAMES, ("source", "adapt"), [table]
    )
    for part in (
        "19 classes: road, sidewalk",
        "**Source**: `streets_rendered`, preset tiny",
        "fingerprint `cd34`",
        "**adapt**: method `lsr`, from `source`, 20 steps of 4 images",
        "clustering `0.0006`",
        "| lsr     | 1.5 |",
        "grants no rights",
        "configs/streets.py:lsr,tiny",
        "jax 0.10; Python 3.11; cpu, 1 device(s), 4 CPU cores",
    ):
        assert part in text, part
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        *("## Model", "## Data", "## Training", "## Scores", "## Limits"),
        *("## Licences", "## Environment"),
    ]
