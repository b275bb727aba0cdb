"""A token store as large as a whole task's, grown from the few examples that were captured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from microscope_bench.capture.store import TokenStore

NOISE = 0.1
"""Relative to a state's own coordinates: copies become neighbours, which the metrics take for tokens of their own."""
PART_EXAMPLES = 256


def grown_store(
    captured: TokenStore, path: Path, n_boundaries: int, n_examples: int, device: torch.device
) -> TokenStore:
    """A store of the captured examples, repeated with noise until they are ``n_examples``.

    Args:
        captured: a complete store.
        path: of the new one.
        n_boundaries: it holds the first so many.
        n_examples: of the new one.
        device: where the noise is made.
    """
    parts = [safe_open(captured.tensor_file(part), framework="pt") for part in range(captured.n_parts)]
    starts = [captured.part_range(part).start for part in range(captured.n_parts)]
    example = torch.cat([file.get_tensor("example") + start for file, start in zip(parts, starts, strict=True)])
    names = (
        "modality",
        "position",
        "number",
        "origin",
        "prefix",
        *(f"boundary.{layer}" for layer in range(n_boundaries)),
    )
    columns = {name: torch.cat([file.get_tensor(name) for file in parts]) for name in names}
    n_captured, records = len(captured.records), captured.records
    generator = torch.Generator(device).manual_seed(0)
    store = TokenStore.open_or_create(path, {}, n_examples=n_examples, part_examples=PART_EXAMPLES)
    for part in range(store.n_parts):
        chosen = store.part_range(part)
        rows = [torch.nonzero(example == index % n_captured).squeeze(1) for index in chosen]
        row = torch.cat(rows)
        tensors = {name: _noisy(columns[name][row], device, generator) for name in names}
        tensors["example"] = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(r) for r in rows]))
        for name in ("origin", "prefix"):  # of every repetition its own
            repetition = torch.tensor([index // n_captured for index in chosen])[tensors["example"]]
            tensors[name] = tensors[name] ^ repetition
        store.write_part(
            part,
            tensors,
            [replace(records[i % n_captured], id=f"q{i}", media_sha256=f"picture {i}") for i in chosen],
        )
    return store


def _noisy(tensor: Tensor, device: torch.device, generator: torch.Generator) -> Tensor:
    """States with noise; whole numbers as they are."""
    if not tensor.is_floating_point():
        return tensor
    state = tensor.to(device)
    noise = torch.randn(state.shape, generator=generator, device=device, dtype=torch.float32)
    return (state * (1 + NOISE * noise)).to(tensor.dtype).cpu()
