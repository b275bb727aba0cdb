"""The table of metrics, and the package's public face."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch

from microscope_bench.errors import MicroscopeError, UnknownNameError
from microscope_bench.metrics.core.cloud import ArrayCloud
from microscope_bench.metrics.record import WIDTH, Headline, Metric
from microscope_bench.metrics.registry import DEFAULT_METRICS, METRICS, find_metric, headlines, metric_names
from tests.metrics.oracles import gaussian, next_states


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


UNDEFINED = {("identity", "update")}


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric_yields_what_it_declares(name: str) -> None:
    x = gaussian(300, 12)
    example = torch.arange(300) // 3  # 100 groups, enough for k = 8
    metric = METRICS.get(name)
    text = ArrayCloud(gaussian(300, 12, seed=1), None, example % 10, example, 10)
    cloud = ArrayCloud(x, next_states(x), example % 10, example, 10, text=text)
    cloud.n_neighbours = metric.neighbours
    cloud.mainflow = ArrayCloud(x / 2, next_states(x), example % 10, example, 10)
    found = [(estimator, stream) for estimator, stream, _ in metric.scores(cloud)]
    declared = {(e, s) for e in metric.estimators for s in metric.streams or (None,)}
    assert len(found) == len(set(found))
    assert set(found) == declared - UNDEFINED
    assert all((one.estimator, one.stream) in found for one in metric.headlines) and metric.name == name
    for estimator, _, e in metric.scores(cloud):
        few_groups = estimator in ("gride_16", "gride_32", "gride_64")
        assert few_groups or (e.value is not None and e.stderr is not None), (estimator, e.reason)


@pytest.mark.parametrize("name", METRICS.names())
def test_a_cloud_without_tokens_has_no_value_and_a_reason(name: str) -> None:
    x, none = gaussian(0, 12), torch.empty(0, dtype=torch.int64)
    text = ArrayCloud(gaussian(30, 12), None, torch.arange(30) % 10, torch.arange(30), 10)
    for others in (text, ArrayCloud(x, None, none, none, 10)):
        cloud = ArrayCloud(x, x, none, none, 10, text=others)
        assert all(e.value is None and e.reason for _, _, e in METRICS.get(name).scores(cloud))


def test_the_last_boundary_has_no_linearity() -> None:
    x, example = gaussian(50, 4), torch.arange(50)
    cloud = ArrayCloud(x, None, example % 10, example, 10)
    assert list(METRICS.get("linearity").scores(cloud)) == []
    assert len(list(METRICS.get("anisotropy").scores(cloud))) == 1


def test_nan_anywhere_takes_every_value() -> None:
    x, example = gaussian(50, 4), torch.arange(50)
    x[3, 1] = torch.nan
    for name in METRICS:
        for _, _, estimate in METRICS.get(name).scores(ArrayCloud(x, x + 1, example % 10, example, 10)):
            assert estimate.value is None and estimate.flags == ("non_finite",)
            assert estimate.reason.startswith("1 of 50 tokens hold NaN or infinity")


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="anisotropy"):
        METRICS.get("anisotrophy")


def test_describing_the_metrics_imports_no_torch() -> None:
    run(
        "import sys; from microscope_bench.metrics import METRICS; [METRICS.get(n).explanation for n in METRICS];"
        "assert not {'torch', 'numpy'} & sys.modules.keys()"
    )


FUNCTIONS = {
    *("linearity", "anisotropy", "intrinsic_dimension", "gride", "pareto_distance", "participation_ratio"),
    *("effective_rank", "isoscore", "cka", "modality_gap", "cosine_alignment", "subspace_overlap", "mir"),
    *("modality_integration_rate", "estimates"),
}


@pytest.mark.parametrize(
    "first",
    [
        "import microscope_bench",
        "import microscope_bench.metrics.linearity_metric",
        "import microscope_bench.metrics.core.arrays",
        "from microscope_bench.metrics.registry import METRICS; METRICS.get('linearity').scores",
    ],
)
def test_the_public_functions_are_functions_whatever_was_imported_before(first: str) -> None:
    run(
        f"{first}\nfrom microscope_bench import metrics\nimport types\n"
        "names = {n for n in vars(metrics) if isinstance(getattr(metrics, n), types.FunctionType)}\n"
        f"assert names == {FUNCTIONS}"
    )


def test_a_metric_goes_by_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS._objects, "alias", METRICS.get("anisotropy"))
    with pytest.raises(MicroscopeError, match="'alias' calls itself 'anisotropy'"):
        metric_names("alias")
    with pytest.raises(MicroscopeError, match="no metric is named"):
        metric_names(" , ")
    monkeypatch.delitem(METRICS._objects, "alias")
    assert metric_names(["linearity", "all"]) == METRICS.names()


def test_the_headlines_of_the_default_metrics_come_first() -> None:
    titles = [one.title for one in headlines(["modality_gap", "cka", "nobody_s", *sorted(DEFAULT_METRICS)])]
    assert titles == [
        "linearity (hidden)",
        "linearity (update)",
        "intrinsic dimension",
        "anisotropy",
        "modality gap (unit)",
    ]
    assert headlines() == headlines(DEFAULT_METRICS) and {one.metric for one in headlines()} == set(DEFAULT_METRICS)
    assert find_metric("nobody_s") is None


def test_a_record_knows_where_its_values_lie() -> None:
    linearity, rank = METRICS.get("linearity"), METRICS.get("effective_rank")
    assert linearity.range_of("held_out", 64) == (-math.inf, 1) and linearity.range_of("in_sample", 64) == (0, 1)
    assert rank.range_of("covariance", 64) == (1, 64.0) and rank.high is WIDTH


@pytest.mark.parametrize(
    "wrong",
    [
        {"headlines": (Headline(estimator="b", title="t", explanation="e", extreme="min"),)},
        {"headlines": (Headline(estimator="a", stream="s", title="t", explanation="e", extreme="min"),)},
        {"estimator_ranges": {"b": (0, 1)}},
    ],
)
def test_a_record_speaks_of_estimators_that_it_lists(wrong: dict[str, Any]) -> None:
    with pytest.raises(MicroscopeError, match="metric toy has"):
        Metric(name="toy", version=1, title="toy", explanation="e", estimators=("a",), scores=lambda _: [], **wrong)
