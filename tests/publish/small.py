"""The example result with a tenth of its rows, which reads and writes in milliseconds, and another model's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from microscope_bench.publish.leaderboard.board import board_of
from microscope_bench.publish.leaderboard.markdown_page import render_board
from microscope_bench.results.records import Score
from microscope_bench.results.result import Result
from tests.results.sample import sample, with_scores

ESTIMATORS = {"cross_fitted", "twonn_discard10", "top_share"}


def small(**changes: Any) -> Result:
    """As :func:`tests.results.sample.sample`, with the headline estimators of all tokens alone."""
    return with_scores(
        sample(**changes),
        lambda score: score if score.estimator in ESTIMATORS and score.tokens == "all" else None,
    )


SMALL = small()

MODEL_B = sample(model={"name": "Beta", "repo": "org/Beta", "revision": "sha256-0123456789abcdef"})


def nothing(_: Result) -> str:
    """What is known of the fusion or the source of a result, where a test does not ask for it."""
    return ""


def replace_no_sinks(result: Result, change: Callable[[Score], Score]) -> Result:
    return with_scores(result, lambda s: change(s) if s.tokens == "no_sinks" else s)


def render(entries: Iterable[tuple[str, Result]]) -> str:
    """The leaderboard page as markdown of (path, result), in any order."""
    return render_board(board_of(entries))
