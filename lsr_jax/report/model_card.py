"""The model card of a run: what was trained, on what, how well, and what to check.

Its text is the template ``model_card.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lsr_jax.report import results
from lsr_jax.report.html import TEMPLATES
from lsr_jax.report.results import Table


def markdown(
    config: Mapping,
    manifest: Mapping,
    classes: Sequence[str],
    stages: Sequence[str],
    scores: Sequence[Table],
    remarks: Sequence[str] = (),
) -> str:
    """The card of a run as Markdown.

    ``stages`` are those that were evaluated; ``remarks`` are on the data, and on what has
    no score.
    """
    return TEMPLATES.get_template("model_card.md").render(
        config=config,
        manifest=manifest,
        classes=classes,
        stages=stages,
        scores=results.markdown(scores).strip(),
        remarks=remarks,
    )
