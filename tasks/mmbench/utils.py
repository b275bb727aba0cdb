"""MMBench's rows: up to four options in columns A to D, and a hint; what is missing is null, "" or the text "nan"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LETTERS = "ABCD"


def letters(row: Mapping[str, Any]) -> list[str]:
    """The letters of the options that the row has."""
    return [letter for letter in LETTERS if _present(row[letter])]


def prompt(row: Mapping[str, Any]) -> str:
    """The question behind its picture, with its hint and its options."""
    asked = f"{row['hint']} {row['question']}" if _present(row["hint"]) else row["question"]
    options = "".join(f"\n{letter}. {row[letter]}" for letter in letters(row))
    return (
        f"<image>{asked} There are several options:{options}\n\n"
        "Answer with the option's letter from the given choices directly."
    )


def _present(cell: str | None) -> bool:
    return cell not in (None, "", "nan")
