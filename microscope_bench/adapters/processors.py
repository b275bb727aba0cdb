"""Loads a checkpoint's own processor, without torchvision too, and never another one in its place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from microscope_bench.adapters.foreign_errors import loading
from microscope_bench.adapters.missing_packages import missing_package
from microscope_bench.adapters.processor_repairs import repaired

_FILES_THAT_NAME_THE_CLASS = tuple(f"{stem}config.json" for stem in ("processor_", "preprocessor_", "tokenizer_", ""))


def load_processor(path: Path, config: Any) -> Any:
    """The processor of a multimodal checkpoint, or an AdapterError that says what to install.

    Where only its video half needs torchvision and that is not installed, the same processor is built without a video
    processor; its class name then ends in ``WithoutVideo``.
    """
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available

    advice = "Its files (tokenizer, preprocessor_config.json or processor_config.json) must lie beside config.json."
    with loading(f"the processor of {path.name}", advice):
        try:
            return repaired(AutoProcessor.from_pretrained(path, trust_remote_code=False), path)
        except Exception as error:  # whatever a missing package or a damaged file makes transformers raise
            if is_torchvision_available():
                raise
            try:
                if without_video := _processor_without_video(path, config):
                    return repaired(without_video, path)
            except Exception as other:  # the video half was not all that was missing
                lacks = missing_package(error)
                if lacks is None or (lacks == "torchvision" and missing_package(other)):
                    raise other from error
            raise


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a checkpoint; AdapterError where it cannot be loaded."""
    from transformers import AutoTokenizer

    advice = "Its files (tokenizer.json or tokenizer.model, tokenizer_config.json) must lie beside config.json."
    with loading(f"the tokenizer of {path.name}", advice):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def _processor_without_video(path: Path, config: Any) -> Any | None:
    """The checkpoint's processor without its video processor, or None where it has none."""
    base: Any = _processor_class(path, config)
    if base is None or "video_processor" not in base.get_attributes():
        return None
    every = list(base.get_attributes())
    rest = [name for name in every if name != "video_processor"]

    class WithoutVideo(base):  # type: ignore[misc]
        building = False

        @classmethod
        def get_attributes(cls) -> list[str]:
            return every if cls.building else rest

        @classmethod
        def from_args_and_dict(cls, args: Sequence[Any], processor_dict: Any, **options: Any) -> Any:
            # the parts were loaded without the video processor, but the class sets itself up with all of them
            part = dict(zip(rest, args, strict=False))
            cls.building = True
            try:
                return super().from_args_and_dict([part.get(name) for name in every], processor_dict, **options)
            finally:
                cls.building = False

        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(name, argument)

    WithoutVideo.__name__ = f"{base.__name__}WithoutVideo"
    return WithoutVideo.from_pretrained(path)


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
