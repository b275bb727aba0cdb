"""LLaVA: a multilayer perceptron on every patch of one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import LlavaForConditionalGeneration, LlavaProcessor

from microscope_bench.zoo import parts
from microscope_bench.zoo.batches import Frame
from microscope_bench.zoo.formats.base import Format, chat_template, ids_of, put_language_model, save_model


class Llava(Format):
    """``LlavaForConditionalGeneration``."""

    name = "llava"
    image_tokens = "16 positions, one for each patch of 16 × 16 pixels"
    n_positions = parts.N_PATCHES
    model_class: Any = LlavaForConditionalGeneration
    processor_class: Any = LlavaProcessor

    def config(self, **options: Any) -> Any:
        return self.model_class.config_class(
            vision_config=parts.clip_config(),
            text_config=parts.text_config(),
            image_token_index=parts.tokenizer().convert_tokens_to_ids(parts.IMAGE_TOKEN),
            image_seq_length=parts.N_PATCHES,
            **options,
        )

    def image_processor(self) -> Any:
        return parts.clip_image_processor()

    def build(self, seed: int) -> Any:
        model = put_language_model(self.model_class(self.config()), parts.language_model(seed))
        parts.connector(model.model.multi_modal_projector, seed)
        return model

    def frame(self, tokenizer: Any) -> Frame:
        picture = parts.IMAGE_TOKEN * self.n_positions
        return Frame(ids_of(tokenizer, f"<s>[INST]{picture}"), ids_of(tokenizer, "[/INST]"))

    def write(self, model: Any, directory: Path, *, trained: bool) -> None:
        save_model(model, directory, trained=trained)
        self.processor_class(
            image_processor=self.image_processor(),
            tokenizer=parts.tokenizer(),
            patch_size=parts.PATCH_SIZE,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=chat_template(parts.IMAGE_TOKEN),
            image_token=parts.IMAGE_TOKEN,
        ).save_pretrained(directory)
