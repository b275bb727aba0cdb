"""Replicates in a file: rounded, small, and true to the standard error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from microscope_bench.metrics.core.jackknife import jackknife_stderr
from microscope_bench.metrics.registry import DEFAULT_METRICS, METRICS
from microscope_bench.results.plausibility import implausible
from microscope_bench.results.records import Folds, Score
from microscope_bench.results.replicates import contradiction, rounded, stderr_of_sum
from microscope_bench.results.result import load_result
from tests.results.sample import sample


@given(
    values=st.lists(st.floats(-1, 1, width=16), min_size=2, max_size=12),
    exponent=st.integers(-30, 30),
    offset=st.floats(-1e3, 1e3),
)
def test_the_standard_error_of_rounded_replicates_is_that_of_the_exact_ones(
    values: list[float], exponent: int, offset: float
) -> None:
    exact = [(value + offset) * 10.0**exponent for value in values]
    stderr = jackknife_stderr(exact)
    again = jackknife_stderr(rounded(exact, stderr, len(exact)))
    assert again == pytest.approx(stderr, rel=1e-3, abs=1e-15 * max(map(abs, exact)))
    score = replace(sample().scores[0], value=exact[0], stderr=stderr, replicates=rounded(exact, stderr, len(exact)))
    assert contradiction(score, Folds(len(exact), "0" * 64)) is None


def test_folds_without_a_token_stay_empty_to_the_last() -> None:
    assert rounded((0.5, None, 0.25), None, 5) == (0.5, None, 0.25, None, None)
    assert rounded((), None, 5) == ()
    assert rounded((0.5,) * 101, 0.1, 101) == (), "so many would make a file that nobody reads"


def test_a_default_run_of_a_large_model_fills_less_than_two_megabytes(tmp_path: Path) -> None:
    """33 boundaries, text, image and both of them, with sinks and without: the most that a picture task gives."""
    rng = np.random.default_rng(0)

    def score(metric: str, estimator: str, stream: str | None, modality: str, tokens: str, layer: int) -> Score:
        exact = rng.normal(0.7, 0.004, 10).tolist()
        stderr = jackknife_stderr(exact)
        value, replicates = float(np.mean(exact)), rounded(exact, stderr, 10)
        flags = ("tokens/d=15.8", "examples/d=0.5", "few_examples") if metric == "linearity" else ()
        return Score(
            metric, estimator, stream, modality, tokens, layer, value, stderr, 64544, 2017, flags, None, replicates
        )

    records = [METRICS.get(name) for name in DEFAULT_METRICS]
    scores = tuple(
        score(record.name, estimator, stream, modality, tokens, layer)
        for layer in range(33)
        for modality in ("text", "image", "joint")
        for tokens in ("all", "no_sinks")
        for record in records
        for stream in (stream for stream in record.streams or (None,) if stream != "mainflow")
        for estimator in record.estimators
    )
    result = replace(sample(model={"n_layers": 32}), scores=scores, sinks=())
    result.save(tmp_path / "large.json")
    size = (tmp_path / "large.json").stat().st_size
    assert size < 2_000_000, f"{size:,} bytes of {len(scores):,} scores"
    assert not [line for line in implausible(load_result(tmp_path / "large.json")) if "replicates" in line]


def test_the_error_of_a_sum_is_the_jackknifes_of_the_sum() -> None:
    """Against numpy; a fold that one layer has no tokens in leaves that layer's value, one that none has is no fold."""
    first, second = sample().series("anisotropy", "top_share", None, "image")[:2]
    first = replace(first, value=0.5, replicates=(0.4, 0.6, None, None))
    second = replace(second, value=0.2, replicates=(0.1, 0.25, 0.3, None))
    sums = np.array([0.1 - 0.4, 0.25 - 0.6, 0.3 - 0.5])
    expected = np.sqrt(2 / 3 * np.sum((sums - sums.mean()) ** 2))
    assert stderr_of_sum([first, second], [-1.0, 1.0]) == pytest.approx(expected, rel=1e-12)
    assert stderr_of_sum([first, replace(second, replicates=())], [0.5, 0.5]) is None
