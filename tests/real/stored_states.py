"""The states of a run as its store has them, read without the package's own reader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from microscope_bench.adapters.base import LABELS
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
            before += int(part["example"].max()) + 1
        return np.concatenate(found)

    def values(self, metric: str, estimator: str, stream: str | None, modality: str, tokens: str = "all") -> np.ndarray:
        """The values over the boundaries, NaN where there is none."""
        series = self.result.series(metric, estimator, stream, modality, tokens)
        return np.array([np.nan if score.value is None else score.value for score in series])
