"""The example result with a tenth of its rows: reading and writing it a hundred times takes seconds, not minutes."""

from __future__ import annotations

from typing import Any

from microscope_bench.results.result import Result
from tests.results.sample import sample, with_scores

ESTIMATORS = {"held_out", "twonn_discard10", "top_share"}


def small(**changes: Any) -> Result:
    """As :func:`tests.results.sample.sample`, with the headline estimators of all tokens alone."""
    return with_scores(
        sample(**changes),
        lambda score: score if score.estimator in ESTIMATORS and score.tokens == "all" else None,
    )


SMALL = small()
