"""Where in its picture an image token lies, as far as that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
from PIL.Image import Image
from torch import Tensor

from microscope_bench.adapters.base import IMAGE, STRUCTURE

ONE_TOKEN_A_PATCH = (
    "LlavaForConditionalGeneration",
    "VipLlavaForConditionalGeneration",
    "PaliGemmaForConditionalGeneration",
    "OmniFusion",
)
"""Architectures whose image tokens are the patches of one square picture, row by row; told by how the name begins."""
WHOLE_AND_TILES = ("LlavaNextForConditionalGeneration",)
"""First the whole picture as a square, then its tiles joined, a newline behind each row."""
ROWS = ("FuyuForCausalLM",)
"""A newline behind each row of patches."""


@dataclass(frozen=True)
class View:
    """Image tokens that show one picture: ``positions``, int64 (n,), in the order of the sequence.

    ``grid`` is (rows, columns) with rows · columns = n; ``picture``, float (h, w, 3) in [0, 1], lies under it, edge to
    edge. Either is None where it is not known.
    """

    title: str
    positions: np.ndarray
    grid: tuple[int, int] | None = None
    picture: np.ndarray | None = None


def views(
    architecture: str,
    labels: np.ndarray,
    inputs: Mapping[str, Any],
    images: Sequence[Image],
    image_processor: Any = None,
) -> list[View]:
    """The image tokens of one example: a view or more for each picture, or one of all tokens without a grid.

    Args:
        architecture: Name of the model's class.
        labels: int8 (S,), those of every position.
        inputs: What the model is given of the example alone; ``pixel_values`` and ``image_grid_thw`` are read.
        images: The pictures of the example, in the order of the prompt.
        image_processor: Its ``image_mean`` and ``image_std`` turn ``pixel_values`` into colours again; without them the
            colours are stretched over [0, 1].
    """
    positions = np.flatnonzero(labels == IMAGE)
    if not len(positions):
        return []
    found = None
    if "image_grid_thw" in inputs:
        found = _by_grid(positions, inputs["image_grid_thw"], images)
    elif architecture.startswith(ONE_TOKEN_A_PATCH):
        found = _squares(positions, _seen(inputs, image_processor), images)
    elif len(images) == 1 and architecture.startswith(WHOLE_AND_TILES):
        found = _whole_and_tiles(labels, positions, _seen(inputs, image_processor), images[0])
    elif len(images) == 1 and architecture.startswith(ROWS):
        found = _rows(labels, positions, images[0])
    return found or [
        View(f"{len(positions)} image tokens in sequence; their places in the picture are not known", positions)
    ]


def _squares(positions: np.ndarray, seen: list[np.ndarray], images: Sequence[Image]) -> list[View] | None:
    n, rest = divmod(len(positions), max(len(images), 1))
    side = isqrt(n)
    if rest or side * side != n:
        return None
    return [
        View("image tokens", part, (side, side), seen[k] if k < len(seen) else None)
        for k, part in enumerate(np.split(positions, max(len(images), 1)))
    ]


def _whole_and_tiles(
    labels: np.ndarray, positions: np.ndarray, seen: list[np.ndarray], image: Image
) -> list[View] | None:
    first, *others = _runs(labels, positions)
    widths = {len(run) for run in others}
    if len(widths) != 1:
        return None
    width = widths.pop()
    n = len(first) - width
    side = isqrt(max(n, 0))
    if n <= 0 or side * side != n:
        return None
    tiles = (len(others) + 1, width)
    return [
        View("whole picture", positions[:n], (side, side), seen[0] if seen else None),
        View("its tiles", positions[n:], tiles, _pixels(image)),
    ]


def _rows(labels: np.ndarray, positions: np.ndarray, image: Image) -> list[View] | None:
    runs = _runs(labels, positions)
    if len({len(run) for run in runs}) != 1:
        return None
    rows, columns = len(runs), len(runs[0])
    # patches that stand over the edge are filled up: then the picture does not end where the grid does
    fits = abs(columns / rows - image.width / image.height) < 0.01 * columns / rows
    return [View("image tokens", positions, (rows, columns), _pixels(image) if fits else None)]


def _by_grid(positions: np.ndarray, grids: Any, images: Sequence[Image]) -> list[View] | None:
    sizes = [tuple(int(size) for size in grid) for grid in np.asarray(grids)]
    patches = sum(t * h * w for t, h, w in sizes)
    merge = isqrt(patches // len(positions))  # so many patches a side become one token
    shapes = [(t * h // max(merge, 1), w // max(merge, 1)) for t, h, w in sizes]
    if len(sizes) != len(images) or any(t != 1 for t, _, _ in sizes) or not merge:
        return None
    if sum(rows * columns for rows, columns in shapes) != len(positions):
        return None
    ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1]
    parts = np.split(positions, ends)
    return [View("image tokens", p, s, _pixels(i)) for p, s, i in zip(parts, shapes, images, strict=True)]


def _runs(labels: np.ndarray, positions: np.ndarray) -> list[np.ndarray]:
    """Image positions between the marks that break their rows."""
    breaks = [k for k in range(1, len(positions)) if (labels[positions[k - 1] + 1 : positions[k]] == STRUCTURE).any()]
    return np.split(positions, breaks)


def _seen(inputs: Mapping[str, Any], image_processor: Any) -> list[np.ndarray]:
    """The pictures as the model is given them, cropped and resized; of several views of one picture the first."""
    pixels = inputs.get("pixel_values")
    if not isinstance(pixels, Tensor) or pixels.dim() not in (4, 5) or pixels.shape[-3] != 3:
        return []
    pictures = (pixels if pixels.dim() == 4 else pixels[:, 0]).detach().float().cpu().movedim(1, -1).numpy()
    mean, std = getattr(image_processor, "image_mean", None), getattr(image_processor, "image_std", None)
    if mean is not None and std is not None:
        return list(np.clip(pictures * np.asarray(std) + np.asarray(mean), 0, 1))
    low, high = pictures.min(), pictures.max()
    return list((pictures - low) / max(high - low, 1e-12))


def _pixels(image: Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64) / 255
