"""OmniFusion: a transformer layer over the patches, and learned vectors instead of text around picture and question."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionModel

from microscope_bench.adapters.omnifusion.module import (
    IMAGE_MARK,
    SPECIAL_MARKS,
    OmniFusionModel,
    VisualToGPTMapping,
)
from microscope_bench.adapters.omnifusion.parts_loading import DIALOG
from microscope_bench.zoo import parts
from microscope_bench.zoo.batches import Frame
from microscope_bench.zoo.formats.base import STORED_DTYPE, Format, ids_of, save_model


class OmniFusion(Format):
    """The layout of AIRI-Institute/OmniFusion, its vision tower in ``clip/``."""

    name = "omnifusion"
    image_tokens = "16 positions, one for each patch of 16 × 16 pixels, between SOI and EOI"

    def build(self, seed: int) -> Any:
        projection = VisualToGPTMapping(parts.HIDDEN_SIZE, parts.HIDDEN_SIZE, feed_forward=parts.FEED_FORWARD)
        parts.connector(projection, seed)
        for module in projection.modules():  # torch's own default of 0.1 would be the only dropout of the zoo
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        projection.transformer_layer.self_attn.dropout = 0.0
        vectors = parts.vectors(seed, len(SPECIAL_MARKS), parts.HIDDEN_SIZE)
        marks = {name: vector.clone() for name, vector in zip(SPECIAL_MARKS, vectors, strict=True)}
        return OmniFusionModel(parts.language_model(seed), CLIPVisionModel(parts.clip_config()), projection, marks)

    def frame(self, tokenizer: Any) -> Frame:
        picture = (SPECIAL_MARKS["SOI"], *[IMAGE_MARK] * parts.N_PATCHES, SPECIAL_MARKS["EOI"])
        return Frame((*ids_of(tokenizer, DIALOG), *picture, SPECIAL_MARKS["USER"]), (SPECIAL_MARKS["BOT"],))

    def write(self, model: Any, directory: Path, *, trained: bool) -> None:
        save_model(model.language_model, directory / "tuned-model", trained=trained)
        parts.tokenizer().save_pretrained(directory / "tokenizer")
        deepcopy(model.vision_tower).to(STORED_DTYPE).save_pretrained(directory / "clip")
        parts.clip_image_processor().save_pretrained(directory / "clip")
        save_projection(deepcopy(model.projection).to(STORED_DTYPE), directory / "projection.pt")
        # As published: tensors that each have their own storage and ask for gradients.
        marks = {
            name: model.special_embeddings[name].detach().to(STORED_DTYPE).clone().requires_grad_()
            for name in SPECIAL_MARKS
        }
        torch.save(marks, directory / "special_embeddings.pt")

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        return list(model.language_model.model.layers)

    def tower_of(self, model: Any) -> Any:
        return model.vision_tower


def save_projection(projection: VisualToGPTMapping, path: Path, module_name: str = "models") -> None:
    """Saves a projection as the published one was saved: the whole module, its class from a module of this name."""
    name = VisualToGPTMapping.__name__
    published_class: Any = type(name, (VisualToGPTMapping,), {"__module__": module_name})
    before = sys.modules.get(module_name)
    # pickle imports the class by its name
    sys.modules[module_name] = types.ModuleType(module_name)
    setattr(sys.modules[module_name], name, published_class)
    projection.__class__ = published_class
    try:
        torch.save(projection, path)
    finally:
        projection.__class__ = VisualToGPTMapping
        del sys.modules[module_name]
        if before is not None:
            sys.modules[module_name] = before
