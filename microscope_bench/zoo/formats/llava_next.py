"""LLaVA-NeXT: the picture once as a whole and once as tiles of twice the resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from microscope_bench.zoo import parts
from microscope_bench.zoo.formats.base import clip_pixels
from microscope_bench.zoo.formats.llava import Llava

SIDE = 2 * parts.IMAGE_SIZE
PINPOINTS = [[SIDE, SIDE]]
"""One grid of 2 × 2 tiles for every picture; with several, a small square picture would get half-empty tiles."""
_ROWS = SIDE // parts.PATCH_SIZE


class LlavaNext(Llava):
    """``LlavaNextForConditionalGeneration``."""

    name = "llava-next"
    image_tokens = "88 positions: 16 patches of the whole picture, 64 of its 2 × 2 tiles, 8 newlines"
    n_positions = parts.N_PATCHES + _ROWS * (_ROWS + 1)  # of a square picture: a newline follows each row of the tiles
    model_class = LlavaNextForConditionalGeneration
    processor_class = LlavaNextProcessor

    def config(self, **options: Any) -> Any:
        return super().config(image_grid_pinpoints=PINPOINTS, **options)

    def image_processor(self) -> Any:
        return LlavaNextImageProcessorPil(**parts.CLIP_PICTURES, image_grid_pinpoints=PINPOINTS)

    def build(self, seed: int) -> Any:
        model = super().build(seed)
        with torch.no_grad():
            model.model.image_newline.copy_(parts.vectors(seed, parts.HIDDEN_SIZE))
        return model

    def media(self, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, Tensor]:
        views: list[NDArray[np.uint8]] = []
        for picture in pictures:
            enlarged = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            half = parts.IMAGE_SIZE
            corners = [(top, left) for top in (0, half) for left in (0, half)]
            views += [picture, *(enlarged[top : top + half, left : left + half] for top, left in corners)]
        pixels = clip_pixels(views)
        sizes = torch.tensor([picture.shape[:2] for picture in pictures])
        return {"pixel_values": pixels.view(len(pictures), -1, *pixels.shape[1:]), "image_sizes": sizes}
