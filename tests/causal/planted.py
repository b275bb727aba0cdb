"""A tiny transformer with weights set by hand: block 2 reads the picture into the question, block 4 that into the end.

A state has numbers that say what a position is (the start, the picture, the question, the last one, any) and three that
carry the answer so far. Whoever has nothing to read reads the start, which carries nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from microscope_bench.adapters.base import IMAGE, PADDING, SPECIAL, TEMPLATE, TEXT, Adapter, Batch
from microscope_bench.example import Example
from microscope_bench.identity import ModelInfo

START, PICTURE, QUESTION, LAST, ANY, SEEN, ASKED, ANSWER = range(8)
WIDTH, BLOCKS = 8, 6


class Planted(nn.Module):
    """Positions of one kind read those of another, and write what they carry into a coordinate of their own."""

    def __init__(self, queries: int, keys: int, source: int, target: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.zeros(WIDTH, WIDTH)) for _ in range(3))
        with torch.no_grad():
            self.q[queries, 0] = self.k[keys, 0] = 12.0
            self.q[ANY, 1] = self.k[START, 1] = 8.0
            self.v[source, target] = float(source != target)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        q, k, v = ((hidden_states @ w)[:, None] for w in (self.q, self.k, self.v))
        read = scaled_dot_product_attention(q, k, v, attn_mask=attention_mask, is_causal=attention_mask is None)
        return hidden_states + read[:, 0]


class Leaking(Planted):
    """The same, and beside attention a running mean that no mask stops."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mixed: Tensor = super().forward(hidden_states, attention_mask)
        return mixed + hidden_states.cumsum(dim=1) / 100


class PlantedAdapter(Adapter):
    """BOS, four positions of a picture, the question's letters, and a last position that is the model's own."""

    def __init__(self, **replaced: nn.Module) -> None:
        idle = (QUESTION, QUESTION, SEEN, SEEN)
        circuit = {1: (QUESTION, PICTURE, SEEN, ASKED), 3: (LAST, QUESTION, ASKED, ANSWER)}
        self.layers = nn.ModuleList(
            replaced.get(f"block_{n + 1}", Planted(*circuit.get(n, idle))) for n in range(BLOCKS)
        )
        self.head = nn.Linear(WIDTH, 128, bias=False)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.weight[ord("A"), ANSWER] = 15.0
            self.head.weight[ord("B"), ANSWER] = -15.0
        self.device, self.modalities = torch.device("cpu"), frozenset({"text", "image"})
        names = dict.fromkeys(("name", "repo", "revision", "adapter", "architecture"), "planted")
        self.info = ModelInfo(
            **names,
            dtype="float32",
            quantization=None,
            attention=None,
            n_layers=BLOCKS,
            hidden_size=WIDTH,
            n_parameters=1,
            trained=True,
            control=None,
            options={},
        )

    @classmethod
    def load(cls, args: Any, *, device: str | None = None) -> PlantedAdapter:
        return cls()

    def blocks(self) -> Sequence[nn.Module]:
        return list(self.layers)

    def encode(self, examples: Sequence[Example]) -> Batch:
        rows = []
        for example in examples:
            text = [TEXT] * len(example.text.replace("<image>", ""))
            rows.append([SPECIAL, *[IMAGE] * 4 * len(example.images), *text, TEMPLATE])
        labels = np.full((len(rows), max(map(len, rows))), PADDING, dtype=np.int8)
        answers = torch.zeros(len(rows), 1)
        for row, (kinds, example) in enumerate(zip(rows, examples, strict=True)):
            labels[row, : len(kinds)] = kinds
            light = np.asarray(example.images[0]).mean() / 127.5 - 1 if example.images else -1.0
            answers[row] = (1.0 if light > 0 else -1.0) * (0.8 + 0.2 * abs(light))
        return Batch(
            inputs={"answers": answers},
            labels=labels,
            ids=tuple(example.id for example in examples),
            prompts=tuple(example.text for example in examples),
            tokens=tuple(np.array(kinds, dtype=np.int64) for kinds in rows),
            media={"answers": answers} if any(example.images for example in examples) else {},
        )

    def forward(self, batch: Batch, *, logits: bool) -> Tensor | None:
        kinds = torch.from_numpy(batch.labels.astype(np.int64))
        hidden = torch.zeros(*kinds.shape, WIDTH)
        hidden[..., ANY] = 1.0
        for place, label in ((START, SPECIAL), (PICTURE, IMAGE), (QUESTION, TEXT), (LAST, TEMPLATE)):
            hidden[..., place] = (kinds == label).float()
        hidden[..., SEEN] = (kinds == IMAGE) * batch.inputs["answers"]
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden[torch.arange(len(kinds)), torch.from_numpy(batch.last_positions())]).float()

    def choice_token_ids(self, prompt: str, choices: Sequence[str]) -> list[int]:
        return [ord(choice) for choice in choices]
