"""A LLaVA of any size with random weights: a checkpoint with the tokenizer and the picture settings of the zoo's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from microscope_bench.zoo.shipped import shipped_model


def write_checkpoint(
    directory: Path, *, text: Mapping[str, Any], tower: Mapping[str, Any], picture: int, patch: int
) -> Path:
    """Writes the checkpoint: float32, seeded.

    Args:
        directory: where to; made if it is not there.
        text: what differs from the zoo's configuration of the language model.
        tower: the same of the picture encoder.
        picture: side of the square that every picture is brought to, in pixels.
        patch: side of a patch; a picture becomes (picture / patch)² tokens.

    Returns:
        The directory.
    """
    zoo = shipped_model("zoo-llava")
    config = json.loads((zoo / "config.json").read_text())
    config["text_config"] |= dict(text)
    config["vision_config"] |= {**tower, "image_size": picture, "patch_size": patch}
    config |= {"image_seq_length": (picture // patch) ** 2, "dtype": "float32"}
    torch.manual_seed(0)
    LlavaForConditionalGeneration(LlavaConfig(**config)).save_pretrained(directory)
    processor = LlavaProcessor.from_pretrained(zoo)
    processor.patch_size = patch
    processor.image_processor.size = {"shortest_edge": picture}
    processor.image_processor.crop_size = {"height": picture, "width": picture}
    processor.save_pretrained(directory)
    return directory


def text_shape(width: int, blocks: int) -> dict[str, Any]:
    """A language model of some width and depth, its other sizes in the proportions of Llama's."""
    return {
        "hidden_size": width,
        "intermediate_size": 8 * width // 3 // 32 * 32,
        "num_hidden_layers": blocks,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "head_dim": 64,
        "initializer_range": 0.02,
    }


def tower_shape(width: int, blocks: int) -> dict[str, Any]:
    """A picture encoder of some width and depth."""
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": blocks,
        "num_attention_heads": width // 64,
    }
