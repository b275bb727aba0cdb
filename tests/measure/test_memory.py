"""A bound on memory changes no score, and one that is too tight says what the least is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from microscope_bench.errors import MetricError, MicroscopeError
from microscope_bench.measure import memory_budget as space
from microscope_bench.protocol import named_protocol
from microscope_bench.system.key_values import memory_size
from tests.measure.stores import measurement_of, noise_layers, write_store

PROTOCOL = named_protocol("geometry/1").with_changes(tokens_per_example=8, id_tokens=512)
METRICS = ("linearity", "intrinsic_dimension", "anisotropy", "cka")


@pytest.mark.parametrize("free", [None, 40_000_000])
def test_scores_are_the_same(tmp_path: Path, free: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {name: noise_layers(640, 16, 2, seed) for seed, name in enumerate(("text", "image"), start=1)}
    for layers in states.values():
        layers[0][3] *= 1000  # a sink
    store = write_store(tmp_path / "store", states, 8)
    whole = measurement_of(store, PROTOCOL, METRICS, n_layers=1)
    monkeypatch.setattr(space, "free_bytes", lambda device: free)
    size = None if free else 20_000_000
    bound = measurement_of(store, PROTOCOL, METRICS, n_layers=1, measure_memory=size)
    assert {score.tokens for score in whole.scores} == {"all", "no_sinks"} and len(whole.scores) > 60
    for a, b in zip(whole.scores, bound.scores, strict=True):
        assert (a.metric, a.estimator, a.modality, a.tokens, a.flags, a.reason, a.n_tokens) == (
            b.metric, b.estimator, b.modality, b.tokens, b.flags, b.reason, b.n_tokens,
        )  # fmt: skip
        assert a.value == pytest.approx(b.value, rel=1e-9) and a.stderr == pytest.approx(b.stderr, rel=1e-9, abs=1e-12)
    with pytest.raises(MetricError, match=r"the least is 18MB"):
        measurement_of(store, PROTOCOL, METRICS, n_layers=1, measure_memory=1000)


@pytest.mark.parametrize("mainflow, clouds", [(False, 12), (True, 24)])
def test_the_chain_of_stream_mainflow_has_moments_too(
    mainflow: bool, clouds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(space.Workspace, "within", lambda *sizes: asked.append(sizes[3]))
    store = SimpleNamespace(has_mainflow=mainflow)
    tokens = SimpleNamespace(store=store, modalities=["text", "image"], modality=[0] * 9, protocol=PROTOCOL)
    tokens.dim, tokens.n_folds = 8, 10
    space.workspace_for(tokens, 10**9)
    assert asked == [clouds]


@pytest.mark.parametrize("size", ["8", "0GB", "eight", "8 XB", "-8GB", ""])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(MicroscopeError, match=r"--measure_memory: .* is not a size in memory"):
        memory_size("--measure_memory", size)
