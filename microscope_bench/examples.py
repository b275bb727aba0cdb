"""One rendered row of a task: what an adapter encodes. Knows neither lm-eval nor a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_PLACEHOLDER = "<image>"
"""Stands once per picture in :attr:`Example.text`, where the picture belongs (lm-eval's convention)."""


@dataclass(frozen=True, eq=False)
class Example:
    """One question as every model gets it.

    Attributes:
        id: unique within the task and stable between runs.
        text: the prompt, with one :data:`IMAGE_PLACEHOLDER` per picture.
        images: the pictures, decoded and in RGB mode, in the order of their placeholders.
        choices: the answer options to score as continuations ("A", "B", ...), or None for an open question.
        answer: index of the right choice, or None where there is none.
        converted_from: modes of the pictures that were not RGB before ("RGBA", "P", "L", ...), for the record.
    """

    id: str
    text: str
    images: tuple[Image, ...] = ()
    choices: tuple[str, ...] | None = None
    answer: int | None = None
    converted_from: tuple[str, ...] = ()

    @property
    def has_letter_choices(self) -> bool:
        """Whether every option is one capital letter, so that one forward pass scores all of them."""
        return bool(self.choices) and all(len(c) == 1 and "A" <= c <= "Z" for c in self.choices or ())
