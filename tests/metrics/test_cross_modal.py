"""Modality gap, cosine alignment and subspace overlap against plain numpy over all pairs, and known clouds."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from microscope_bench.errors import MetricError, UnknownNameError
from microscope_bench.metrics import Estimate, cosine_alignment, modality_gap, subspace_overlap
from microscope_bench.metrics.core.cloud import ArrayCloud
from microscope_bench.metrics.core.workspace import Workspace
from microscope_bench.metrics.registry import METRICS
from tests.metrics.oracles import gaussian

X = gaussian(60, 12) * torch.linspace(3, 0.2, 12, dtype=torch.float64) + 0.5
TEXT = gaussian(45, 12, 1) @ gaussian(12, 12, 2) / 4 + 1
GROUPS, TEXT_GROUPS = torch.arange(60) // 4, torch.arange(45) // 3 + 1  # examples 1 to 14 have both
GAPS, COSINES = ("unit", "raw", "scaled"), ("all_pairs", "same_example", "mean_vectors")
PAIRED = ("modality_gap", "cosine_alignment", "subspace_overlap", "mir")


def every_value(x: Tensor, text: Tensor, groups: Tensor, text_groups: Tensor) -> dict[str, Estimate]:
    return {
        **{name: modality_gap(x, text, name, groups, text_groups) for name in GAPS},
        **{name: cosine_alignment(x, text, name, groups, text_groups) for name in COSINES},
        **{f"k{k}": subspace_overlap(x, text, k, groups, text_groups) for k in (1, 10)},
    }


def written_out(x: Tensor, text: Tensor, groups: Tensor, text_groups: Tensor) -> dict[str, float]:
    """Every value from all rows and all pairs of rows at once."""
    a, b = x.numpy(), text.numpy()
    cosines = cosine_similarity(a, b)
    shared = sorted({*groups.tolist()} & {*text_groups.tolist()})
    within = [cosines[(groups == e).numpy()][:, (text_groups == e).numpy()].mean() for e in shared]
    unit_a, unit_b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (a, b))
    raw = np.linalg.norm(a.mean(0) - b.mean(0))
    out = {
        "unit": np.linalg.norm(unit_a.mean(0) - unit_b.mean(0)),
        "raw": raw,
        "scaled": raw / np.sqrt((a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum()) / 2),
        "all_pairs": cosines.mean(),
        "same_example": np.mean(within),
        "mean_vectors": cosine_similarity(a.mean(0)[None], b.mean(0)[None]).item(),
    }
    for k in (1, 10):
        u, v = (PCA(k, svd_solver="full").fit(z).components_ for z in (a, b))
        out[f"k{k}"] = float((np.linalg.svd(u @ v.T, compute_uv=False) ** 2).mean())
    return out


def test_equal_their_definitions() -> None:
    found = every_value(X, TEXT, GROUPS, TEXT_GROUPS)
    for name, expected in written_out(X, TEXT, GROUPS, TEXT_GROUPS).items():
        assert found[name].value == pytest.approx(expected, rel=1e-9), name
        assert (found[name].n_tokens, found[name].n_examples) == (105, 15)
    assert found["same_example"].flags == ("shared_examples=14/15",)
    assert (found["k1"].flags, found["k10"].flags) == (("chance=0.0833",), ("chance=0.8333",))


def test_the_jackknife_leaves_the_examples_of_a_fold_out_of_both_clouds() -> None:
    fold, text_fold = GROUPS % 5, TEXT_GROUPS % 5
    cloud = ArrayCloud(X, None, fold, GROUPS, 5, text=ArrayCloud(TEXT, None, text_fold, TEXT_GROUPS, 5))
    left = [
        written_out(*(z[f != k] for z, f in ((X, fold), (TEXT, text_fold), (GROUPS, fold), (TEXT_GROUPS, text_fold))))
        for k in range(5)
    ]
    for metric in PAIRED[:3]:
        for name, _, estimate in METRICS.get(metric).scores(cloud):
            values = np.array([values[name] for values in left])
            assert estimate.stderr == pytest.approx(np.sqrt(4 / 5 * ((values - values.mean()) ** 2).sum()), rel=1e-6)


def test_a_fold_without_tokens_of_one_modality_still_counts() -> None:
    text = TEXT_GROUPS < 9
    cloud = ArrayCloud(
        X, None, GROUPS % 15, GROUPS, 15, text=ArrayCloud(TEXT[text], None, TEXT_GROUPS[text], TEXT_GROUPS[text], 15)
    )
    for metric in PAIRED:
        for name, _, estimate in METRICS.get(metric).scores(cloud):
            assert estimate.stderr is not None, name


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), exponent=st.integers(-10, 10))
def test_rotation_scale_and_order_change_nothing_but_the_raw_gap(seed: int, exponent: int) -> None:
    turned, scale = torch.linalg.qr(gaussian(12, 12, seed))[0], 2.0**exponent
    orders = [torch.randperm(n, generator=torch.Generator().manual_seed(seed)) for n in (60, 45)]
    x, text = (scale * z[order] @ turned for z, order in zip((X, TEXT), orders, strict=True))
    moved = every_value(x, text, GROUPS[orders[0]], TEXT_GROUPS[orders[1]])
    for name, expected in every_value(X, TEXT, GROUPS, TEXT_GROUPS).items():
        unit = scale if name == "raw" else 1
        assert moved[name].value == pytest.approx(unit * expected.value, rel=1e-7)
        assert moved[name].stderr == pytest.approx(unit * expected.stderr, rel=1e-5)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_directions_do_not_depend_on_the_length_of_any_token(seed: int) -> None:
    lengths = gaussian(60, 1, seed).exp()
    for name, function in (("unit", modality_gap), ("all_pairs", cosine_alignment), ("same_example", cosine_alignment)):
        stretched = function(lengths * X, TEXT, name, GROUPS, TEXT_GROUPS)
        assert stretched.value == pytest.approx(function(X, TEXT, name, GROUPS, TEXT_GROUPS).value, rel=1e-9)


def test_the_size_of_the_chunks_changes_nothing() -> None:
    def cloud(rows_per_chunk: int) -> ArrayCloud:
        text = ArrayCloud(TEXT, None, TEXT_GROUPS % 5, TEXT_GROUPS, 5)
        both = ArrayCloud(X, None, GROUPS % 5, GROUPS, 5, text=text)
        both.workspace = text.workspace = Workspace(rows_per_chunk=rows_per_chunk)
        return both

    for name in PAIRED:
        rows = zip(METRICS.get(name).scores(cloud(7)), METRICS.get(name).scores(cloud(1000)), strict=True)
        for (_, _, found), (_, _, expected) in rows:
            assert found.value == pytest.approx(expected.value) and found.stderr == pytest.approx(expected.stderr)


def test_the_standard_errors_match_the_spread_between_data_sets() -> None:
    groups, runs = np.repeat(np.arange(60), 5), {}
    wide = torch.linspace(4, 0.5, 12, dtype=torch.float64) ** 2
    for seed in range(40):
        x, text = (
            wide * (gaussian(300, 12, s) + gaussian(60, 12, s + 1).repeat_interleave(5, 0))
            for s in (9 * seed, 9 * seed + 4)
        )
        for name, estimate in every_value(x + 3, text - 1, groups, groups).items():
            runs.setdefault(name, []).append(estimate)
    for name in (*GAPS, *COSINES, "k10"):
        spread = np.std([e.value for e in runs[name]])
        assert 0.6 < np.mean([e.stderr for e in runs[name]]) / spread < 1.6, name


def test_known_clouds() -> None:
    axes = torch.eye(20, dtype=torch.float64)
    image, text = axes[:10], axes[10:]  # nothing in common
    assert modality_gap(image, text).value == pytest.approx((1 / 10 + 1 / 10) ** 0.5)
    assert cosine_alignment(image, text).value == 0
    assert modality_gap(image, image).value == 0
    assert cosine_alignment(image, -image, "mean_vectors").value == pytest.approx(-1)
    x = gaussian(200, 30)
    assert subspace_overlap(x, 3 * x + 7).value == pytest.approx(1)
    apart = (torch.cat(both, 1) for both in ((x, 0 * x), (0 * x, x)))
    assert subspace_overlap(*apart).value == pytest.approx(0, abs=1e-12)
    random = [subspace_overlap(gaussian(300, 30, s), gaussian(300, 30, s + 1)).value for s in range(0, 40, 2)]
    assert np.mean(random) == pytest.approx(10 / 30, rel=0.1)


def test_tokens_of_zeros_have_no_direction_and_are_counted() -> None:
    with_zeros = torch.cat([X, torch.zeros(5, 12)])
    found, expected = modality_gap(with_zeros, TEXT), modality_gap(X, TEXT)
    assert found.value == pytest.approx(expected.value) and found.flags == ("zero_norm=0.0455",)
    assert cosine_alignment(with_zeros, TEXT).flags == ("zero_norm=0.0455",)
    assert modality_gap(with_zeros, TEXT, "raw").flags == ()
    found, expected = modality_gap(X, torch.cat([TEXT, torch.zeros(5, 12)])), modality_gap(X, TEXT)
    assert found.value == pytest.approx(expected.value) and found.flags == ("zero_norm=0.0455",)


@pytest.mark.parametrize(("name", "case"), product(PAIRED, ["no tokens", "one token", "zeros", "nan in text"]))
def test_pairs_without_a_score_give_null_rows_with_a_reason(name: str, case: str) -> None:
    x, text = {
        "no tokens": (X[:0], TEXT),
        "one token": (X, TEXT[:1]),
        "zeros": (torch.zeros_like(X), torch.zeros_like(TEXT)),
        "nan in text": (X, torch.where(torch.arange(45)[:, None] == 3, torch.nan, TEXT)),
    }[case]
    groups, text_groups = GROUPS[: len(x)], TEXT_GROUPS[: len(text)]
    beside = ArrayCloud(text, None, text_groups % 5, text_groups, 5)
    cloud = ArrayCloud(x, None, groups % 5, groups, 5, text=beside)
    estimates = {estimator: estimate for estimator, _, estimate in METRICS.get(name).scores(cloud)}
    assert tuple(estimates) == METRICS.get(name).estimators
    has_value = {"one token": {"unit", "raw", *COSINES}, "zeros": {"raw"}}.get(case, set())
    for estimator, estimate in estimates.items():
        assert (estimate.value is not None) == (estimator in has_value), estimator
        assert (estimate.n_tokens, estimate.n_examples) == (len(x) + len(text), cloud.n_examples)
        if case == "nan in text":
            assert estimate.flags == ("non_finite",)
            assert estimate.reason.startswith("1 of 105 tokens hold NaN or infinity")


@pytest.mark.parametrize("name", PAIRED)
def test_a_cloud_without_text_beside_it_has_no_rows(name: str) -> None:
    assert list(METRICS.get(name).scores(ArrayCloud(X, X, GROUPS % 5, GROUPS, 5))) == []


def test_public_functions_raise_with_a_remedy() -> None:
    with pytest.raises(MetricError, match=r"zeros and have no direction.*Give tokens"):
        modality_gap(X, 0 * TEXT)
    with pytest.raises(MetricError, match=r"no example has tokens of both.*text_groups"):
        cosine_alignment(X, TEXT, "same_example")
    with pytest.raises(
        MetricError, match=r"extend in 12 directions and the text tokens in 4, fewer than 10.*smaller k"
    ):
        subspace_overlap(X, TEXT[:5])
    with pytest.raises(UnknownNameError, match="k10"):
        subspace_overlap(X, TEXT, k=11)
    with pytest.raises(UnknownNameError, match="scaled"):
        modality_gap(X, TEXT, "scale")
    with pytest.raises(ValueError, match="one width d, got 12 and 11"):
        modality_gap(X, TEXT[:, 1:])
    with pytest.raises(ValueError, match="both or neither"):
        modality_gap(X, TEXT, groups=GROUPS)
    with pytest.raises(ValueError, match=r"shapes \(60,\) and \(45,\), got \(45,\) and \(60,\)"):
        modality_gap(X, TEXT, groups=TEXT_GROUPS, text_groups=GROUPS)
