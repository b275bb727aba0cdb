"""Turns lessons into tensors: one row for a lesson, whose turns see the picture but not each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from microscope_bench.zoo.lessons import LETTERS, Lesson, Turn, answer_words

NONE = -1
"""The target at positions where nothing is asked."""


@dataclass(frozen=True)
class Frame:
    """The ids that a checkpoint's format puts before a question, those of the picture included, and after it."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class LessonBatch:
    """Several lessons as one batch; all tensors are (B, S) but for ``mask``."""

    input_ids: Tensor  # int64, token ids
    mask: Tensor  # bool (B, 1, S, S): a turn sees the picture and itself
    position_ids: Tensor  # int64; every turn continues where the picture ends
    weights: Tensor  # float32, of a position's own id in the loss; 0 outside answers
    answers: Tensor  # int64, at the last token of a question the index of its answer in :func:`answer_words`, else NONE
    matches: Tensor  # int64, at the last token of an option whether it is the right one, else NONE


class LessonEncoder:
    """Turns lessons into batches for the format with this frame."""

    def __init__(self, tokenizer: Any, frame: Frame) -> None:
        self._frame = frame
        self._padding = int(tokenizer.pad_token_id)
        self._answers = {word: index for index, word in enumerate(answer_words())}

        # the same few hundred pieces come again and again
        self._ids = lru_cache(maxsize=10_000)(
            lambda text: tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        )

    def batch(self, lessons: Sequence[Lesson]) -> LessonBatch:
        rows = [self._row(lesson) for lesson in lessons]
        shape = (len(rows), max(len(row["input_ids"]) for row in rows))
        padding = {"input_ids": self._padding, "weights": 0.0, "turn": NONE, "position_ids": 0}
        columns = {}
        for name in rows[0]:
            empty = padding.get(name, NONE)
            columns[name] = torch.full(shape, empty, dtype=torch.float32 if name == "weights" else torch.int64)
            for index, row in enumerate(rows):
                columns[name][index, : len(row[name])] = torch.tensor(row[name])
        turn = columns.pop("turn")
        visible = (turn[:, :, None] == turn[:, None, :]) | (turn[:, None, :] == 0)
        causal = torch.ones(shape[1], shape[1], dtype=torch.bool).tril()
        return LessonBatch(mask=(visible & causal)[:, None], **columns)

    def _row(self, lesson: Lesson) -> dict[str, list[Any]]:
        n_before = len(self._frame.before)
        row: dict[str, list[Any]] = {
            "input_ids": list(self._frame.before),
            "weights": [0.0] * n_before,
            "turn": [0] * n_before,
            "position_ids": list(range(n_before)),
            "answers": [NONE] * n_before,
            "matches": [NONE] * n_before,
        }
        for number, turn in enumerate(lesson.turns, start=1):
            added = self._turn(turn)
            length = len(added["input_ids"])
            added["turn"] = [number] * length
            added["position_ids"] = list(range(n_before, n_before + length))
            for name, values in added.items():
                row[name] += values
        return row

    def _turn(self, turn: Turn) -> dict[str, list[Any]]:
        pieces = [(self._ids(turn.question), self._answers[turn.answer] if turn.has_one_answer else NONE, NONE)]
        if turn.choices:
            pieces.append((self._ids("\n"), NONE, NONE))
            for letter, choice in zip(LETTERS, turn.choices, strict=False):
                pieces.append((self._ids(f"{letter}. {choice}"), NONE, int(choice == turn.answer)))
                pieces.append((self._ids("\n"), NONE, NONE))
            pieces.append((self._ids(turn.instruction), NONE, NONE))
            answer = self._ids(LETTERS[turn.choices.index(turn.answer)])
        else:
            answer = self._ids(f" {turn.answer}")
        pieces.append((self._frame.after, NONE, NONE))
        columns: dict[str, list[Any]] = {"input_ids": [], "weights": [], "answers": [], "matches": []}
        for ids, answer_index, match in pieces:
            if not ids:
                continue
            columns["input_ids"] += ids
            columns["weights"] += [0.0] * len(ids)
            columns["answers"] += [NONE] * (len(ids) - 1) + [answer_index]
            columns["matches"] += [NONE] * (len(ids) - 1) + [match]
        columns["input_ids"] += answer
        columns["weights"] += [turn.weight] * len(answer)
        columns["answers"] += [NONE] * len(answer)
        columns["matches"] += [NONE] * len(answer)
        return columns
