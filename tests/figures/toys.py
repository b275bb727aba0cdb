"""A toy run whose store is kept, and a toy model that knows the characters it reads."""

from __future__ import annotations

from pathlib import Path

from microscope_bench.figures.open_store import OpenStore
from microscope_bench.run.evaluate import evaluate
from tests.toy import ToyAdapter, ToyTask


class Characters:
    """A tokenizer of one byte a token."""

    def __len__(self) -> int:
        return 256

    def decode(self, ids, **options) -> str:
        return bytes(ids).decode("utf-8", "replace")


class ReadingToy(ToyAdapter):
    tokenizer = Characters()


def kept_store(directory: Path, n: int = 40, seed: int = 0, **options) -> tuple[OpenStore, object]:
    """A store of a toy run, and its result."""
    result = evaluate(
        ReadingToy(seed=seed),
        ToyTask(n),
        store=directory,
        keep_store=True,
        progress=False,
        device="cpu",
        metrics="linearity",
        **options,
    )
    return OpenStore.at(directory), result
