"""Fuyu: no encoder; the pixels of a patch go through one linear map into the language model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, normalizers
from torch import Tensor
from transformers import FuyuConfig, FuyuForCausalLM, FuyuProcessor
from transformers.models.fuyu.image_processing_pil_fuyu import FuyuImageProcessorPil

from microscope_bench.zoo import parts
from microscope_bench.zoo.batches import Frame
from microscope_bench.zoo.formats.base import Format, ids_of, put_language_model, save_model
from microscope_bench.zoo.tokenizer import FUYU_NEWLINE, FUYU_PATCH

_ROWS = parts.IMAGE_SIZE // parts.PATCH_SIZE


class Fuyu(Format):
    """``FuyuForCausalLM`` with the zoo's language model; the published one has Persimmon there."""

    name = "fuyu"
    tower = None
    image_tokens = "20 positions: 16 patches of 16 × 16 pixels and a newline behind each row of four, before BOS"

    def build(self, seed: int) -> Any:
        config = FuyuConfig(
            text_config=parts.text_config(),
            image_size=parts.IMAGE_SIZE,
            patch_size=parts.PATCH_SIZE,
            image_token_id=parts.tokenizer().convert_tokens_to_ids(FUYU_PATCH),
        )
        model = put_language_model(FuyuForCausalLM(config), parts.language_model(seed))
        parts.connector(model.model.vision_embed_tokens, seed)
        return model

    def frame(self, tokenizer: Any) -> Frame:
        rows = (FUYU_PATCH * _ROWS + FUYU_NEWLINE) * _ROWS
        before = ids_of(tokenizer, f"{rows}<s>")[1:]  # as the processor does it
        return Frame(before, ids_of(tokenizer, parts.FUYU_ANSWER))

    def media(self, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, Tensor]:
        processor = _image_processor()
        scaled = (np.stack(pictures) * processor.rescale_factor - 0.5) / 0.5
        size = parts.PATCH_SIZE
        patches = scaled.reshape(len(pictures), _ROWS, size, _ROWS, size, 3).transpose(0, 1, 3, 2, 4, 5)
        return {"pixel_values": torch.from_numpy(patches.reshape(-1, size * size * 3).astype(np.float32))}

    def write(self, model: Any, directory: Path, *, trained: bool) -> None:
        save_model(model, directory, trained=trained)
        FuyuProcessor(image_processor=_image_processor(), tokenizer=_tokenizer()).save_pretrained(directory)

    def tower_of(self, model: Any) -> Any:
        return None


def _tokenizer() -> Any:
    """The zoo's tokenizer, with the blank that Fuyu's processor drops before pictures one patch wide too."""
    tokenizer = parts.tokenizer()
    narrow = FUYU_PATCH + FUYU_NEWLINE
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence(
        [backend.normalizer, normalizers.Replace(Regex(f"^{re.escape(narrow)}"), f" {narrow}")]
    )
    return tokenizer


def _image_processor() -> FuyuImageProcessorPil:
    return FuyuImageProcessorPil(
        size={"height": parts.IMAGE_SIZE, "width": parts.IMAGE_SIZE},
        patch_size={"height": parts.PATCH_SIZE, "width": parts.PATCH_SIZE},
    )
