"""Tiny models of the architectures of the table, with seeded random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

from tests.matrix.table import TABLE
from tests.tiny.shrink import tiny_config


def tiny_model(model_type: str, tokenizer: Any, **overrides: Any) -> Any:
    """The architecture as its row of the table makes it tiny, with the tokenizer's ids.

    Args:
        model_type: its key in transformers' mapping; a language model needs no row.
        tokenizer: see :func:`tests.tiny.shrink.tiny_config`.
        overrides: dotted path → value of the configuration, on top of the row's.
    """
    row = TABLE.get(model_type)
    config = tiny_config(model_type, tokenizer, {**(row.config if row else {}), **overrides})
    torch.manual_seed(0)
    model = (AutoModelForMultimodalLM if row else AutoModelForCausalLM).from_config(config).eval()
    fill_weights(model)
    return model


def fill_weights(model: torch.nn.Module) -> None:
    """Redraws every weight: some architectures start with zeros, which would hide the media from the decoder."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.is_floating_point():
                parameter.copy_(0.15 * noise if parameter.dim() > 1 else parameter + 0.05 * noise)
