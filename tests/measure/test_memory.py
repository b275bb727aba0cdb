"""A bound on memory changes no score, and one that is too tight says what the least is."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import MetricError, MicroscopeError
from microscope_bench.measure import memory_budget as space
from microscope_bench.measure.scores import Measurement
from microscope_bench.metrics.core import cloud
from microscope_bench.metrics.core.fold_moments import FoldMoments, accumulate_parked
from microscope_bench.metrics.core.workspace import Workspace
from microscope_bench.metrics.registry import DEFAULT_METRICS
from microscope_bench.protocol import named_protocol
from microscope_bench.system.key_values import memory_size
from tests.measure.stores import measurement_of, noise_layers, write_store

PROTOCOL = named_protocol("geometry/1").with_changes(tokens_per_example=8, id_tokens=512)
METRICS = ("linearity", "intrinsic_dimension", "anisotropy", "cka")


def sinky_store(path: Path) -> TokenStore:
    states = {name: noise_layers(640, 16, 2, seed) for seed, name in enumerate(("text", "image"), start=1)}
    for layers in states.values():
        layers[0][3] *= 1000  # a sink
    return write_store(path / "store", states, 8)


def assert_same_scores(one: Measurement, other: Measurement) -> None:
    for a, b in zip(one.scores, other.scores, strict=True):
        assert (a.metric, a.estimator, a.modality, a.tokens, a.flags, a.reason, a.n_tokens) == (
            b.metric, b.estimator, b.modality, b.tokens, b.flags, b.reason, b.n_tokens,
        )  # fmt: skip
        assert a.value == pytest.approx(b.value, rel=1e-9) and a.stderr == pytest.approx(b.stderr, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("free", [None, 40_000_000])
def test_scores_are_the_same(tmp_path: Path, free: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    store = sinky_store(tmp_path)
    whole = measurement_of(store, PROTOCOL, METRICS, n_layers=1)
    monkeypatch.setattr(space, "free_bytes", lambda device: free)
    size = None if free else 20_000_000
    bound = measurement_of(store, PROTOCOL, METRICS, n_layers=1, measure_memory=size)
    assert {score.tokens for score in whole.scores} == {"all", "no_sinks"} and len(whole.scores) > 60
    assert_same_scores(whole, bound)
    with pytest.raises(MetricError, match=r"the least is 18MB"):
        measurement_of(store, PROTOCOL, METRICS, n_layers=1, measure_memory=1000)


@pytest.mark.parametrize("mainflow, clouds", [(False, 12), (True, 24)])
def test_the_chain_of_stream_mainflow_has_moments_too(
    mainflow: bool, clouds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(space.Workspace, "within", lambda size, sizes: asked.append(sizes.n_clouds))
    store = SimpleNamespace(has_mainflow=mainflow)
    tokens = SimpleNamespace(store=store, modalities=["text", "image"], modality=[0] * 9, protocol=PROTOCOL)
    tokens.dim, tokens.n_folds, tokens.device = 8, 10, torch.device("cpu")
    space.workspace_for(tokens, 10**9, [])
    assert asked == [clouds]


EVERY = (*METRICS, "modality_gap", "mir", "cosine_alignment")


@pytest.mark.parametrize("metrics, most", [(DEFAULT_METRICS, 1), (EVERY, 2)], ids=["default", "beside others"])
def test_moments_of_wide_models_go_when_their_cloud_is_measured(
    metrics: Sequence[str], most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = sinky_store(tmp_path)
    whole = measurement_of(store, PROTOCOL, metrics, n_layers=1)
    alive: list[weakref.ref[FoldMoments]] = []
    together = []

    def accumulated(*given: Any) -> FoldMoments:
        found = accumulate_parked(*given)
        alive.append(weakref.ref(found))
        together.append(sum(one() is not None for one in alive))
        return found

    monkeypatch.setattr(cloud, "accumulate_parked", accumulated)
    monkeypatch.setattr(space, "MOST_OF_THREADS", 1)
    found = measurement_of(store, PROTOCOL, metrics, n_layers=1)
    assert max(together) == most
    assert_same_scores(whole, found)
    for a, b in zip(whole.sinks, found.sinks, strict=True):
        assert [layer.n_tokens for layer in a.layers] == [layer.n_tokens for layer in b.layers] and a.layers


@pytest.mark.parametrize("enough", [2048, 512])
def test_where_memory_runs_out_it_goes_on_with_fewer_rows_and_says_so_once(
    enough: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = sinky_store(tmp_path)
    whole = measurement_of(store, PROTOCOL, EVERY, n_layers=1)
    asked: list[int] = []
    found_so_far: list[weakref.ref[FoldMoments]] = []

    def scarce(chunks: Any, dim: int, n_folds: int, has_next: bool, workspace: Workspace) -> FoldMoments:
        asked.append(workspace.rows_per_chunk)
        if workspace.rows_per_chunk > enough and len(asked) > 3:  # some clouds have theirs by then
            raise torch.OutOfMemoryError("CUDA out of memory")
        if workspace.rows_per_chunk not in asked[:-1]:  # the first attempt of this size
            assert not any(one() for one in found_so_far), "what the attempt before has computed takes memory"
        found = accumulate_parked(chunks, dim, n_folds, has_next, workspace)
        found_so_far.append(weakref.ref(found))
        return found

    monkeypatch.setattr(cloud, "accumulate_parked", scarce)
    found = measurement_of(store, PROTOCOL, EVERY, n_layers=1)
    assert_same_scores(whole, found)
    assert min(asked) == enough and asked.index(enough) - asked.index(2048) in (0, 1), "never more rows again"
    assert [record.message for record in caplog.records if "out of memory" in record.message] == [
        "out of memory while measuring; going on with fewer rows at once, which changes no score"
    ]


def test_where_the_fewest_rows_do_not_fit_either_the_error_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*given: Any) -> FoldMoments:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cloud, "accumulate_parked", none_left)
    with pytest.raises(torch.OutOfMemoryError):
        measurement_of(sinky_store(tmp_path), PROTOCOL, EVERY, n_layers=1)


@pytest.mark.parametrize("size", ["8", "0GB", "eight", "8 XB", "-8GB", ""])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(MicroscopeError, match=r"--measure_memory: .* is not a size in memory"):
        memory_size("--measure_memory", size)
