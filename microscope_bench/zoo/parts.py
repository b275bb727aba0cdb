"""The parts that all models of the zoo share: tokenizer, language model and vision tower."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Blip2VisionConfig,
    Blip2VisionModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    MistralConfig,
    MistralForCausalLM,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from microscope_bench.zoo.tokenizer import FUYU_NEWLINE, FUYU_PATCH, build_byte_tokenizer

HIDDEN_SIZE = 128
N_LAYERS = 6
HEADS = 4
FEED_FORWARD = 256
VISION_LAYERS = 3
IMAGE_SIZE = 64
"""Side of the pictures a tower sees, and of shapesqa's drawings."""
PATCH_SIZE = 16
N_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2

IMAGE_TOKEN = "<image>"
FUYU_ANSWER = "<0x04>"
_FUYU_BOXES = ("<0x00>", "<0x01>", "<0x02>", "<0x03>")
SPECIAL_TOKENS = (IMAGE_TOKEN, "[INST]", "[/INST]", FUYU_PATCH, FUYU_NEWLINE, *_FUYU_BOXES, FUYU_ANSWER)
"""The marks of all formats, so that every model of the zoo has the same vocabulary."""

# transformers' default of 0.02 is made for wide models: at this width the residual stream would hardly change.
WEIGHT_STD = 0.06
_LANGUAGE_MODEL, _VISION_TOWER, _CONNECTOR, _HEADS = range(4)


def tokenizer() -> Any:
    return build_byte_tokenizer(SPECIAL_TOKENS)


def text_config() -> MistralConfig:
    tokens = tokenizer()
    return MistralConfig(
        vocab_size=len(tokens),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HIDDEN_SIZE // HEADS,
        # About one token per byte of unknown text: ScienceQA's longest test question has 2,243, other splits' several
        # thousand. Rotary positions have no weights, so room costs nothing.
        max_position_embeddings=16384,
        sliding_window=None,
        initializer_range=WEIGHT_STD,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        tie_word_embeddings=False,
    )


_TOWER_SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": FEED_FORWARD,
    "num_hidden_layers": VISION_LAYERS,
    "num_attention_heads": HEADS,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
}
CLIP_PICTURES: dict[str, Any] = {
    "size": {"shortest_edge": IMAGE_SIZE},
    "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
}


def clip_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(**_TOWER_SIZES)


def blip2_config() -> Blip2VisionConfig:
    """The configuration of BLIP-2's vision tower: the same sizes, but its class has no norm behind the embeddings."""
    return Blip2VisionConfig(**_TOWER_SIZES, hidden_act="quick_gelu", layer_norm_eps=1e-5)


def clip_image_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(**CLIP_PICTURES)


def language_model(seed: int) -> MistralForCausalLM:
    """The untrained language model of a seed, the same for every fusion."""
    return fill(MistralForCausalLM(text_config()), seed, _LANGUAGE_MODEL)


def vision_tower(kind: str, seed: int) -> Any:
    """The untrained vision tower of a seed; the kind is "clip" or "blip-2"."""
    tower: Any = CLIPVisionModel(clip_config()) if kind == "clip" else Blip2VisionModel(blip2_config())
    return fill(tower, seed, _VISION_TOWER)


def connector(module: nn.Module, seed: int) -> Any:
    """The module between tower and language model, with its untrained weights."""
    return fill(module, seed, _CONNECTOR)


def heads(module: nn.Module, seed: int) -> Any:
    """A module that is used in training only, with its untrained weights."""
    return fill(module, seed, _HEADS)


def vectors(seed: int, *shape: int) -> Tensor:
    """Random learned vectors (``image_newline``, special embeddings, queries) of a seed; float32."""
    return torch.randn(*shape, generator=_generator(seed, _CONNECTOR + 10)) * WEIGHT_STD


def fill(module: Any, seed: int, part: int) -> Any:
    """Sets every parameter in the order of names: biases 0, scales of norms 1, all others normal (WEIGHT_STD)."""
    generator = _generator(seed, part)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name.lower():
                parameter.fill_(1.0)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * WEIGHT_STD)
    return module


def _generator(seed: int, part: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * seed + part)
