"""Two tiny untrained models in the formats of LLaVA-NeXT and OmniFusion, for demonstrations and tests.

Both have the same text and vision weights and differ only in how a picture enters the text model. The weights are
random: what is measured on them says that the instrument works, and nothing about trained models.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    MistralConfig,
    MistralForCausalLM,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from microscope_bench.adapters.models import UNTRAINED_KEY
from microscope_bench.adapters.omnifusion_model import SPECIAL_MARKS, VisualToGPTMapping
from microscope_bench.zoo.cache import build_once, cache_directory
from microscope_bench.zoo.tokenizer import build_byte_tokenizer

FORMAT_VERSION = 1
"""Part of the cache directory's name; raise it whenever the files that are built change."""

HIDDEN_SIZE = 96
IMAGE_SIZE = 112
PATCH_SIZE = 14
IMAGE_TOKEN = "<image>"
# The published LLaVA-NeXT grids, for a tower of this image size.
GRID_PINPOINTS = [
    [IMAGE_SIZE * rows, IMAGE_SIZE * columns] for rows, columns in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
]
CHAT_TEMPLATE = (
    "{% for message in messages %}[INST] "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    " [/INST]{% endfor %}"
)
"""Of a Mistral-based LLaVA-NeXT: the picture first, one user turn; the tokenizer puts BOS in front."""

# transformers' default of 0.02 is made for wide models: at this width the residual stream would hardly change.
_WEIGHT_STD = 0.06
_TEXT_SEED, _HEAD_SEED, _VISION_SEED, _CONNECTOR_SEED, _MARKS_SEED = range(5)


def build_llava_next(directory: Path | None = None) -> Path:
    """Builds an untrained checkpoint in the format of LLaVA-NeXT (``LlavaNextForConditionalGeneration``).

    Args:
        directory: where to; None means this user's cache, where it is built once.

    Returns:
        The checkpoint's directory, to be loaded by the adapter ``hf``.

    Raises:
        MicroscopeError: the directory cannot be written, or holds something else.
    """
    return build_once(directory or _default_directory("demo-llava-next"), _write_llava_next)


def build_omnifusion(directory: Path | None = None) -> Path:
    """Builds an untrained checkpoint in the layout of OmniFusion, its vision tower in ``clip/``.

    Args:
        directory: where to; None means this user's cache, where it is built once.

    Returns:
        The checkpoint's directory, to be loaded by the adapter ``omnifusion``.

    Raises:
        MicroscopeError: the directory cannot be written, or holds something else.
    """
    return build_once(directory or _default_directory("demo-omnifusion"), _write_omnifusion)


def _default_directory(name: str) -> Path:
    return cache_directory() / "zoo" / f"{name}-{FORMAT_VERSION}"


def _text_config() -> MistralConfig:
    tokenizer = build_byte_tokenizer([IMAGE_TOKEN])
    return MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=288,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        # One token per byte: ScienceQA's longest test question is 2,243 bytes, other splits' several thousand, and the
        # largest picture adds about 350 positions. Rotary positions have no weights, so room costs nothing.
        max_position_embeddings=16384,
        sliding_window=None,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )


def _vision_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=HIDDEN_SIZE,
        intermediate_size=4 * HIDDEN_SIZE,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )


def _write_llava_next(directory: Path) -> None:
    tokenizer = build_byte_tokenizer([IMAGE_TOKEN])
    config = LlavaNextConfig(
        vision_config=_vision_config(),
        text_config=_text_config(),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_grid_pinpoints=GRID_PINPOINTS,
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
    )
    model = LlavaNextForConditionalGeneration(config)
    _fill(model.model.language_model, _TEXT_SEED)
    _fill(model.lm_head, _HEAD_SEED)
    _fill(model.model.vision_tower, _VISION_SEED)
    _fill(model.model.multi_modal_projector, _CONNECTOR_SEED)
    with torch.no_grad():
        model.model.image_newline.copy_(_random(_MARKS_SEED, HIDDEN_SIZE))
    _save(model, directory)
    LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": IMAGE_SIZE},
            crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            image_grid_pinpoints=GRID_PINPOINTS,
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE_TOKEN,
    ).save_pretrained(directory)


def _write_omnifusion(directory: Path) -> None:
    language_model = MistralForCausalLM(_text_config())
    _fill(language_model.model, _TEXT_SEED)
    _fill(language_model.lm_head, _HEAD_SEED)
    _save(language_model, directory / "tuned-model")
    build_byte_tokenizer([IMAGE_TOKEN]).save_pretrained(directory / "tokenizer")
    vision_tower = CLIPVisionModel(_vision_config())
    _fill(vision_tower, _VISION_SEED)
    vision_tower.save_pretrained(directory / "clip")
    CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    ).save_pretrained(directory / "clip")
    projection = VisualToGPTMapping(HIDDEN_SIZE, HIDDEN_SIZE)
    _fill(projection, _CONNECTOR_SEED)
    save_projection(projection, directory / "projection.pt")
    vectors = _random(_MARKS_SEED, len(SPECIAL_MARKS), HIDDEN_SIZE).to(torch.bfloat16)
    # As published: bfloat16 tensors, each with its own storage, that ask for gradients.
    marks = {name: vector.clone().requires_grad_() for name, vector in zip(SPECIAL_MARKS, vectors, strict=True)}
    torch.save(marks, directory / "special_embeddings.pt")


def save_projection(projection: VisualToGPTMapping, path: Path, module_name: str = "models") -> None:
    """Saves a projection as the published one was saved: the whole module, by a class of a module ``models``.

    Args:
        projection: what to save.
        path: of the file.
        module_name: the module its class is said to come from.
    """
    with _importable_as(module_name, VisualToGPTMapping) as published_class:
        projection.__class__ = published_class
        try:
            torch.save(projection, path)
        finally:
            projection.__class__ = VisualToGPTMapping


@contextmanager
def _importable_as(module_name: str, original: type[nn.Module]) -> Iterator[Any]:
    """A subclass of that name which, for the time being, can be imported from a module of that name."""
    subclass = type(original.__name__, (original,), {"__module__": module_name})
    before = sys.modules.get(module_name)
    module = types.ModuleType(module_name)
    setattr(module, original.__name__, subclass)
    sys.modules[module_name] = module
    try:
        yield subclass
    finally:
        if before is None:
            del sys.modules[module_name]
        else:
            sys.modules[module_name] = before


def _save(model: Any, directory: Path) -> None:
    """``save_pretrained``, with the mark of untrained weights in config.json."""
    model.save_pretrained(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, UNTRAINED_KEY: True}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * _WEIGHT_STD


def _fill(module: nn.Module, seed: int) -> None:
    """Sets every parameter, in the order of names, so that no library's own initialisation shows in the values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * _WEIGHT_STD)
