"""The parts of an OmniFusion checkpoint, loaded and put together."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from microscope_bench.adapters.foreign_errors import loading
from microscope_bench.adapters.model_loading import UNTRAINED_KEY
from microscope_bench.adapters.omnifusion.checkpoint_files import load_projection, load_special_embeddings, tensor_file
from microscope_bench.adapters.omnifusion.module import OmniFusionModel
from microscope_bench.adapters.omnifusion.pickled_tensors import PickledFile, PickledTensor
from microscope_bench.adapters.pinned_checkpoint import Checkpoint
from microscope_bench.adapters.weight_files import checked_weight_files
from microscope_bench.adapters.weight_headers import Holding, holding, no_larger_than
from microscope_bench.adapters.weight_places import check_places, dtype_name, loading_dtype, stored_dtypes
from microscope_bench.errors import AdapterError
from microscope_bench.identity import ModelInfo, Processing

DIALOG = "This is a dialog with AI assistant.\n"
"""The text every sequence starts with."""

_OTHER_HALF = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
"""What has no place in a vision tower where its checkpoint is a whole CLIP."""


def framed(question: str, has_image: bool) -> str:
    """The whole sequence, readable."""
    return f"{DIALOG}{'<SOI><image><EOI>' if has_image else ''}<USER>{question}<BOT>"


def load_part(model_class: Any, path: Path, dtype: str | None, attention: str | None, device: torch.device) -> Any:
    """A transformers model, still on the CPU, all of whose weights come from the checkpoint; ``dtype`` is the arg."""
    choices: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    held, stored = _stored(path)
    with loading(str(path), "Fetch the checkpoint again"), no_larger_than(held, str(path)):
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        choices["dtype"] = loading_dtype(dtype, config, stored, device)
        model, report = model_class.from_pretrained(path, local_files_only=True, output_loading_info=True, **choices)
    unplaced = [key for key in report["unexpected_keys"] if not key.startswith(_OTHER_HALF)]
    check_places(model, str(path), path, stored=stored, unplaced=unplaced)
    if lacking := sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}):
        raise AdapterError(
            f"{path}: {len(lacking)} weights are missing or of another shape than its config.json says, so they would "
            f"be random: {', '.join(lacking[:5])}"
        )
    return model


def _stored(path: Path) -> tuple[Holding, dict[str, str]]:
    """What the weight files of a part hold, and the dtypes of their tensors by name.

    Pickled ones are read once, which refuses all that is no tensor.
    """
    names = checked_weight_files(path, pickled=True)
    contents = [PickledFile(path / name).content for name in names if name.endswith(".bin")]
    pickled = {
        name: tensor
        for content in contents
        if isinstance(content, dict)
        for name, tensor in content.items()
        if isinstance(tensor, PickledTensor)
    }
    held = holding(path, names)
    held = Holding(held.n_tensors + len(pickled), held.n_numbers + sum(math.prod(t.shape) for t in pickled.values()))
    dtypes = {str(name): dtype_name(tensor.storage.dtype) for name, tensor in pickled.items()}
    return held, {**stored_dtypes(path / name for name in names), **dtypes}


def load_preprocessing(loader: Any, path: Path) -> Any:
    with loading(f"the {loader.__name__[4:]} of {path}", "Fetch the checkpoint again"):
        return loader.from_pretrained(path, local_files_only=True)


def assemble(path: Path, language_model: Any, vision_tower: Any) -> OmniFusionModel:
    """The whole model in the language model's dtype; raises where the parts' widths differ."""
    projection_file, special_file = tensor_file(path, "projection"), tensor_file(path, "special_embeddings")
    assert projection_file is not None and special_file is not None  # find_checkpoint made sure
    projection, special = load_projection(projection_file), load_special_embeddings(special_file)
    text_size, vision_size = language_model.config.hidden_size, vision_tower.config.hidden_size
    takes, gives = projection.transformer_layer.norm1.normalized_shape[0], projection.linear.out_features
    if not language_model.config.num_hidden_layers:
        raise AdapterError(f"{path}: its language model has no layers, so there is nothing to measure")
    if (takes, gives) != (vision_size, text_size):
        raise AdapterError(
            f"{projection_file} maps width {takes} to {gives}, but the vision tower is {vision_size} wide and the "
            f"language model {text_size}; name the tower it was trained with: vision_tower=org/name"
        )
    if other := sorted(name for name, vector in special.items() if len(vector) != text_size):
        raise AdapterError(f"{special_file}: {', '.join(other)} is not {text_size} wide like the language model")
    model = OmniFusionModel(language_model, vision_tower, projection, special)
    return model.to(dtype=language_model.dtype)


def model_info(checkpoint: Checkpoint, tower: Checkpoint, model: OmniFusionModel) -> ModelInfo:
    """The identity of an OmniFusion model put together of its language model and its vision tower."""
    config = model.language_model.config
    return ModelInfo(
        name=checkpoint.repo,
        repo=checkpoint.repo,
        revision=checkpoint.revision,
        adapter="omnifusion",
        # The tower is not part of the published checkpoint, and another one is another model.
        architecture=f"OmniFusion({type(model.language_model).__name__}, {tower.repo}@{tower.revision})",
        dtype=str(model.language_model.dtype).removeprefix("torch."),
        quantization=None,
        attention=config._attn_implementation,
        n_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained=not getattr(config, UNTRAINED_KEY, False),
        control=None,
        options={},
        template="separated",
    )


def processing_of(model: OmniFusionModel, tokenizer: Any, image_processor: Any) -> Processing:
    return Processing(
        processor=type(tokenizer).__name__,
        image_processor=type(image_processor).__name__,
        chat_template_sha256=hashlib.sha256(framed("", has_image=True).encode()).hexdigest(),
        context_length=model.language_model.config.max_position_embeddings,
    )
