from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from microscope_bench.metrics.registry import headlines
from microscope_bench.publish.summary import (
    Summary,
    Withheld,
    accuracy_text,
    layers_to_mir,
    plus_minus,
    show_layers,
    summarise,
)
from microscope_bench.publish.terminal import summary_table
from microscope_bench.results.records import Accuracy, Score
from tests.results.sample import failed, sample, with_scores


@pytest.mark.parametrize(
    ("value", "stderr", "shown"),
    [
        (0.5, 0.0996, "0.50 ± 0.10"),
        (123.456, 9.96, "123 ± 10"),
        (-0.5, 0.25, "-0.50 ± 0.25"),
        (1.0, 0.0, "1 ± 0"),
        (1.0, 1e-12, "1.000000 ± 0.000001"),
        (0.5, 3e10, "0.5 ± 3e+10"),
    ],
)
def test_a_value_has_the_precision_of_its_standard_error(value: float, stderr: float, shown: str) -> None:
    assert plus_minus(value, stderr) == shown


def test_layers() -> None:
    assert show_layers([7]) == "7"
    assert show_layers([3, 1, 2, 9, 10]) == "1–3, 9–10"


def test_the_terminal_shows_the_same_numbers() -> None:
    result = sample(model={"trained": False})
    text = summary_table(with_scores(result, lambda s: None if (s.metric, s.modality) == ("anisotropy", "text") else s))
    assert "tiny-llava (untrained) on shapesqa, geometry/1" in text
    whole, split = text.split("answered rightly and wrongly, as many examples of each:")
    for part in (whole, split):
        assert sum("linearity (hidden)" in line for line in part.splitlines()) == 5, "two of three have sinks"
    assert "sinks text 6 of 3,200, image 0 of 1,536, joint 6 of 4,736" in text
    assert "not summarised: text: anisotropy: no scores of layers 0–4" in text
    assert "accuracy 0.610 ± 0.049 (n = 100)" in text
    assert text.endswith(result.signature)


def test_the_modality_integration_rate_is_the_logarithm_of_a_sum() -> None:
    one = sample().series("anisotropy", "top_share", None, "image")[0]

    def row(layer: int, value: float | None) -> Score:
        reason = "no tokens" if value is None else None
        stderr = None if value is None else 0.1
        return replace(one, metric="mir", estimator="exact", layer=layer, value=value, stderr=stderr, reason=reason)

    rows = [row(layer, value) for layer, value in enumerate((70.0, 1.0, 2.0, 3.0, 4.0))]
    result = replace(sample(), scores=(*sample().scores, *rows))
    rate = layers_to_mir(result, "image")
    assert rate == pytest.approx((1.0, 0.4 / (10 * math.log(10))))  # boundary 0 does not count
    assert "modality integration rate, image to text, all: 1.0000 (standard error at most 0.017)" in summary_table(
        result
    )
    assert layers_to_mir(result, "text") is None
    broken = replace(result, scores=(*sample().scores, *rows[:3], row(3, None), rows[4]))
    assert layers_to_mir(broken, "image") is None
    assert layers_to_mir(sample(), "image") is None


def test_a_failed_run_says_why() -> None:
    assert summary_table(failed(sample())).startswith("failed in capture: CaptureError: boundary 3 came")


def test_half_types_and_metrics_without_a_column_are_spoken_of() -> None:
    for dtype in ("bfloat16", "float16"):
        half = summary_table(sample(model={"dtype": dtype}))
        assert (
            "beware, text; text, no sinks; image; joint; joint, no sinks: rounding of a half type raises intrinsic"
            in half
        )
    assert "half type" not in summary_table(sample())
    more = sample(metrics={**sample().identity.metrics, "cka": 1, "mir": 1})
    assert "in the result file too: cka, mir" in summary_table(more)
    only = summary_table(replace(sample(), identity=replace(sample().identity, metrics={"cka": 1})))
    assert "linearity" not in only and "not summarised" not in only


@pytest.mark.parametrize(("few", "withheld"), [((0,), False), ((2,), True), ((0, 1), True), ((0, 1, 2, 3, 4), True)])
def test_a_vocabulary_at_boundary_0_is_in_neither_mean_nor_extreme(few: tuple[int, ...], withheld: bool) -> None:
    headline = next(h for h in headlines() if h.metric == "intrinsic_dimension")

    def change(score: Score) -> Score:
        if score.metric != "intrinsic_dimension" or score.layer not in few:
            return score
        none = {"value": None, "stderr": None, "replicates": ()}
        return replace(score, **none, reason="60 tokens", n_tokens=60, flags=("few_distinct=60/1024",))

    result = with_scores(sample(), change)
    summary = summarise(result, headline, "text")
    if withheld:
        assert isinstance(summary, Withheld) and "60 tokens" in summary.reason
        return
    rows = result.series("intrinsic_dimension", headline.estimator, None, "text")
    assert isinstance(summary, Summary)
    assert summary.mean == pytest.approx(sum(row.value or 0 for row in rows[1:]) / len(rows[1:]))
    assert summary.layer > 0 and summary.n_tokens[0] > 60
    assert any("left out of mean and extreme" in caution for caution in summary.cautions)


def test_what_contradicts_the_law_of_an_estimate_is_a_caution() -> None:
    headline = next(h for h in headlines() if h.metric == "intrinsic_dimension")
    flagged = with_scores(sample(), lambda s: replace(s, flags=("pareto_rejected",)))
    summary = summarise(flagged, headline, "text")
    assert isinstance(summary, Summary) and any("contradict the law" in caution for caution in summary.cautions)


def test_of_equal_layers_the_first_is_named() -> None:
    headline = next(h for h in headlines() if h.metric == "anisotropy")
    flat = with_scores(sample(), lambda s: replace(s, value=0.5, n_tokens=700 + s.layer))
    summary = summarise(flat, headline, "image")
    assert isinstance(summary, Summary)
    assert (summary.mean, summary.extreme, summary.layer) == (0.5, 0.5, 0)
    assert summary.n_tokens == (700, 704)


def test_one_example_has_an_accuracy_without_a_standard_error() -> None:
    one = replace(sample(), accuracy=Accuracy(value=1.0, stderr=None, n=1, reason=None))
    assert accuracy_text(one) == "1, without a standard error (n = 1)"


def test_a_share_of_all_or_none_has_an_interval() -> None:
    def shown(value: float) -> str:
        return accuracy_text(replace(sample(), accuracy=Accuracy(value, 0.0, 8, None)))

    # statsmodels.stats.proportion.proportion_confint(8, 8, method="wilson")
    assert shown(1.0) == "1, 95 % interval 0.676 to 1 (n = 8)"
    assert shown(0.0) == "0, 95 % interval 0 to 0.324 (n = 8)"
