"""Pictures of which an image processor cuts off much, so that no model sees it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from microscope_bench.adapters.base import Adapter
from microscope_bench.example import Example

LOG = logging.getLogger("microscope_bench")
MUCH = 1 / 3
"""The share of a picture's area above which it is told; a margin of a square picture is less."""


class CroppedPictures:
    """Counts the pictures of a run that lose more than :data:`MUCH` of their area."""

    def __init__(self, adapter: Adapter) -> None:
        whole: Any = getattr(adapter, "whole", adapter)  # of a tapped model
        processor = getattr(whole, "processor", None)
        self._processor = getattr(whole, "image_processor", None) or getattr(processor, "image_processor", None)
        self._lost: list[float] = []
        self._n = 0

    def see(self, examples: Iterable[Example]) -> None:
        """Counts the pictures of examples that a model has been given."""
        lost = [1 - shown_share(self._processor, *image.size) for example in examples for image in example.images]
        self._n += len(lost)
        self._lost += [share for share in lost if share > MUCH]

    def tell(self) -> None:
        """Warns, once, where there are any."""
        if self._lost:
            mean = sum(self._lost) / len(self._lost)
            LOG.warning(
                "%s crops pictures to their middle: %d of %d lose more than a third of their area, %.0f %% on average. "
                "Pad them in the task (doc_to_image: !function utils.padded) where the rest of them matters",
                type(self._processor).__name__,
                len(self._lost),
                self._n,
                100 * mean,
            )


def shown_share(image_processor: Any, width: int, height: int) -> float:
    """The share of a picture's area that an image processor of transformers leaves, by its settings."""
    crop = getattr(image_processor, "crop_size", None)
    # one that cuts a picture into tiles crops the tiles, which it has padded
    tiles = getattr(image_processor, "image_grid_pinpoints", None)
    if not getattr(image_processor, "do_center_crop", False) or crop is None or tiles is not None:
        return 1.0
    shape = (float(width), float(height))
    size = dict(image_processor.size or {}) if getattr(image_processor, "do_resize", False) else {}
    if edge := size.get("shortest_edge"):
        shape = (edge * width / min(width, height), edge * height / min(width, height))
    elif size.get("height") and size.get("width"):
        shape = (size["width"], size["height"])
    return float(min(crop["width"], shape[0]) * min(crop["height"], shape[1]) / (shape[0] * shape[1]))
