"""Which processors load in this environment: minimal checkpoint folders, one for each class that transformers maps."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from microscope_bench.adapters.processors import load_processor
from microscope_bench.errors import AdapterError
from tests.tiny.tokenizer import byte_tokenizer

PARTS = {
    "image_processor_type": IMAGE_PROCESSOR_MAPPING_NAMES,
    "feature_extractor_type": FEATURE_EXTRACTOR_MAPPING_NAMES,
}
NAMED = """
    image video audio boi eoi boa eoa img_line_break
    image_boundary start_image end_image context_image image_break image_end image_start
    image_newline image_id_start image_id_end
    audio_bos audio_eos vision_bos vision_eos vision_start vision_end fake_image
    audio_start audio_end video_start video_end im_start im_end eol eof slice_start slice_end
""".split()
"""Names of the special tokens that processors ask their tokenizer for."""


def write_folder(model_type: str, folder: Path) -> None:
    """Writes what tokenizer and processor need of a checkpoint; the processor's settings are its defaults."""
    named = {f"{name}_token": f"<{name}>" for name in NAMED}
    byte_tokenizer("|SPEAKER|", "|NEWLINE|", "<0x04>", **named).save_pretrained(folder)
    name = PROCESSOR_MAPPING_NAMES[model_type]
    settings = {"processor_class": name}
    for key, mapping in PARTS.items():
        if part := _first(mapping.get(model_type)):
            settings[key] = part
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    if video := _first(VIDEO_PROCESSOR_MAPPING_NAMES.get(model_type)):
        content = {"video_processor_type": video, "processor_class": name}
        (folder / "video_preprocessor_config.json").write_text(json.dumps(content))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))


def processor_note(model_type: str) -> str:
    """What becomes of the architecture's processor here: "loads", "loads without video", "needs ..." or why not."""
    if model_type not in PROCESSOR_MAPPING_NAMES:
        return "none mapped"
    with tempfile.TemporaryDirectory() as folder:
        write_folder(model_type, Path(folder))
        try:
            processor = load_processor(Path(folder), SimpleNamespace(model_type=model_type))
        except AdapterError as error:
            needs = re.search(r"needs ([\w-]+):", str(error))
            return f"needs {needs[1]}" if needs else "not tried: its parts are not mapped"
    return "loads without video" if type(processor).__name__.endswith("WithoutVideo") else "loads"


def _first(entry: Any) -> str | None:
    """A mapping's class name; it may be one name, several by backend, or nothing."""
    if isinstance(entry, dict):
        entry = tuple(entry.values())
    if isinstance(entry, tuple | list):
        return next((name for name in entry if name), None)
    return entry
