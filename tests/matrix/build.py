"""One row of the table to an adapter over a tiny model with random weights."""

from __future__ import annotations

from pathlib import Path

from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.pinned_checkpoint import Checkpoint
from tests.matrix.media import StandInProcessor
from tests.matrix.row import Row
from tests.tiny.models import tiny_model
from tests.tiny.shrink import stand_in_tokenizer


def tiny_adapter(row: Row) -> HFAdapter:
    """The generic adapter, as it is, over the row's tiny model."""
    tokenizer = stand_in_tokenizer()
    model = tiny_model(row.model_type, tokenizer)
    processor = StandInProcessor(tokenizer, model.config, dict(row.media), dict(row.more))
    return HFAdapter(model, tokenizer, processor, Checkpoint(Path(), row.model_type, "sha256-" + "0" * 16))
