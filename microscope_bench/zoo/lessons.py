"""What the zoo's models are taught: pictures of shapesqa's training split with turns of question and answer.

A lesson depends on (seed, number) alone, so every fusion sees the same lessons in the same order. Its first turn is
the shapesqa question itself, in the task's own words; the other turns ask more about the same picture.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microscope_bench.tasks.task_files import builtin_task_dir

LETTERS = "ABCD"
INSTRUCTION = "Answer with the option's letter from the given choices directly."
"""What every prompt of shapesqa ends in."""
DESCRIBE = "Describe the picture."
NOTHING = "nothing"
DESCRIPTION_WEIGHT = 0.3
"""Of a token of a description in the loss; it has some twenty, an answer one or two."""
N_SHORT, N_OPEN, N_BINDING = 5, 2, 2
"""Turns of a lesson besides the task's own question and the description."""

_BINDING_STREAM, _TURNS_STREAM = 10, 12  # streams of random numbers that shapesqa itself does not use


@dataclass(frozen=True)
class Turn:
    """One question."""

    question: str
    choices: tuple[str, ...]  # the options, for an answer by letter; empty for an open question
    answer: str  # the right option, or the answer in words
    instruction: str = ""  # follows the options
    weight: float = 1.0  # of each token of the answer in the loss
    has_one_answer: bool = True  # whether the question alone, without its options, determines the answer


@dataclass(frozen=True)
class Lesson:
    """A scene of shapesqa, for its picture, and the turns about it."""

    scene: Any
    turns: tuple[Turn, ...]


@lru_cache(maxsize=1)
def shapesqa() -> ModuleType:
    """The module that draws and asks, as it ships with the task."""
    path = builtin_task_dir() / "shapesqa" / "utils.py"
    spec = importlib.util.spec_from_file_location("microscope_bench_shapesqa", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def draw(scene: Any) -> NDArray[np.uint8]:
    """The picture of a scene, (64, 64, 3), as the task draws it."""
    return shapesqa().draw(scene)  # type: ignore[no-any-return]


def answer_words() -> tuple[str, ...]:
    """All answers there are to shapesqa's questions."""
    return tuple(dict.fromkeys(value for values in shapesqa().VALUES.values() for value in values))


def lesson(seed: int, number: int) -> Lesson:
    scene = shapesqa().scene(seed, "train", number)
    dice = shapesqa().Dice(seed, _TURNS_STREAM, number)
    own = Turn(
        scene.question,
        scene.choices,
        scene.choices[scene.answer],
        INSTRUCTION,
        has_one_answer=scene.kind != "colour_present",
    )
    short = [_lettered(scene.shapes, dice) for _ in range(N_SHORT)]
    in_words = [replace(_lettered(scene.shapes, dice), choices=()) for _ in range(N_OPEN)]
    description = Turn(DESCRIBE, (), describe(scene.shapes), weight=DESCRIPTION_WEIGHT, has_one_answer=False)
    return Lesson(scene, (own, *short, *in_words, *_binding(seed, number), description))


def describe(shapes: Sequence[Any]) -> str:
    """A picture in words, one sentence for each quarter."""
    at = {shape.place: shape for shape in shapes}
    sentences = []
    for place in shapesqa().PLACES:
        shape = at.get(place)
        what = f"{'large' if shape.large else 'small'} {shape.colour} {shape.shape}" if shape else NOTHING
        sentences.append(f"{place} {what}.")
    return " ".join(sentences)


def _binding(seed: int, number: int) -> list[Turn]:
    """Turns that ask which letter stands before a given word: every lettered question needs this, without seeing."""
    dice = shapesqa().Dice(seed, _BINDING_STREAM, number)
    turns = []
    for _ in range(N_BINDING):
        choices = dice.sample(dice.pick(list(shapesqa().VALUES.values())), 2 + dice.below(3))
        answer = dice.pick(choices)
        turns.append(Turn(f" {answer}", tuple(choices), answer))
    return turns


def _lettered(shapes: Sequence[Any], dice: Any) -> Turn:
    """A question of a random kind about a picture that was made for another one."""
    while True:
        kind = dice.pick(_DRAWN_FROM)
        question, right, wrong = _KINDS[kind](shapes, dice)
        if wrong:  # else the kind does not fit this picture
            break
    n_wrong = 1 + dice.below(min(3, len(wrong)))
    choices = dice.sample(wrong, n_wrong)
    choices.insert(dice.below(n_wrong + 1), right)
    return Turn(question, tuple(choices), right, has_one_answer=kind != "colour_present")


Asked = tuple[str, str, list[str]]
"""A question, its right answer, and all wrong ones; none where the kind does not fit the picture."""


def _colour_at(shapes: Sequence[Any], dice: Any) -> Asked:
    shape = dice.pick(shapes)
    return f"What colour is the shape at the {shape.place}?", shape.colour, _others("colour_at", shape.colour)


def _shape_at(shapes: Sequence[Any], dice: Any) -> Asked:
    shape = dice.pick(shapes)
    return f"Which shape is at the {shape.place}?", shape.shape, _others("shape_at", shape.shape)


def _count(shapes: Sequence[Any], dice: Any) -> Asked:
    return "How many shapes are there?", str(len(shapes)), _others("count", str(len(shapes)))


def _count_colour(shapes: Sequence[Any], dice: Any) -> Asked:
    colour = dice.pick([*shapesqa().COLOURS, *(shape.colour for shape in shapes)])
    count = sum(shape.colour == colour for shape in shapes)
    wrong = _others("count_colour", str(count)) if str(count) in shapesqa().VALUES["count_colour"] else []
    return f"How many {colour} shapes are there?", str(count), wrong


def _colour_present(shapes: Sequence[Any], dice: Any) -> Asked:
    present = {shape.colour for shape in shapes}
    absent = [colour for colour in shapesqa().COLOURS if colour not in present]
    return "Which of these colours is in the picture?", dice.pick(shapes).colour, absent


def _where(shapes: Sequence[Any], dice: Any) -> Asked:
    shape = dice.pick(shapes)
    alike = sum((other.colour, other.shape) == (shape.colour, shape.shape) for other in shapes)
    wrong = _others("where", shape.place) if alike == 1 else []
    return f"Where is the {shape.colour} {shape.shape}?", shape.place, wrong


def _large_colour(shapes: Sequence[Any], dice: Any) -> Asked:
    large = [shape.colour for shape in shapes if shape.large]
    wrong = _others("large_colour", large[0]) if len(large) == 1 else []
    return "What colour is the large shape?", "".join(large[:1]), wrong


_KINDS: dict[str, Callable[[Sequence[Any], Any], Asked]] = {
    "colour_at": _colour_at,
    "shape_at": _shape_at,
    "count": _count,
    "count_colour": _count_colour,
    "colour_present": _colour_present,
    "where": _where,
    "large_colour": _large_colour,
}

_DRAWN_FROM = (*_KINDS, "shape_at", "where", "where")
"""The hardest kinds are asked more often: where two attributes have to be found together, and forms told apart."""


def _others(kind: str, right: str) -> list[str]:
    return [value for value in shapesqa().VALUES[kind] if value != right]
