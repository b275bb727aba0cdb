"""Token stores written by hand: tests decide every state in them."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from microscope_bench.adapters.base import LABELS
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.selection import splitmix64, token_hashes
from microscope_bench.capture.store import TokenStore
from microscope_bench.config import RunConfig
from microscope_bench.measure.scores import Measurement, measure_tokens
from microscope_bench.protocol import Protocol

CPU = torch.device("cpu")


def write_store(
    path: Path,
    states: Mapping[str, Sequence[Tensor]],
    tokens_per_example: int,
    origin: Tensor | None = None,
    prefix: Tensor | None = None,
    per_picture: int = 1,
) -> TokenStore:
    """A store of one part.

    Args:
        path: where.
        states: modality → per boundary (N, d); token i belongs to example i // tokens_per_example, those beyond
            the last example of the shortest modality to that one.
        tokens_per_example: of each modality.
        origin: int64, one key per token: equal where the same goes in; none equal by default.
        prefix: the same for what goes in up to it.
        per_picture: consecutive examples that show one picture.
    """
    n_examples = -(-min(len(layers[0]) for layers in states.values()) // tokens_per_example)
    store = TokenStore.open_or_create(path, {}, n_examples=n_examples, part_examples=n_examples)
    rows = [(LABELS.index(name), i) for name, layers in states.items() for i in range(len(layers[0]))]
    n_boundaries = len(next(iter(states.values())))
    tensors = {f"boundary.{k}": torch.cat([layers[k] for layers in states.values()]) for k in range(n_boundaries)}
    tensors["modality"] = torch.tensor([code for code, _ in rows], dtype=torch.int8)
    example = [min(i // tokens_per_example, n_examples - 1) for _, i in rows]
    tensors["example"] = torch.tensor(example, dtype=torch.int64)
    tensors["position"] = torch.tensor(
        [i - k * tokens_per_example for (_, i), k in zip(rows, example, strict=True)], dtype=torch.int64
    )
    tensors["number"] = tokens_per_example - 1 - tensors["position"]
    tensors["origin"] = torch.arange(len(rows)) if origin is None else origin
    tensors["prefix"] = torch.arange(len(rows)) if prefix is None else prefix.clone()
    records = [ExampleRecord(id=f"q{k}", media_sha256=f"picture {k // per_picture}") for k in range(n_examples)]
    store.write_part(0, tensors, records)
    return store


def distinct_rows(store: TokenStore, seed: int, examples: Container[str] | None = None) -> dict[int, list[int]]:
    """Part → the rows that are measured, written out: of the tokens of one prefix the one of the smallest hash.

    ``examples`` are the ids of those that are measured; None means all of them.
    """
    of_prefix: dict[int, list[tuple[int, int, int]]] = {}
    for part in range(store.n_parts):
        tensors, records = store.begun_tensors(part), store.part_records(part)
        columns = (tensors[name].tolist() for name in ("example", "modality", "number", "prefix"))
        for row, (example, code, number, prefix) in enumerate(zip(*columns, strict=True)):
            key = f"sample\0{seed}\0{records[example].id}\0{LABELS[code]}"
            token_hash = int(splitmix64(token_hashes(np.array([number]), key))[0])
            if examples is None or records[example].id in examples:
                of_prefix.setdefault(prefix, []).append((token_hash, part, row))
    kept: dict[int, list[int]] = {part: [] for part in range(store.n_parts)}
    for copies in of_prefix.values():
        _, part, row = min(copies)
        kept[part].append(row)
    return kept


def noise(n: int, d: int, seed: int) -> Tensor:
    """float32 (n, d), standard normal."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def noise_layers(n: int, d: int, n_boundaries: int, seed: int = 0) -> list[Tensor]:
    """Boundaries that have nothing to do with each other."""
    return [noise(n, d, 100 * seed + layer) for layer in range(n_boundaries)]


def measurement_of(
    store: TokenStore, protocol: Protocol, metrics: Sequence[str], n_layers: int, **config: Any
) -> Measurement:
    """What a store gives on the CPU."""
    asked = RunConfig(metrics=tuple(metrics), device="cpu", progress=False, **config)
    return measure_tokens(store, protocol, asked, n_layers=n_layers)
