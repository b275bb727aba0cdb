"""A second knockout: an attention function of its own that sets weights to zero, every pass from the embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from microscope_bench.adapters.base import Batch
from microscope_bench.adapters.hf import HFAdapter

_CUT: dict[int, np.ndarray] = {}
"""id of an attention module → what is cut in it, bool (B, S, S)."""


def _attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> tuple[Any, None]:
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) * (options.get("scaling") or query.shape[-1] ** -0.5)
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[2]]
    weights = scores.double().softmax(dim=-1)
    if id(module) in _CUT:
        weights = weights * ~torch.from_numpy(_CUT[id(module)])[:, None]
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return torch.einsum("bhqk,bhkd->bqhd", weights.to(value.dtype), value), None


AttentionInterface.register("second", _attention)
AttentionMaskInterface.register("second", eager_mask)


def second_knockout(adapter: HFAdapter, batch: Batch, pairs: np.ndarray, windows: Sequence[range]) -> np.ndarray:
    """Log-probability of the base pass's first token, float64 (1 + windows, B): first of the base pass itself."""
    with _of_its_own(adapter):
        base = adapter.forward(batch, logits=True)
        own = base.argmax(dim=-1)
        found = [base]
        for blocks in windows:
            for number in blocks:
                _CUT.update({id(part): pairs for part in adapter.blocks()[number].modules()})
            try:
                found.append(adapter.forward(batch, logits=True))
            finally:
                _CUT.clear()
    return np.stack([x.double().log_softmax(dim=-1)[torch.arange(len(own)), own].numpy() for x in found])


@contextmanager
def _of_its_own(adapter: HFAdapter) -> Iterator[None]:
    before = adapter.model.config._attn_implementation
    adapter.model.set_attn_implementation("second")
    try:
        yield
    finally:
        adapter.model.set_attn_implementation(before)
