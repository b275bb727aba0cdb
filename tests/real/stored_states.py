"""The states of a run as its store has them, read without the package's own reader."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from microscope_bench.adapters.base import LABELS
from microscope_bench.metrics.core.folds import assign_folds
from microscope_bench.results.result import Result


@dataclass(frozen=True)
class RealRun:
    """A result, the store it was measured from, and the model and task that it was captured of."""

    result: Result
    store: Path
    adapter: Any
    task: Any

    def column(self, name: str, modality: str) -> np.ndarray:
        """One tensor of the store for one modality's tokens: ``boundary.3``, ``position``, ``prefix``, ...

        ``example`` counts the examples of the whole run.
        """
        found, before = [], 0
        for file in sorted((self.store / "parts").glob("*.safetensors")):
            part = load_file(file)
            values = part[name] + before if name == "example" else part[name]
            found.append(values[part["modality"] == LABELS.index(modality)])
            before += len(self._records(file))
        return np.concatenate(found)

    def distinct(self, modality: str, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """States, float64 (n, d), one of each token that several examples share; and each one's picture, or example.

        A picture is called by its hash, an example by its id.
        """
        _, first = np.unique(self.column("prefix", modality), return_index=True)
        records = [r for file in sorted((self.store / "parts").glob("*.safetensors")) for r in self._records(file)]
        source = np.array([record["media_sha256"] or record["id"] for record in records])
        states = self.column(f"boundary.{layer}", modality)[first].astype(float)
        return states, source[self.column("example", modality)[first]]

    def folds(self, source: np.ndarray) -> np.ndarray:
        """The fold of each token, from its picture or example."""
        return assign_folds(source.tolist(), self.result.inputs.folds.n, seed=0)

    def _records(self, file: Path) -> list[dict[str, Any]]:
        return json.loads(file.with_suffix(".json").read_text())["examples"]

    def values(self, metric: str, estimator: str, stream: str | None, modality: str, tokens: str = "all") -> np.ndarray:
        """The values over the boundaries, NaN where there is none."""
        series = self.result.series(metric, estimator, stream, modality, tokens)
        return np.array([np.nan if score.value is None else score.value for score in series])
