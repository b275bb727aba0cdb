"""A kept token store, opened to draw from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import StoreError
from microscope_bench.identity import Identity
from microscope_bench.measure.survey import survey
from microscope_bench.measure.tokens import StoredTokens
from microscope_bench.protocol import Protocol
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
        store, identity = open_finished(path)
        tokens = StoredTokens(store, identity.protocol, torch.device("cpu"))
        if not len(tokens.example):
            raise StoreError(f"{path} holds no tokens")
        return cls(store, identity, tokens)

    @property
    def protocol(self) -> Protocol:
        """The protocol of its capture."""
        return self.identity.protocol

    @property
    def model(self) -> str:
        """The model's name, with its tap and its control."""
        model = self.identity.model
        tap = f" [{model.options['tap']}]" if "tap" in model.options else ""
        return f"{model.name}{tap}{', ' + model.control if model.control else ''}"

    @property
    def n_layers(self) -> int:
        """L."""
        return self.identity.model.n_layers

    @cached_property
    def is_sink(self) -> np.ndarray:
        """Whether each token, bool (N,), is a sink at any boundary, by the protocol's rule."""
        return survey(self.tokens, self.n_layers).is_sink

    def check_layers(self, layers: list[int], last: int) -> None:
        """Raises StoreError for a layer outside 0..last."""
        for layer in layers:
            if not 0 <= layer <= last:
                raise StoreError(f"{self.model} has layers 0 to {last} to draw here, not {layer}")
