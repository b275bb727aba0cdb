"""The forms a leaderboard can be written in."""

from __future__ import annotations

from collections.abc import Callable

from microscope_bench.publish.leaderboard.board import Board
from microscope_bench.results.result import Result

FusionOf = Callable[[Result], str]


def render_as(name: str, board: Board, fusion_of: FusionOf = lambda _: "") -> str:
    """A leaderboard as text.

    Args:
        name: one of :data:`~microscope_bench.publish.form_names.SUFFIXES`.
        board: the rows.
        fusion_of: the fusion class of a result's model, "" where it is not known; for the forms that show it.

    Returns:
        The same text for the same rows.
    """
    from microscope_bench.publish.leaderboard import csv_json, html_page, latex_tables, markdown_page

    writers: dict[str, Callable[[], str]] = {
        "markdown": lambda: markdown_page.render_board(board),
        "html": lambda: html_page.render_html(board, fusion_of),
        "latex": lambda: latex_tables.latex_tables(board.tables),
        "csv": lambda: csv_json.to_csv(board, fusion_of),
        "json": lambda: csv_json.to_json(board, fusion_of),
    }
    return writers[name]()
