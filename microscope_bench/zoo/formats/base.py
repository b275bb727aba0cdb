"""What a checkpoint format defines so that a model of the zoo can be made, trained and written in it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from microscope_bench.adapters.model_loading import UNTRAINED_KEY
from microscope_bench.zoo import parts
from microscope_bench.zoo.batches import Frame

STORED_DTYPE = torch.float16
"""Of the weights on disk; float16 rounds these weights eight times finer than bfloat16."""


class Format(ABC):
    """One way of fusing pictures with a language model, in the checkpoint format of the model that made it known."""

    name: str  # of the fusion, as ``zoo.train --fusion`` takes it; the model is called ``zoo-<name>``
    tower: str | None = "clip"  # the kind of its vision tower, "clip", "blip-2" or None
    image_tokens: str  # what becomes of a shapesqa picture in the sequence, for the model card

    @abstractmethod
    def build(self, seed: int) -> Any:
        """The untrained model of a seed, in float32 on the CPU; its vision tower may hold any weights."""

    @abstractmethod
    def frame(self, tokenizer: Any) -> Frame:
        """What stands around a question about one picture."""

    @abstractmethod
    def write(self, model: Any, directory: Path, *, trained: bool) -> None:
        """Writes weights (``trained`` or not) and preprocessing in the format's layout into an empty directory."""

    def media(self, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, Tensor]:
        """The model's inputs for pictures (64, 64, 3), as its processor would make them."""
        return {"pixel_values": clip_pixels(pictures)}

    def assemble(self, seed: int, tower: Any | None) -> Any:
        """The untrained model of a seed with the weights of this vision tower, None where it has none."""
        model = self.build(seed)
        if tower is not None:
            self.tower_of(model).load_state_dict(tower.state_dict())
        return model

    def untrained(self, seed: int) -> Any:
        """The model of a seed before any training, its vision tower included."""
        return self.assemble(seed, None if self.tower is None else parts.vision_tower(self.tower, seed))

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        return list(model.get_decoder().layers)

    def tower_of(self, model: Any) -> Any:
        return model.model.vision_tower

    def forward(self, model: Any, **inputs: Any) -> Tensor:
        """Logits (B, S, vocabulary) of one pass with gradients."""
        return model(**inputs, use_cache=False).logits  # type: ignore[no-any-return]


def chat_template(image: str) -> str:
    """One user turn, as Mistral's template has it, with ``image`` where a picture is."""
    picture = f"{{% for part in message['content'] if part['type'] == 'image' %}}{image}{{% endfor %}}"
    text = "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    return f"{{% for message in messages %}}[INST]{picture}{text}[/INST]{{% endfor %}}"


def ids_of(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def put_language_model(model: Any, language_model: Any) -> Any:
    """Gives a model with ``model.language_model`` and ``lm_head`` the weights of the shared language model."""
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.lm_head.load_state_dict(language_model.lm_head.state_dict())
    return model


def clip_pixels(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """(n, 3, H, W) float32, rescaled and normalised as CLIP's image processor does; no resizing."""
    processor = parts.clip_image_processor()
    mean, std = np.asarray(processor.image_mean, np.float32), np.asarray(processor.image_std, np.float32)
    scaled = np.stack(pictures).astype(np.float32) * np.float32(processor.rescale_factor)
    return torch.from_numpy((scaled - mean) / std).permute(0, 3, 1, 2).contiguous()


def save_model(model: Any, directory: Path, *, trained: bool) -> None:
    """``save_pretrained`` in the stored dtype; weights that nobody trained are marked in ``config.json``."""
    deepcopy(model).to(STORED_DTYPE).save_pretrained(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if not trained:
        config[UNTRAINED_KEY] = True
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
