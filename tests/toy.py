"""A toy model behind the adapter contract, and toy tasks: for tests of everything that stands above an adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from microscope_bench import evaluate
from microscope_bench.adapters.base import IMAGE, PADDING, SPECIAL, TEXT, Adapter, Batch
from microscope_bench.errors import AdapterError, ExampleError
from microscope_bench.example import Example
from microscope_bench.identity import DatasetInfo, ModelInfo, Processing
from microscope_bench.results.result import Result

PATCHES = 6
WIDTH = 16
LAYERS = 3


class ToyBlock(nn.Module):
    """A causal running mean and an MLP, both added to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, hidden_states: Tensor) -> Tensor:
        steps = torch.arange(1, hidden_states.shape[1] + 1, dtype=hidden_states.dtype)[None, :, None]
        hidden_states = hidden_states + self.mix(hidden_states.cumsum(dim=1) / steps)
        return hidden_states + self.mlp(hidden_states)


class ToyAdapter(Adapter):
    """BOS, then one token per character, then six tokens per picture; padded to the right."""

    def __init__(self, context_length: int | None = None, break_at: int | None = None, seed: int = 0) -> None:
        generator = torch.random.fork_rng()
        with generator:
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(256, WIDTH)
            self.eye = nn.Linear(48, WIDTH)
            self.layers = nn.ModuleList([ToyBlock() for _ in range(LAYERS)])
            self.head = nn.Linear(WIDTH, 256)
        self.break_at = break_at
        self.passes = 0
        self.device = torch.device("cpu")
        self.modalities = frozenset({"text", "image"})
        self.info = ModelInfo(
            name="toy",
            repo="toy",
            revision="sha256-" + "0" * 16,
            adapter="toy",
            architecture="Toy",
            dtype="float32",
            quantization=None,
            attention=None,
            n_layers=LAYERS,
            hidden_size=WIDTH,
            n_parameters=1,
            trained=False,
            control=None,
            options={},
        )
        self.processing = Processing("ToyProcessor", context_length=context_length)

    @classmethod
    def load(cls, args: Mapping[str, str], *, device: str | None = None) -> ToyAdapter:
        return cls()

    def blocks(self) -> Sequence[nn.Module]:
        return list(self.layers)

    def encode(self, examples: Sequence[Example]) -> Batch:
        rows, pixels = [], []
        for example in examples:
            if "untranslatable" in example.text:
                raise ExampleError(example.id, "no token for it")
            text = list(example.text.replace("<image>", "").encode())
            rows.append(
                [(SPECIAL, 1), *((TEXT, t) for t in text), *((IMAGE, 0) for _ in range(PATCHES * len(example.images)))]
            )
            pixels += [
                np.asarray(i.resize((8, 12)), dtype=np.float32).reshape(PATCHES, 48) / 255 for i in example.images
            ]
        length = max(map(len, rows))
        labels = np.full((len(rows), length), PADDING, dtype=np.int8)
        ids = torch.zeros(len(rows), length, dtype=torch.int64)
        for row, tokens in enumerate(rows):
            labels[row, : len(tokens)] = [label for label, _ in tokens]
            ids[row, : len(tokens)] = torch.tensor([token for _, token in tokens])
        media = {"pixels": torch.from_numpy(np.concatenate(pixels))} if pixels else {}
        return Batch(
            inputs={"ids": ids, "is_image": torch.from_numpy(labels == IMAGE), **media},
            labels=labels,
            ids=tuple(e.id for e in examples),
            prompts=tuple(e.text for e in examples),
            tokens=tuple(np.array([t for _, t in row], dtype=np.int64) for row in rows),
            media=media,
        )

    def forward(self, batch: Batch, *, logits: bool) -> Tensor | None:
        self.passes += 1
        if self.break_at is not None and self.passes >= self.break_at:
            raise KeyboardInterrupt
        hidden = self.embedding(batch.inputs["ids"])
        if "pixels" in batch.inputs:
            hidden = hidden.clone()
            hidden[batch.inputs["is_image"]] = self.eye(batch.inputs["pixels"])
        for layer in self.layers:
            hidden = layer(hidden)
        last = torch.from_numpy(batch.last_positions())
        return self.head(hidden[torch.arange(len(last)), last]).float() if logits else None

    def choice_token_ids(self, prompt: str, choices: Sequence[str]) -> list[int]:
        if "unscorable" in prompt:
            raise AdapterError("two tokens")
        return [ord(choice) for choice in choices]


class ToyTask:
    """Questions of different length, each with a picture of noise; row i has id "q<i>" wherever it stands."""

    name = "toy_task"
    version = "1"
    has_images = True
    has_audio = False
    dataset = DatasetInfo(path="toy", name=None, revision="sha256-" + "1" * 16, split="test")

    def __init__(
        self, n: int = 40, order: Sequence[int] | None = None, broken: Mapping[int, str] | None = None
    ) -> None:
        self.order = list(order if order is not None else range(n))
        self.broken = dict(broken or {})

    def __len__(self) -> int:
        return len(self.order)

    @property
    def ids(self) -> list[str]:
        return [f"q{row}" for row in self.order]

    def example(self, index: int) -> Example:
        row = self.order[index]
        if self.broken.get(row) == "picture":
            raise ExampleError(f"q{row}", "its picture does not open")
        rng = np.random.default_rng(row)
        words = hashlib.sha256(str(row).encode()).hexdigest()[: 10 + row % 17] + self.broken.get(row, "")
        image = Image.fromarray(rng.integers(0, 256, (20 + row % 5, 24, 3), dtype=np.uint8))
        return Example(
            id=f"q{row}",
            text=f"<image>{words}",
            images=(image,),
            choices=("A", "B", "C"),
            answer=row % 3,
            converted_from=("P",),
        )


class TextTask(ToyTask):
    """The toy's questions without their pictures."""

    has_images = False

    def example(self, index: int) -> Example:
        example = super().example(index)
        return replace(example, text=example.text.removeprefix("<image>"), images=(), converted_from=())


def run(
    path: Path | None = None, adapter: Adapter | None = None, task: ToyTask | None = None, **options: Any
) -> Result:
    """The toy model on forty toy questions, unless told otherwise."""
    return evaluate(adapter or ToyAdapter(), task or ToyTask(40), output_path=path, progress=False, **options)


def result_files(path: Path) -> list[Path]:
    """The result files below a directory, token stores left out."""
    return sorted(file for file in path.rglob("*.json") if ".stores" not in file.parts)
