"""Repairs single processors of transformers 5.23; what they make of media does not change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch


def repaired(processor: Any, path: Path | None = None) -> Any:
    """A processor, able to do what its class promises; ``path`` is that of its checkpoint, where there is one."""
    processor = _fuyu_taking_tensors(processor)
    return processor if path is None else _voxtral_taking_sound(_with_its_template(processor, path), path)


def _fuyu_taking_tensors(processor: Any) -> Any:
    """Fuyu's image processor without torchvision cuts numpy arrays only, but its processor hands it tensors."""
    image_processor = getattr(processor, "image_processor", None)
    if type(image_processor).__name__ != "FuyuImageProcessorPil":
        return processor
    base: Any = type(image_processor)

    def patchify_image(self: Any, image: Any, patch_size: Any = None) -> Any:
        patches = base.patchify_image(self, np.asarray(image), patch_size)
        return torch.from_numpy(np.ascontiguousarray(patches)) if isinstance(image, torch.Tensor) else patches

    # under its own name: what it makes of a picture is the same
    image_processor.__class__ = type(base.__name__, (base,), {"patchify_image": patchify_image})
    return processor


def _with_its_template(processor: Any, path: Path) -> Any:
    """Transformers drops the chat template where a class does not name it as an argument (Phi4MultimodalProcessor)."""
    if hasattr(processor, "tokenizer") and processor.chat_template is None:
        processor.chat_template = type(processor).get_processor_dict(path)[0].get("chat_template")
    return processor


_VOXTRAL_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[INST]{% for part in m.content %}"
    "{% if part.type == 'audio' %}[BEGIN_AUDIO][AUDIO]{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}[/INST]{% endfor %}"
)
"""A user's turn as mistral-common writes it."""


def _voxtral_taking_sound(processor: Any, path: Path) -> Any:
    """Voxtral's processor takes encoded files in a conversation that mistral-common writes; here it takes samples."""
    if type(processor).__name__ != "VoxtralProcessor":
        return processor
    from transformers import PreTrainedTokenizerFast, ProcessorMixin

    base: Any = type(processor)
    defaults = base.audio_kwargs
    positions = defaults["max_source_positions"] // 8  # of a window: its frames halved, then four to a position

    def call(self: Any, text: Sequence[str], audio: Sequence[Any] = (), **options: Any) -> dict[str, Any]:
        windows = [self._retrieve_input_features([samples], **defaults) for samples in audio]
        lengths = iter(len(window) * positions for window in windows)
        token = re.escape(self.audio_token)
        expanded = [re.sub(token, lambda found: found[0] * next(lengths), prompt) for prompt in text]
        known = {"padding", "padding_side", "return_tensors", "add_special_tokens"}
        encoded = dict(self.tokenizer(expanded, **{key: options[key] for key in known & options.keys()}))
        return {**encoded, "input_features": torch.cat(windows)} if windows else encoded

    # the tokenizer of mistral-common, where that is installed, reads no marks in a text
    processor.tokenizer = PreTrainedTokenizerFast.from_pretrained(
        path, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    methods = {"__call__": call, "apply_chat_template": ProcessorMixin.apply_chat_template}
    processor.__class__ = type(base.__name__, (base,), methods)
    if processor.chat_template is None:
        processor.chat_template = _VOXTRAL_TEMPLATE
    return processor
