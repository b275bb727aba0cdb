"""A kept token store, opened to draw from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import StoreError
from microscope_bench.measure.survey import survey
from microscope_bench.measure.tokens import StoredTokens
from microscope_bench.protocol import Protocol
from microscope_bench.run.captured import open_finished


@dataclass(frozen=True)
class OpenStore:
    """A finished store, the protocol of its capture, and where each kept token lies in it."""

    store: TokenStore
    protocol: Protocol
    tokens: StoredTokens

    @classmethod
    def at(cls, path: str | Path) -> OpenStore:
        """Opens a store on the CPU; raises StoreError where there is none, or it is incomplete, damaged or empty."""
        store, protocol = open_finished(path)
        tokens = StoredTokens(store, protocol, torch.device("cpu"))
        if not len(tokens.example):
            raise StoreError(f"{path} holds no tokens")
        return cls(store, protocol, tokens)

    @property
    def run(self) -> dict[str, Any]:
        """What was run: model, task, data set, capture; see :func:`~...capture.fingerprints.run_identity`."""
        found: dict[str, Any] = self.store.manifest["run"]
        return found

    @property
    def model(self) -> str:
        """The model's name, with its tap and its control."""
        model = self.run["model"]
        tap = f" [{model['options']['tap']}]" if "tap" in model["options"] else ""
        return f"{model['name']}{tap}{', ' + model['control'] if model['control'] else ''}"

    @property
    def n_layers(self) -> int:
        """L."""
        return int(self.run["model"]["n_layers"])

    @cached_property
    def is_sink(self) -> np.ndarray:
        """Whether each token, bool (N,), is a sink at any boundary, by the protocol's rule."""
        return survey(self.tokens, self.n_layers).is_sink

    def check_layers(self, layers: list[int], last: int) -> None:
        """Raises StoreError for a layer outside 0..last."""
        for layer in layers:
            if not 0 <= layer <= last:
                raise StoreError(f"{self.model} has layers 0 to {last} to draw here, not {layer}")
