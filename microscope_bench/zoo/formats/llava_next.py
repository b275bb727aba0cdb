"""LLaVA-NeXT: the picture once as a whole and once as tiles of twice the resolution."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from microscope_bench.zoo import parts
from microscope_bench.zoo.batches import Frame
from microscope_bench.zoo.formats.base import (
    Format,
    chat_template,
    clip_pixels,
    ids_of,
    put_language_model,
    save_model,
)

SIDE = 2 * parts.IMAGE_SIZE
PINPOINTS = [[SIDE, SIDE]]
"""One grid of 2 × 2 tiles for every picture; with several, a small square picture would get half-empty tiles."""
_ROWS = 2 * parts.IMAGE_SIZE // parts.PATCH_SIZE
N_POSITIONS = parts.N_PATCHES + _ROWS * (_ROWS + 1)
"""Of a square picture: its patches, then those of the tiles row by row, with a newline behind each row."""


class LlavaNext(Format):
    """``LlavaNextForConditionalGeneration``."""

    name = "llava-next"
    image_tokens = "88 positions: 16 patches of the whole picture, 64 of its 2 × 2 tiles, 8 newlines"

    def assemble(self, seed: int, tower: Any | None) -> Any:
        tokens = parts.tokenizer()
        config = LlavaNextConfig(
            vision_config=parts.clip_config(),
            text_config=parts.text_config(),
            image_token_index=tokens.convert_tokens_to_ids(parts.IMAGE_TOKEN),
            image_grid_pinpoints=PINPOINTS,
            image_seq_length=parts.N_PATCHES,
        )
        model = put_language_model(LlavaNextForConditionalGeneration(config), parts.language_model(seed))
        parts.connector(model.model.multi_modal_projector, seed)
        with torch.no_grad():
            model.model.image_newline.copy_(parts.vectors(seed, parts.HIDDEN_SIZE))
        assert tower is not None
        model.model.vision_tower.load_state_dict(tower.state_dict())
        return model

    def frame(self, tokenizer: Any) -> Frame:
        picture = parts.IMAGE_TOKEN * N_POSITIONS
        return Frame(ids_of(tokenizer, f"<s>[INST]{picture}"), ids_of(tokenizer, "[/INST]"))

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

    def write(self, model: Any, directory: Path, *, trained: bool) -> None:
        save_model(model, directory, trained=trained)
        LlavaNextProcessor(
            image_processor=LlavaNextImageProcessorPil(
                size={"shortest_edge": parts.IMAGE_SIZE},
                crop_size={"height": parts.IMAGE_SIZE, "width": parts.IMAGE_SIZE},
                image_grid_pinpoints=PINPOINTS,
            ),
            tokenizer=parts.tokenizer(),
            patch_size=parts.PATCH_SIZE,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=chat_template(parts.IMAGE_TOKEN),
            image_token=parts.IMAGE_TOKEN,
        ).save_pretrained(directory)
