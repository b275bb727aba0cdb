"""Loads a checkpoint's own processor, without torchvision too, and never another one in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from microscope_bench.errors import AdapterError
from microscope_bench.hub import first_line

_FILES_THAT_NAME_THE_CLASS = (
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "config.json",
)


def load_processor(path: Path, config: Any, *, trust_remote_code: bool) -> Any:
    """The processor of a multimodal checkpoint.

    Where only its video half needs torchvision and that is not installed, the same processor is built without a video
    processor; its class name then ends in ``WithoutVideo``.

    Raises:
        AdapterError: it cannot be loaded, with what to install.
    """
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available

    try:
        return _taking_tensors(AutoProcessor.from_pretrained(path, trust_remote_code=trust_remote_code))
    except Exception as error:  # whatever a missing package or a damaged file makes transformers raise
        if not is_torchvision_available():
            if without_video := _processor_without_video(path, config):
                return without_video
            if "torchvision" in str(error).lower():
                raise AdapterError(
                    f"the processor of {path.name} needs torchvision: pip install 'microscope-bench[torchvision]'"
                ) from error
        raise AdapterError(
            f"the processor of {path.name} cannot be loaded ({type(error).__name__}: {first_line(error)}). Its files "
            f"(tokenizer, preprocessor_config.json or processor_config.json) must lie beside config.json."
        ) from error


def load_tokenizer(path: Path, *, trust_remote_code: bool) -> Any:
    """The tokenizer of a text-only checkpoint.

    Raises:
        AdapterError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever a damaged or missing file makes transformers raise
        raise AdapterError(
            f"the tokenizer of {path.name} cannot be loaded ({type(error).__name__}: {first_line(error)}). Its files "
            f"(tokenizer.json or tokenizer.model, tokenizer_config.json) must lie beside config.json."
        ) from error


def _taking_tensors(processor: Any) -> Any:
    """The processor, able to cut its own pictures into patches.

    Fuyu's image processor without torchvision cuts numpy arrays only, but its processor hands it the tensors it was
    asked for (seen in transformers 5.23): converted here, nothing else changes.
    """
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


def _processor_without_video(path: Path, config: Any) -> Any | None:
    """The checkpoint's processor class with its video processor left out, or None where that is not what is missing.

    Video processors exist for torchvision alone, and without it transformers refuses the whole processor although
    its picture half works.
    """
    base = _processor_class(path, config)
    if base is None or "video_processor" not in base.get_attributes():
        return None

    def get_attributes(cls: Any) -> list[str]:
        return [name for name in base.get_attributes() if name != "video_processor"]

    without_video: Any = type(f"{base.__name__}WithoutVideo", (base,), {"get_attributes": classmethod(get_attributes)})
    try:
        return without_video.from_pretrained(path)
    except (ImportError, OSError, ValueError):
        return None  # the video processor was not what was missing


def _processor_class(path: Path, config: Any) -> Any | None:
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    for file in _FILES_THAT_NAME_THE_CLASS:
        if (path / file).is_file():
            name = json.loads((path / file).read_text(encoding="utf-8")).get("processor_class")
            if name:
                break
    else:
        name = PROCESSOR_MAPPING_NAMES.get(config.model_type)
    return getattr(transformers, name, None) if name else None
