"""Tiny checkpoints by name, in the files that a published checkpoint has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tiny import families, hearing, odd_families, watching
from tests.tiny.watching import CHOOSING, VIDEO

Builders = dict[str, Callable[[], tuple[Any, Any]]]


def _of(module: Any, *names: str) -> Builders:
    return {name: getattr(module, name) for name in names}


_LANGUAGE = _of(families, "llama", "gpt2")
_PICTURES = _of(families, "llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
_PICTURES |= _of(families, "idefics3", "paligemma", "gemma3", "internvl", "blip_2")
_ODD = _of(odd_families, "mllama", "idefics", "florence2", "t5gemma2", "git", "kosmos_2")
_ODD |= _of(odd_families, "pix2struct", "chameleon", "donut")
_SOUND = _of(hearing, "qwen2_audio", "voxtral", "qwen2_5_omni", "gemma4", "phi4_multimodal")
_VIDEO = _of(watching, "llava_next_video", "llava_onevision", "smolvlm")

TEXT_ONLY = tuple(_LANGUAGE)
MULTIMODAL = tuple(_PICTURES)
"""Families whose pictures stand in a causal sequence."""
ODD = tuple(_ODD)
SOUND_AND_VIDEO = (*_SOUND, *_VIDEO, "qwen2_vl", "qwen3_vl", "internvl")

NEEDS = {"smolvlm": ("num2words",), "phi4_multimodal": ("torchvision",)}
"""Family → packages without which its processor cannot be built at all."""


def build(name: str, directory: Path) -> Path:
    """Writes the family's checkpoint into a directory and returns it."""
    model, processor = (_LANGUAGE | _PICTURES | _ODD | _SOUND | _VIDEO)[name]()
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    if name == "voxtral":
        (directory / "tekken.json").write_text(json.dumps(hearing.tekken()))
    if name in VIDEO:  # where a processor loaded with torchvision finds them
        (directory / "video_preprocessor_config.json").write_text(json.dumps(VIDEO[name] | CHOOSING))
    return directory


def saying(source: Path, directory: Path, settings: dict[str, Any]) -> Path:
    """A copy of a checkpoint whose tokenizer says this of lengths, in both of its files."""
    shutil.copytree(source, directory)
    for path in directory.rglob("tokenizer_config.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
        backend = json.loads((path.parent / "tokenizer.json").read_text())
        if "truncation" in settings:
            cut = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
            backend["truncation"] = {**cut, "direction": settings.get("truncation_side", "right").title()}
        if "padding" in settings:
            fixed = {"strategy": {"Fixed": 512}, "direction": "Left", "pad_to_multiple_of": 64, "pad_id": 0}
            backend["padding"] = {**fixed, "pad_type_id": 0, "pad_token": "<pad>"}
        (path.parent / "tokenizer.json").write_text(json.dumps(backend))
    return directory
