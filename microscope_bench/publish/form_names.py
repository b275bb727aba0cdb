"""Names that the command line offers before it imports what they stand for."""

from __future__ import annotations

CITATIONS = ("text", "bibtex", "latex", "json", "model-card")
"""Forms of a citation."""

SUFFIXES = {"markdown": ".md", "html": ".html", "latex": ".tex", "csv": ".csv", "json": ".json"}
"""Form of a leaderboard → ending of its files."""

TOKEN_SETS = ("all", "no_sinks", "correct", "correct_no_sinks", "wrong", "wrong_no_sinks")
"""Token sets that a result can have scores of."""
