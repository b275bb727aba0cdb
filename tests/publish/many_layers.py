"""Models with as many layers as published ones have, made from the example result."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from microscope_bench.results.result import Result
from tests.results.sample import sample, signed

SAMPLE = sample()


def named(name: str, **changes: Any) -> Result:
    identity = SAMPLE.identity
    changed = replace(identity, model=replace(identity.model, name=name, **changes))
    return signed(replace(SAMPLE, identity=changed))


def big(name: str, layers: int = 32) -> Result:
    """A model of 32 blocks: the scores of the example at every layer, with sinks in every modality."""
    result = named(name, n_layers=layers)
    kept = [s for s in result.scores if s.layer == 0 and s.tokens in ("all", "no_sinks")]
    scores = tuple(
        replace(s, layer=layer, value=0.5 + layer / 97, stderr=0.0123)
        for s in kept
        for layer in range(layers if s.metric == "linearity" else layers + 1)
    )
    image = (s for s in scores if (s.metric, s.modality) == ("anisotropy", "image"))
    gap = tuple(replace(s, metric="modality_gap", estimator="unit") for s in image)
    sinks = tuple(replace(s, n_sinks=3, layers=()) for s in result.sinks)
    identity = replace(result.identity, metrics={**result.identity.metrics, "modality_gap": 1})
    return signed(replace(result, scores=scores + gap, sinks=sinks, identity=identity))
