"""Tiny checkpoints of architectures that hear or watch: real processors, in the files a published checkpoint has.

:func:`build` writes the settings of a video processor beside the rest, where a processor loaded with torchvision finds
them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.tiny import families, hearing, watching

FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_audio": hearing.qwen2_audio,
    "voxtral": hearing.voxtral,
    "qwen2_5_omni": hearing.qwen2_5_omni,
    "gemma4": hearing.gemma4,
    "llava_next_video": watching.llava_next_video,
    "llava_onevision": watching.llava_onevision,
    "smolvlm": watching.smolvlm,
    "qwen2_vl": watching.qwen2_vl,
    "qwen3_vl": watching.qwen3_vl,
    "internvl": watching.internvl,
    "phi4_multimodal": watching.phi4_multimodal,
}

_CHOOSING = {"do_sample_frames": True, "num_frames": 2}
"""Two of the frames, as published processors choose some; a task has chosen already, so none may be left out."""
_QWEN_VIDEO = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 256, "longest_edge": 65536}}
_SQUARE = {"height": 32, "width": 32}
VIDEO: dict[str, dict[str, Any]] = {
    "qwen2_5_omni": {"video_processor_type": "Qwen2VLVideoProcessor", **_QWEN_VIDEO},
    "gemma4": {
        "video_processor_type": "Gemma4VideoProcessor",
        "patch_size": 8,
        "pooling_kernel_size": 2,
        "max_soft_tokens": 70,
    },
    "llava_next_video": {
        "video_processor_type": "LlavaNextVideoVideoProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": _SQUARE,
    },
    "llava_onevision": {"video_processor_type": "LlavaOnevisionVideoProcessor", "size": _SQUARE},
    "smolvlm": {
        "video_processor_type": "SmolVLMVideoProcessor",
        "size": {"longest_edge": 64},
        "max_image_size": {"longest_edge": 32},
    },
    "qwen2_vl": {"video_processor_type": "Qwen2VLVideoProcessor", **_QWEN_VIDEO},
    "qwen3_vl": {"video_processor_type": "Qwen3VLVideoProcessor", **_QWEN_VIDEO},
    "internvl": {"video_processor_type": "InternVLVideoProcessor", "size": _SQUARE},
}
"""Family → its ``video_preprocessor_config.json``, but for :data:`_CHOOSING`."""

NEEDS = {"smolvlm": ("num2words",), "phi4_multimodal": ("torchvision",)}
"""Family → packages without which its processor cannot be built at all."""


def build(name: str, directory: Path) -> Path:
    """Writes the family's checkpoint into a directory and returns it."""
    torch.manual_seed(0)
    model, processor = FAMILIES[name]()
    families.fill_weights(model)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    if name == "voxtral":
        (directory / "tekken.json").write_text(json.dumps(hearing.tekken()))
    if name in VIDEO:
        (directory / "video_preprocessor_config.json").write_text(json.dumps(VIDEO[name] | _CHOOSING))
    return directory
