"""LLaVA-NeXT-7B in its full shape with seeded random weights, fed with tensors: neither checkpoint nor processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaNextConfig

from microscope_bench.adapters.base import IMAGE, PADDING, SPECIAL, STRUCTURE, TEXT, Adapter, Batch
from microscope_bench.adapters.decoder import find_blocks
from microscope_bench.example import Example
from microscope_bench.identity import ModelInfo, Processing

BOS = 1
SYSTEM_PROMPT = 36
"""Tokens in front of the picture, the same in every prompt."""
FULL = {
    "text": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "tower": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    "vocabulary": 32064,
    "picture": 336,
    "patch": 14,
}
TINY = {
    "text": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4},
    "tower": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2},
    "vocabulary": 300,
    "picture": 56,
    "patch": 14,
}


def configuration(shape: Mapping[str, Any]) -> LlavaNextConfig:
    """LLaVA-NeXT with Vicuna 7B, as its checkpoint configures it, or the same in other sizes."""
    side = shape["picture"]
    return LlavaNextConfig(
        text_config=LlamaConfig(**shape["text"], vocab_size=shape["vocabulary"], max_position_embeddings=4096),
        vision_config=CLIPVisionConfig(
            **shape["tower"], image_size=side, patch_size=shape["patch"], projection_dim=shape["tower"]["hidden_size"]
        ),
        image_grid_pinpoints=[[a * side, b * side] for a, b in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))],
        image_token_index=shape["vocabulary"] - 64,
    )


class LlavaNextByTensors(Adapter):
    """The model and inputs made in code: a square picture in four tiles and its whole, as the processor would cut it.

    Args:
        shape: :data:`FULL` or :data:`TINY`.
        device: where the weights are made, in bfloat16.
    """

    def __init__(self, shape: Mapping[str, Any], device: torch.device) -> None:
        config = configuration(shape)
        torch.manual_seed(0)
        with torch.device(device):
            self.model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).eval()
        self.device = device
        self.modalities = frozenset({"text", "image"})
        self._side, self._grid = shape["picture"], shape["picture"] // shape["patch"]
        self._picture_token = config.image_token_index
        text = config.text_config
        self.info = ModelInfo(
            name="llava-next-shape",
            repo="llava-next-shape",
            revision="sha256-0000000000000000",
            adapter="benchmark",
            architecture=type(self.model).__name__,
            dtype="bfloat16",
            quantization=None,
            attention=self.model.config._attn_implementation,
            n_layers=text.num_hidden_layers,
            hidden_size=text.hidden_size,
            n_parameters=sum(weights.numel() for weights in self.model.parameters()),
            trained=False,
            control=None,
            options={},
        )
        self.processing = Processing(context_length=text.max_position_embeddings)

    @classmethod
    def load(cls, args: Mapping[str, str], *, device: str | None = None) -> LlavaNextByTensors:
        """The full shape."""
        return cls(FULL, torch.device(device or "cuda"))

    def blocks(self) -> Sequence[nn.Module]:
        """The blocks of the language model."""
        return list(find_blocks(self.model))

    def encode(self, examples: Sequence[Example]) -> Batch:
        """BOS, the system prompt, the picture, and one token per character of the text; padded on the right."""
        grid = self._grid
        row_by_row = [IMAGE] * (2 * grid) + [STRUCTURE]  # every row of the tiles ends in image_newline
        picture = [IMAGE] * grid**2 + row_by_row * (2 * grid)
        ids, labels = [], []
        for example in examples:
            asked = [3 + ord(letter) % 200 for letter in example.text]
            system = [3 + k for k in range(SYSTEM_PROMPT)]
            ids.append([BOS, *system, *[self._picture_token] * len(picture), *asked])
            labels.append([SPECIAL, *[TEXT] * len(system), *picture, *[TEXT] * len(asked)])
        length = max(map(len, ids))
        pad = [length - len(row) for row in ids]
        tokens = tuple(np.array(row, dtype=np.int64) for row in ids)
        inputs = {
            "input_ids": torch.tensor([[*row, *[0] * n] for row, n in zip(ids, pad, strict=True)]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * n for row, n in zip(ids, pad, strict=True)]),
            "pixel_values": torch.stack([self._tiles(example) for example in examples]).bfloat16(),
            "image_sizes": torch.full((len(ids), 2), 2 * self._side),
        }
        inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        return Batch(
            inputs=inputs,
            labels=np.array([[*row, *[PADDING] * n] for row, n in zip(labels, pad, strict=True)], dtype=np.int8),
            ids=tuple(example.id for example in examples),
            prompts=tuple(example.text for example in examples),
            tokens=tokens,
            media={"pixel_values": inputs["pixel_values"]},
        )

    def _tiles(self, example: Example) -> Tensor:
        """float32 (5, 3, side, side): the whole picture and its quarters, by the nearest pixel."""
        width, height = example.images[0].size
        pixels = np.frombuffer(example.images[0].tobytes(), dtype=np.uint8).reshape(height, width, 3)

        def resized(size: int) -> np.ndarray:
            return pixels[np.arange(size) * height // size][:, np.arange(size) * width // size]

        large, side = resized(2 * self._side), self._side
        quarters = [large[y : y + side, x : x + side] for y in (0, side) for x in (0, side)]
        tiles = np.stack([resized(side), *quarters]).transpose(0, 3, 1, 2)
        return torch.from_numpy(tiles.astype(np.float32) / 127.5 - 1)

    def forward(self, batch: Batch, *, logits: bool) -> Tensor | None:
        """One pass; logits after each example's last token."""
        last = torch.from_numpy(batch.last_positions()).to(self.device)
        with torch.inference_mode():
            output = self.model(**batch.inputs, use_cache=False, logits_to_keep=last)
        rows = torch.arange(len(last), device=self.device)
        return output.logits[rows, rows].float() if logits else None

    def refine_labels(self, batch: Batch, boundary0: Tensor) -> np.ndarray:
        """As the generic adapter does it: positions that hold ``image_newline`` become structure."""
        newline = self.model.model.image_newline.to(boundary0)
        labels = batch.labels.copy()
        labels[(boundary0 == newline).all(dim=-1).cpu().numpy() & (labels >= IMAGE)] = STRUCTURE
        return labels
