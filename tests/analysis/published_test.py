import statistics

import numpy as np
import pytest

from lsr_jax.analysis import published
from lsr_jax.data import labels
from lsr_jax.evaluation import metrics
from lsr_jax.methods import METHODS

SCORES = published.scores()


@pytest.mark.parametrize("score", [s for s in SCORES if s.iou], ids=lambda s: s.name)
def test_means_follow_from_the_classes(score):
    # Classes and means are both rounded to a tenth: 0.05 each.
    assert statistics.fmean(score.iou.values()) == pytest.approx(score.miou, abs=0.1)
    assert len(score.iou) == score.classes
    assert set(score.iou) <= set(labels.NAMES)
    if score.miou_13 is not None:
        part = [score.iou[name] for name in labels.NAMES_13]
        assert statistics.fmean(part) == pytest.approx(score.miou_13, abs=0.1)


def test_masr_follows_from_the_oracle():
    rows = [s for s in SCORES if s.pair == "gta2cs" and s.iou]
    oracle = next(s for s in rows if s.method == "target_only")
    checked = [s for s in rows if s.masr is not None]
    assert len(checked) == 5
    for score in checked:
        pair = np.array(
            [[s.iou[name] for name in labels.NAMES] for s in (score, oracle)]
        )
        assert 100 * metrics.mean_asr(*pair) == pytest.approx(score.masr, abs=0.1)


def test_methods_are_known_and_every_row_says_where_it_was_read():
    assert {s.method for s in SCORES} <= {*METHODS, None}
    assert all(score.source and score.name for score in SCORES)
    assert {s.backbone for s in SCORES} == {"resnet101"}


def test_rows_are_found_by_domains_network_and_method(load_config):
    found = published.find(load_config("gta2cs", "lsr"), "lsr")
    assert [score.miou for score in found] == [46.0]
    assert published.find(load_config("gta2cs", "lsr,vgg16"), "lsr") == []
    assert published.find(load_config("streets", "lsr"), "lsr") == []
    synthia = published.find(load_config("synthia2cs", "lsr"), "source_only")
    assert [score.miou_13 for score in synthia] == [34.3]
    tokyo = published.find(load_config("cs2crosscity", "lsr,tokyo"), "max_square")
    assert [score.miou for score in tokyo] == [49.7, 50.5]
