"""Controls that change the pictures of a task's examples."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from microscope_bench.capture.fingerprints import media_sha256
from microscope_bench.capture.selection import token_hashes
from microscope_bench.controls import Run
from microscope_bench.errors import ExampleError, MicroscopeError
from microscope_bench.example import IMAGE_PLACEHOLDER, WORD_MARK, Example, ExampleSource, as_words

LOG = logging.getLogger("microscope_bench")
_PLACEHOLDERS = re.compile(rf"(\s*){IMAGE_PLACEHOLDER}(?:\s*{IMAGE_PLACEHOLDER})*(\s*)")


class ChangedExamples:
    """A task whose examples go through ``change``: (index, example) → the example to measure."""

    def __init__(self, source: ExampleSource, change: Callable[[int, Example], Example]) -> None:
        self._source = source
        self._change = change

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def version(self) -> str:
        return self._source.version

    @property
    def dataset(self) -> Any:
        return self._source.dataset

    @property
    def ids(self) -> Sequence[str]:
        return self._source.ids

    def example(self, index: int) -> Example:
        example = self._source.example(index)
        return replace(self._change(index, example), dataset_media=media_sha256(example))


@dataclass(frozen=True)
class _Picture:
    """Picture ``number`` of example ``index``."""

    index: int
    number: int
    sha256: str | None


def noise_image(run: Run) -> Run:
    """Each picture replaced by noise of its size: uniform bytes from a hash of the seed and the picture."""
    _require_pictures(run, "noise_image")

    def change(index: int, example: Example) -> Example:
        pictures = (media_sha256(replace(example, images=(image,))) for image in example.images)
        keys = [f"noise_image\0{run.seed}\0{picture}" for picture in pictures]
        noise = tuple(_noise(image, key) for image, key in zip(example.images, keys, strict=True))
        return replace(example, images=noise, converted_from=())

    return replace(run, source=ChangedExamples(run.source, change))


def text_only(run: Run) -> Run:
    """Pictures and their placeholders left out, with the white space that only set the placeholders off."""
    if run.adapter.needs_image:
        raise MicroscopeError(
            f"control text_only: {run.adapter.info.name} ({run.adapter.info.architecture}) takes no prompt without a "
            f"picture; use noise_image or shuffled_image"
        )
    _require_pictures(run, "text_only")

    def change(index: int, example: Example) -> Example:
        text = _without_places(example.text, len(example.images))
        left, turns = len(example.images), []
        for role, content in example.turns:
            turns.append((role, _without_places(content, left)))
            left = max(0, left - content.count(IMAGE_PLACEHOLDER))
        return replace(example, text=text, turns=tuple(turns), images=(), converted_from=())

    return replace(run, source=ChangedExamples(run.source, change))


def _without_places(text: str, n: int) -> str:
    """A text without its first ``n`` placeholders; any further one is a word."""
    return _PLACEHOLDERS.sub(_white_space_left, as_words(text, IMAGE_PLACEHOLDER, n)).replace(WORD_MARK, "")


def shuffled_image(run: Run) -> Run:
    """The pictures of the measured examples permuted among them.

    No example gets a picture of its own (a MicroscopeError where that cannot be avoided), nor, if possible, one of an
    example with which it shares a picture. The places of all pictures are one list, so examples may have different
    numbers of them. Pictures keep their sizes, so an example's number of image tokens may change.
    """
    LOG.info("shuffled_image: reading the pictures of %d examples", run.n_examples)
    pictures = [
        _Picture(index, number, media_sha256(replace(example, images=(image,))))
        for index, example in _readable(run)
        for number, image in enumerate(example.images)
    ]
    if not pictures:
        raise _without_pictures(run, "shuffled_image")
    given = defaultdict(list)
    for place, donor in enumerate(_exchange(pictures, f"shuffled_image\0{run.seed}")):
        given[pictures[place].index].append(pictures[donor])

    def change(index: int, example: Example) -> Example:
        if len(given[index]) != len(example.images):
            raise ExampleError(example.id, "its pictures could not be read when the pictures were shuffled")
        donors = {picture.index: run.source.example(picture.index) for picture in given[index]}
        return replace(
            example,
            images=tuple(donors[picture.index].images[picture.number] for picture in given[index]),
            converted_from=tuple(mode for donor in donors.values() for mode in donor.converted_from),
        )

    return replace(run, source=ChangedExamples(run.source, change))


def _exchange(pictures: Sequence[_Picture], key: str) -> list[int]:
    """For each place the number of the picture that goes there.

    Pictures that must not be exchanged form a group. The groups are laid side by side in random order, and each place
    gets the picture that is as many places further as the largest group is long. That leads out of every group, unless
    one has more than half of all pictures; then as few as possible stay in it.
    """
    groups = _linked(pictures)
    largest = max(Counter(groups).values())
    hashes = token_hashes(np.arange(len(pictures)), key).tolist()
    rank: dict[object, int] = {}
    for group, value in zip(groups, hashes, strict=True):
        rank[group] = min(value, rank.get(group, value))
    order = sorted(range(len(pictures)), key=lambda place: (rank[groups[place]], hashes[place]))
    donors = [0] * len(pictures)
    for position, place in enumerate(order):
        donors[place] = order[(position + largest) % len(order)]
    if any(pictures[place].index == pictures[donor].index for place, donor in enumerate(donors)):
        raise MicroscopeError(
            f"control shuffled_image: {largest} of the {len(pictures)} pictures are the same or of examples that share "
            f"one, so some example would keep its own; measure more examples, or use noise_image"
        )
    if same := sum(pictures[place].sha256 == pictures[donor].sha256 for place, donor in enumerate(donors)):
        LOG.warning("shuffled_image: %d of %d pictures are replaced by one that looks the same", same, len(pictures))
    return donors


def _linked(pictures: Sequence[_Picture]) -> list[object]:
    """The group of each picture: the pictures of examples that share one, directly or in a chain, are one group."""
    parent: dict[object, object] = {}

    def root(node: object) -> object:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for picture in pictures:
        parent[root(picture.index)] = root(picture.sha256)
    return [root(picture.index) for picture in pictures]


def _noise(image: Image.Image, key: str) -> Image.Image:
    size = image.width * image.height * 3
    noise = token_hashes(np.arange(-(-size // 8)), key).astype("<u8").tobytes()[:size]
    return Image.frombytes("RGB", image.size, noise)


def _white_space_left(match: re.Match[str]) -> str:
    """Replaces placeholders by the larger of the gaps around them; at an end of the text by the outer one."""
    before, after = match.groups()
    if match.start() == 0:
        return str(before)
    if match.end() == len(match.string):
        return str(after)
    return max(before, after, key=lambda gap: (gap.count("\n"), len(gap)))


def _readable(run: Run) -> Iterator[tuple[int, Example]]:
    for index in range(run.n_examples):
        try:
            yield index, run.source.example(index)
        except ExampleError:
            continue  # the capture names it and leaves it out


def _require_pictures(run: Run, control: str) -> None:
    if not any(example.images for _, example in _readable(run)):
        raise _without_pictures(run, control)


def _without_pictures(run: Run, control: str) -> MicroscopeError:
    return MicroscopeError(
        f"control {control}: none of the {run.n_examples} measured examples of {run.source.name} has a picture that "
        f"can be read; choose a task with pictures (scienceqa_img, shapesqa)"
    )
