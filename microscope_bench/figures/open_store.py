"""A kept token store, opened to draw from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import StoreError
from microscope_bench.identity import Identity
from microscope_bench.measure.tokens import StoredTokens
from microscope_bench.run.captured import open_finished


@dataclass(frozen=True)
class OpenStore:
    """A finished store, the identity of its run, and where each kept token lies in it."""

    store: TokenStore
    identity: Identity
    tokens: StoredTokens

    @classmethod
    def at(cls, path: str | Path) -> OpenStore:
        """Opens a store on the CPU; raises StoreError where there is none, or it is incomplete, damaged or empty."""
        store, about = open_finished(path)
        tokens = StoredTokens(store, about.identity.protocol, torch.device("cpu"))
        if not len(tokens.example):
            raise StoreError(f"{path} holds no tokens")
        return cls(store, about.identity, tokens)

    @property
    def model(self) -> str:
        model = self.identity.model
        tap = f" [{model.options['tap']}]" if "tap" in model.options else ""
        return f"{model.name}{tap}{', ' + model.control if model.control else ''}"

    @property
    def n_layers(self) -> int:
        return self.identity.model.n_layers
