"""One row of the table to an adapter over a tiny model with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMultimodalLM

from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.pinned_checkpoint import Checkpoint
from tests.matrix.media import StandInProcessor
from tests.matrix.shrink import stand_in_tokenizer, tiny_config


def tiny_model(model_type: str, config: Any) -> Any:
    """The architecture with seeded weights, every one of them drawn: some begin at zero and would hide the media."""
    torch.manual_seed(0)
    model = AutoModelForMultimodalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.is_floating_point():
                tensor.copy_(0.15 * noise if tensor.dim() > 1 else tensor + 0.05 * noise)
    return model


def tiny_adapter(row: Any) -> HFAdapter:
    """The generic adapter, as it is, over the row's tiny model."""
    tokenizer = stand_in_tokenizer()
    config = tiny_config(row.model_type, tokenizer, row.config)
    model = tiny_model(row.model_type, config)
    processor = StandInProcessor(tokenizer, config, dict(row.media), dict(row.more))
    return HFAdapter(model, tokenizer, processor, Checkpoint(Path(), row.model_type, "sha256-" + "0" * 16))
