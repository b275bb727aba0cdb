"""MMMU's rows: pictures in columns image_1 to image_7, marked <image 1> to <image 7> in the question or its options.

``options`` is the text of a Python list, and so is ``answer`` where an open question has several right ones.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

import datasets

MARK = re.compile(r"<image (\d+)>")


def multiple_choice(rows: datasets.Dataset) -> datasets.Dataset:
    """The questions with options."""
    return _of_type(rows, "multiple-choice")


def open_questions(rows: datasets.Dataset) -> datasets.Dataset:
    """The questions without."""
    return _of_type(rows, "open")


def letters(row: Mapping[str, Any]) -> list[str]:
    """One letter an option."""
    return [chr(ord("A") + number) for number in range(len(_text_list(row["options"])))]


def accepted(row: Mapping[str, Any]) -> list[str]:
    """The right answers of an open question."""
    return _text_list(row["answer"]) if row["answer"].startswith("[") else [row["answer"]]


def prompt(row: Mapping[str, Any]) -> str:
    """The question, each mark replaced by a placeholder."""
    return MARK.sub("<image>", _marked_prompt(row))


def pictures(row: Mapping[str, Any]) -> list[Any]:
    """The pictures in the order of their marks; one that is marked twice is shown twice.

    Raises:
        ValueError: nothing is marked, or a picture that the row lacks.
    """
    columns = [f"image_{number}" for number in MARK.findall(_marked_prompt(row))]
    if not columns:
        raise ValueError("neither the question nor its options say where its picture belongs (<image 1>)")
    for column in columns:
        if row.get(column) is None:
            raise ValueError(f"the question marks {column}, which the row does not have")
    return [row[column] for column in columns]


def _marked_prompt(row: Mapping[str, Any]) -> str:
    if row["question_type"] != "multiple-choice":
        return f"{row['question']}\n\nAnswer the question using a single word or phrase."
    options = zip(letters(row), _text_list(row["options"]), strict=True)
    lettered = "\n".join(f"{letter}. {option}" for letter, option in options)
    return f"{row['question']}\n{lettered}\n\nAnswer with the option's letter from the given choices directly."


def _text_list(text: str) -> list[str]:
    found = ast.literal_eval(text)
    if not isinstance(found, list):
        raise ValueError(f"a list was expected, not {text!r}")
    return [str(item) for item in found]


def _of_type(rows: datasets.Dataset, wanted: str) -> datasets.Dataset:
    kinds = rows.select_columns(["question_type"])["question_type"]  # without opening the pictures beside it
    return rows.select([number for number, kind in enumerate(kinds) if kind == wanted])
