"""Seeded questions as long as ScienceQA's, each with a picture: what a speed script asks a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from microscope_bench.example import Example

MEDIAN_TOKENS, SPREAD, SHORTEST, LONGEST = 90, 0.5, 40, 400
"""Prompts of ScienceQA's picture questions in tokens of Llama's size: median, sd of the logarithm, and the ends."""
WIDTH, HEIGHT = 480, 360


@dataclass(frozen=True)
class Picture:
    """Pixels as the capture reads them off a picture of Pillow's, where there is no Pillow."""

    mode: str
    size: tuple[int, int]
    pixels: bytes

    def tobytes(self) -> bytes:
        """The pixels, row by row."""
        return self.pixels


@dataclass(frozen=True)
class DataSet:
    """Which data: none from anywhere."""

    path: str = "seeded questions"
    name: str | None = None
    revision: str = "sha256-0000000000000000"
    split: str = "test"


class Questions:
    """A task's examples; row i is the same in any set.

    Args:
        n: how many.
        count: length of a text in tokens; None gives texts of one letter per token.
        make_picture: from uint8 (HEIGHT, WIDTH, 3).
        choices: of each question; with them a pass goes on to the logits.
    """

    name, version = "questions", "1"
    dataset = DataSet()

    def __init__(
        self,
        n: int,
        *,
        count: Callable[[str], int] | None,
        make_picture: Callable[[np.ndarray], object],
        choices: tuple[str, ...] | None = None,
    ) -> None:
        self.ids = [f"q{row}" for row in range(n)]
        self._count, self._make_picture, self._choices = count or len, make_picture, choices

    def __len__(self) -> int:
        return len(self.ids)

    def example(self, index: int) -> Example:
        """Words of random letters, as many as make a prompt of the drawn length, and a picture of coloured squares."""
        random = np.random.default_rng((index, 8))
        length = int(np.clip(MEDIAN_TOKENS * np.exp(SPREAD * random.standard_normal()), SHORTEST, LONGEST))
        text = ""
        while self._count(text) < length:
            text += " " + "".join(map(chr, random.integers(ord("a"), ord("z") + 1, 5)))
        squares = random.integers(0, 256, (HEIGHT // 24, WIDTH // 24, 3), dtype=np.uint8)
        pixels = squares.repeat(24, axis=0).repeat(24, axis=1)
        return Example(
            id=self.ids[index],
            text=f"<image>\n{text.strip()}",
            images=(self._make_picture(pixels),),  # type: ignore[arg-type]
            choices=self._choices,
            answer=0 if self._choices else None,
        )


def bare_picture(pixels: np.ndarray) -> Picture:
    """A picture without Pillow."""
    return Picture("RGB", (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
