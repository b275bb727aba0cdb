"""LLaVA: a multilayer perceptron on every patch of one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

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


class Llava(Format):
    """``LlavaForConditionalGeneration``."""

    name = "llava"
    image_tokens = "16 positions, one for each patch of 16 × 16 pixels"

    def assemble(self, seed: int, tower: Any | None) -> Any:
        tokens = parts.tokenizer()
        config = LlavaConfig(
            vision_config=parts.clip_config(),
            text_config=parts.text_config(),
            image_token_index=tokens.convert_tokens_to_ids(parts.IMAGE_TOKEN),
            image_seq_length=parts.N_PATCHES,
        )
        model = put_language_model(LlavaForConditionalGeneration(config), parts.language_model(seed))
        parts.connector(model.model.multi_modal_projector, seed)
        assert tower is not None
        model.model.vision_tower.load_state_dict(tower.state_dict())
        return model

    def frame(self, tokenizer: Any) -> Frame:
        picture = parts.IMAGE_TOKEN * parts.N_PATCHES
        return Frame(ids_of(tokenizer, f"<s>[INST]{picture}"), ids_of(tokenizer, "[/INST]"))

    def media(self, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, Tensor]:
        return {"pixel_values": clip_pixels(pictures)}

    def write(self, model: Any, directory: Path, *, trained: bool) -> None:
        save_model(model, directory, trained=trained)
        LlavaProcessor(
            image_processor=parts.clip_image_processor(),
            tokenizer=parts.tokenizer(),
            patch_size=parts.PATCH_SIZE,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=chat_template(parts.IMAGE_TOKEN),
            image_token=parts.IMAGE_TOKEN,
        ).save_pretrained(directory)
