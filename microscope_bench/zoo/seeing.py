"""Does a model see? Accuracy on held-out questions by kind, and with every question shown another one's picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from microscope_bench.adapters.base import Adapter
from microscope_bench.example import Example
from microscope_bench.tasks import load_task

N_QUESTIONS = 2016
"""32 times 7 kinds × 9 places of the right letter among 2, 3 and 4: letters are exactly balanced."""
CHANCE = 1 / 3


@dataclass(frozen=True)
class Seeing:
    """How a model answers ``n`` questions: the share of right answers, and the same with exchanged pictures."""

    n: int
    accuracy: float
    shuffled: float
    by_kind: dict[str, tuple[float, float]]

    @property
    def stderr(self) -> float:
        """Binomial standard error of the accuracy."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / self.n))


def how_it_sees(adapter: Adapter, n: int = N_QUESTIONS, batch_size: int = 32) -> Seeing:
    """Asks the first ``n`` questions of shapesqa's test split twice; a multiple of 63 is balanced.

    No training has seen these questions. There are few enough ways to draw a single shape that 10 of the 2,016 pictures
    are among the 64,000 that a tower of seed 0 was trained on, and 3 among the 12,800 of its lessons.
    """
    task = load_task("shapesqa", task_args={"n": n})
    examples = [task.example(index) for index in range(n)]
    kinds = np.asarray(task.rows.with_format(None)["kind"])
    # Half way round: never a question's own picture, and the same kinds and letters as before.
    exchanged = [replace(e, images=examples[(i + n // 2) % n].images) for i, e in enumerate(examples)]
    right, right_shuffled = (_right(adapter, shown, batch_size) for shown in (examples, exchanged))
    by_kind = {
        str(kind): (float(right[kinds == kind].mean()), float(right_shuffled[kinds == kind].mean()))
        for kind in np.unique(kinds)
    }
    return Seeing(n, float(right.mean()), float(right_shuffled.mean()), by_kind)


def _right(adapter: Adapter, examples: Sequence[Example], batch_size: int) -> np.ndarray:
    right = []
    for start in range(0, len(examples), batch_size):
        asked = examples[start : start + batch_size]
        batch = adapter.encode(asked)
        logits = adapter.forward(batch, logits=True)
        assert logits is not None
        for example, prompt, row in zip(asked, batch.prompts, logits, strict=True):
            assert example.choices is not None
            tokens = adapter.choice_token_ids(prompt, example.choices)
            right.append(int(row[tokens].argmax()) == example.answer)
    return np.asarray(right)
