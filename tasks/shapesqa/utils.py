"""shapesqa: multiple-choice questions about drawings of one to four shapes, made by arithmetic on integers alone.

Question ``i`` of a split depends on (seed, split, i) only, so a longer set starts with the shorter one, and it is the
same on every machine: numpy guarantees the raw stream of PCG64, and the drawing rounds nothing.

What keeps a model from answering without looking:

- In each run of 63 questions every kind meets every place of the right letter among 2, 3 and 4 choices exactly once.
- Right option and distractors are one uniform draw without repetition from the kind's values, and the question's
  wording is drawn apart from it. Given the text, every option is therefore equally likely; blind accuracy is 1/3.
- The distractors are, as far as the question allows, things that are in the picture as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import datasets

T = TypeVar("T")

SPLITS = ("train", "validation", "test")
PLACES = ("top left", "top right", "bottom left", "bottom right")
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (40, 80, 210),
    "yellow": (240, 200, 30),
    "purple": (150, 60, 190),
    "black": (20, 20, 20),
}
VALUES = {
    "colour_at": tuple(COLOURS),
    "shape_at": SHAPES,
    "count": ("1", "2", "3", "4"),
    "count_colour": ("0", "1", "2", "3"),
    "colour_present": tuple(COLOURS),
    "where": PLACES,
    "large_colour": tuple(COLOURS),
}
"""The kinds of question, and what can be the answer of each."""

CELLS = [(kind, n, slot) for kind in VALUES for n in (2, 3, 4) for slot in range(n)]
"""All combinations of kind, number of choices and place of the right one: 7 x 9."""


class Shape(NamedTuple):
    """One shape of a picture.

    Attributes:
        place: which quarter of the picture, a member of PLACES.
        shape: a member of SHAPES.
        colour: a key of COLOURS.
        large: twice as wide as a small one.
        jitter: by how many thirty-seconds of its quarter it is off the centre, right and down; -2 .. 2.
    """

    place: str
    shape: str
    colour: str
    large: bool
    jitter: tuple[int, int]


# no dataclasses: lm-eval runs this file as a module that it has not registered yet, which they cannot stand
class Scene(NamedTuple):
    """One question with what its picture shows. ``choices[answer]`` is right; background is a grey level."""

    kind: str
    question: str
    choices: tuple[str, ...]
    answer: int
    shapes: tuple[Shape, ...]
    background: int


class Dice:
    """Random integers from numpy's raw PCG64 stream, the part of numpy.random that never changes."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def below(self, n: int) -> int:
        """0 .. n-1; the remainder of 64 bits is uniform for all that matters here (bias below n / 2**64)."""
        return int(self._bits.random_raw()) % n

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def sample(self, options: Sequence[T], n: int) -> list[T]:
        """N different ones in random order."""
        left = list(options)
        return [left.pop(self.below(len(left))) for _ in range(n)]


def scene(seed: int, split: str, index: int) -> Scene:
    """Question ``index`` of a split, 0 and up."""
    block, position = divmod(index, len(CELLS))
    kind, n_choices, slot = _block(seed, split, block)[position]
    dice = Dice(seed, SPLITS.index(split), 0, index)
    right, *wrong = dice.sample(VALUES[kind], n_choices)
    question, shapes = _ask(kind, right, wrong, dice)
    choices = (*wrong[:slot], right, *wrong[slot:])
    return Scene(kind, question, choices, slot, tuple(shapes), background=224 + dice.below(32))


@lru_cache(maxsize=16)
def _block(seed: int, split: str, block: int) -> list[tuple[str, int, int]]:
    """The cells of 63 consecutive questions: each cell once, in random order."""
    return Dice(seed, SPLITS.index(split), 1, block).sample(CELLS, len(CELLS))


def _ask(kind: str, right: str, wrong: list[str], dice: Dice) -> tuple[str, list[Shape]]:
    """Words a question and composes shapes of which ``right`` is true and none of ``wrong``."""
    options = [right, *wrong]
    colours = tuple(COLOURS)
    if kind in ("colour_at", "shape_at"):
        place, *others = dice.sample(PLACES, 2 + dice.below(3))
        if kind == "colour_at":
            shapes = [_shape(dice, place, colour=right)]
            shapes += [_shape(dice, other, colour=dice.pick(options)) for other in others]
            return f"What colour is the shape at the {place}?", shapes
        shapes = [_shape(dice, place, shape=right)]
        shapes += [_shape(dice, other, shape=dice.pick(options)) for other in others]
        return f"Which shape is at the {place}?", shapes
    if kind == "count":
        return "How many shapes are there?", [_shape(dice, place) for place in dice.sample(PLACES, int(right))]
    if kind == "count_colour":
        asked, n_asked = dice.pick(colours), int(right)
        other_colours = [colour for colour in colours if colour != asked]
        n_shapes = max(n_asked, 1) + dice.below(5 - max(n_asked, 1))
        shapes = [
            _shape(dice, place, colour=asked if number < n_asked else dice.pick(other_colours))
            for number, place in enumerate(dice.sample(PLACES, n_shapes))
        ]
        return f"How many {asked} shapes are there?", shapes
    if kind == "colour_present":
        place, *others = dice.sample(PLACES, 1 + dice.below(4))
        not_wrong = [colour for colour in colours if colour not in wrong]
        shapes = [_shape(dice, place, colour=right)]
        return "Which of these colours is in the picture?", shapes + [
            _shape(dice, other, colour=dice.pick(not_wrong)) for other in others
        ]
    if kind == "where":
        colour, shape = dice.pick(colours), dice.pick(SHAPES)
        elsewhere = wrong + dice.sample([place for place in PLACES if place not in options], 4 - len(options))
        others = elsewhere[: 1 + dice.below(3)]
        shapes = [_shape(dice, right, shape=shape, colour=colour)]
        return f"Where is the {colour} {shape}?", shapes + [_confuser(dice, other, shape, colour) for other in others]
    place, *others = dice.sample(PLACES, len(options) + dice.below(5 - len(options)))
    shapes = [_shape(dice, place, colour=right, large=True)]
    small = wrong + [dice.pick(wrong) for _ in others[len(wrong) :]]
    shapes += [_shape(dice, other, colour=c, large=False) for other, c in zip(others, small, strict=True)]
    return "What colour is the large shape?", shapes


def _shape(
    dice: Dice, place: str, *, shape: str | None = None, colour: str | None = None, large: bool | None = None
) -> Shape:
    """A shape at a place; what is not said is random."""
    return Shape(
        place,
        shape or dice.pick(SHAPES),
        colour or dice.pick(tuple(COLOURS)),
        bool(dice.below(2)) if large is None else large,
        (dice.below(5) - 2, dice.below(5) - 2),
    )


def _confuser(dice: Dice, place: str, shape: str, colour: str) -> Shape:
    """A shape that shares either its form or its colour with another one, never both."""
    if dice.below(2):
        return _shape(dice, place, shape=shape, colour=dice.pick([other for other in COLOURS if other != colour]))
    return _shape(dice, place, shape=dice.pick([other for other in SHAPES if other != shape]), colour=colour)


def draw(drawn: Scene, size: int = 64) -> NDArray[np.uint8]:
    """The picture of a scene: (size, size, 3) uint8. All arithmetic is on integers, so every machine draws the same."""
    if size < 32 or size % 2:
        raise ValueError(f"size must be an even number of at least 32 pixels, not {size}")
    picture = np.full((size, size, 3), drawn.background, dtype=np.uint8)
    quarter = size // 2
    pixels = np.arange(quarter)
    for shape in drawn.shapes:
        row, column = divmod(PLACES.index(shape.place), 2)
        # in half pixels, so that the centre between two pixels is a whole number
        centre = [quarter + 2 * (quarter * step // 32) for step in shape.jitter]
        x = (2 * pixels + 1 - centre[0])[None, :]
        y = (2 * pixels + 1 - centre[1])[:, None]
        covered = _covered(shape.shape, x, y, 2 * (3 * quarter // (8 if shape.large else 16)))
        picture[row * quarter : (row + 1) * quarter, column * quarter : (column + 1) * quarter][covered] = COLOURS[
            shape.colour
        ]
    return picture


def _covered(shape: str, x: NDArray[np.int64], y: NDArray[np.int64], radius: int) -> Any:
    """Which pixels a shape covers: (height, width) bool. x: (1, width), y: (height, 1), from its centre, downwards."""
    if shape == "circle":
        return x * x + y * y <= radius * radius
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= radius * 7 // 8
    if shape == "triangle":
        return (2 * abs(x) <= y + radius) & (y <= radius)
    if shape == "diamond":
        return abs(x) + abs(y) <= radius
    return (np.minimum(abs(x), abs(y)) <= radius // 3) & (np.maximum(abs(x), abs(y)) <= radius)


class _Splits(Mapping[str, "datasets.Dataset"]):
    """The splits by name, each made when it is asked for."""

    def __init__(self, make: Callable[[str], datasets.Dataset]) -> None:
        self._make = cache(make)

    def __getitem__(self, split: str) -> datasets.Dataset:
        if split not in SPLITS:
            raise KeyError(split)
        return self._make(split)

    def __iter__(self) -> Iterator[str]:
        return iter(SPLITS)

    def __len__(self) -> int:
        return len(SPLITS)


def load(n: int = 500, seed: int = 0, size: int = 64, **_: Any) -> Mapping[str, datasets.Dataset]:
    """Split name → ``n`` questions with ScienceQA's columns and ``kind``; a row's ``image`` is drawn when it is read.

    Args:
        n: questions per split.
        seed: of the data; splits of one seed share no random numbers.
        size: side of the square pictures, in pixels.
    """
    import datasets  # takes a second, which a mistyped argument need not wait for

    if n < 1 or seed < 0:
        raise ValueError(f"n must be at least 1 and seed at least 0, not n={n}, seed={seed}")
    draw(scene(seed, "test", 0), size)  # a size that cannot be drawn shows now

    def with_pictures(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "id" not in rows:  # somebody reads single columns
            return rows
        places = [row_id.rsplit("-", 1) for row_id in rows["id"]]
        pictures = [Image.fromarray(draw(scene(seed, split, int(index)), size)) for split, index in places]
        return {**rows, "image": pictures}

    def made(split: str) -> datasets.Dataset:
        return datasets.Dataset.from_list([_row(seed, split, index) for index in range(n)]).with_transform(
            with_pictures
        )

    return _Splits(made)


def open_image(row: Mapping[str, Any]) -> list[Image.Image]:
    """The question's picture."""
    return [row["image"]]


def _row(seed: int, split: str, index: int) -> dict[str, Any]:
    asked = scene(seed, split, index)
    return {
        "id": f"{split}-{index}",
        "question": asked.question,
        "choices": list(asked.choices),
        "answer": asked.answer,
        "hint": "",
        "task": "closed choice",
        "grade": "",
        "subject": "shapes",
        "topic": "",
        "category": "",
        "skill": "",
        "lecture": "",
        "solution": "",
        "kind": asked.kind,
    }
