"""The forms in which a leaderboard and a citation can be written; each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microscope_bench.publish.grouping import TextOf
    from microscope_bench.publish.leaderboard.board import Board
    from microscope_bench.results.result import Result

LEADERBOARDS = {"markdown": ".md", "html": ".html", "latex": ".tex", "csv": ".csv", "json": ".json"}
"""Form of a leaderboard → ending of its files."""

CITATIONS = ("text", "bibtex", "latex")


def render_leaderboard(form: str, board: Board, fusion_of: TextOf) -> str:
    """A leaderboard in one of :data:`LEADERBOARDS`; the same text for the same rows."""
    from microscope_bench.publish.leaderboard import csv_json, html_page, latex_tables, markdown_page

    writers: dict[str, Callable[[], str]] = {
        "markdown": lambda: markdown_page.render_board(board),
        "html": lambda: html_page.render_html(board, fusion_of),
        "latex": lambda: latex_tables.latex_tables(board.tables),
        "csv": lambda: csv_json.to_csv(board, fusion_of),
        "json": lambda: csv_json.to_json(board, fusion_of),
    }
    return writers[form]()


def render_citation(form: str, entries: Sequence[tuple[str, Result]], citation_of: TextOf) -> str:
    """(path, complete result) in one of :data:`CITATIONS`; the same text for the same results in the same order."""
    from microscope_bench.publish import cite
    from microscope_bench.publish.leaderboard import board, latex_tables

    results = list({result.signature: result for _, result in entries}.values())
    writers: dict[str, Callable[[], str]] = {
        "text": lambda: cite.sentences(results, citation_of),
        "bibtex": lambda: cite.bibtex(results, citation_of),
        "latex": lambda: latex_tables.latex_tables(board.tables_of(board.row_of(*entry) for entry in entries)),
    }
    return writers[form]()
