"""TextVQA's answers: ten by ten people for each question; the test split has none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any


def accepted(row: Mapping[str, Any]) -> list[str]:
    """What people answered; one empty text where the split keeps its answers back."""
    return list(row["answers"] or [""])


def vqa_accuracy(row: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """``vqa_accuracy``: how many of the other nine people say the same, 1 from three on, averaged over who is left out.

    Compared are lower-case words without punctuation and articles. The official evaluation also rewrites contractions
    and number words.

    Raises:
        ValueError: the split keeps its answers back.
    """
    if not row["answers"]:
        raise ValueError(f"question {row['question_id']} has no answers, so its split cannot be scored")
    same = [_words(answer) == _words(results[0]) for answer in row["answers"]]
    return {"vqa_accuracy": sum(min(1.0, (sum(same) - one) / 3) for one in same) / len(same)}


def _words(text: str) -> list[str]:
    return [word for word in re.sub(r"[^\w\s]", "", text.lower()).split() if word not in ("a", "an", "the")]
