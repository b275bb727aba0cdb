"""The paired difference of two results: its numbers against numpy and scipy, its refusals, its words."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy import stats

from microscope_bench import difference
from microscope_bench.cli.main import main
from microscope_bench.errors import ResultError
from microscope_bench.metrics.core.jackknife import jackknife_stderr
from microscope_bench.publish.compare.comparison import Quantity
from microscope_bench.publish.difference.differences import LAYER, MEAN, SLOPE, Row
from microscope_bench.publish.difference.paired import holm, paired
from microscope_bench.publish.difference.renderings import RENDERINGS
from microscope_bench.results.records import Folds, Score, Skipped
from microscope_bench.results.replicates import rounded
from microscope_bench.results.result import Result
from tests.publish.hostile import HOSTILE, rendered
from tests.results.sample import SAMPLE_FILE, failed, sample, with_scores

K, EXAMPLES = 10, 100
ONE = sample().scores[0]
ANISOTROPY = Quantity("anisotropy", "top_share", None, "text", "all")


def of_examples(values: np.ndarray, **identity: Any) -> Result:
    """A result whose anisotropy of text at layer l is the mean of ``values[l]``, one for each example."""
    n_layers = len(values) - 1
    result = sample(model={"n_layers": n_layers, **identity}, metrics={"anisotropy": 1})
    fold = np.arange(values.shape[1]) % K
    scores = []
    for layer, one in enumerate(values):
        replicates = [float(one[fold != k].mean()) for k in range(K)]
        stderr = jackknife_stderr(replicates)
        first = next(s for s in sample().scores if s.metric == "anisotropy" and s.modality == "text")
        kept = rounded(replicates, stderr, K)
        scores.append(replace(first, layer=layer, value=float(one.mean()), stderr=stderr, replicates=kept))
    return replace(result, scores=tuple(scores), sinks=())


def draw(seed: int, n_layers: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shared = rng.normal(0.5, 0.1, EXAMPLES)
    return tuple(  # type: ignore[return-value]
        shared + rng.normal(0, 0.02, (n_layers + 1, EXAMPLES)) + 0.01 * np.arange(n_layers + 1)[:, None] * which
        for which in (0, 1)
    )


def one(rows: tuple[Row, ...], over: str, layer: int | None = None) -> Row:
    (found,) = [row for row in rows if row.over == over and (layer is None or row.layers == (layer,))]
    return found


def test_it_is_the_paired_test_over_the_means_of_folds() -> None:
    """With folds of one size the jackknife of a mean is the paired t-test on the folds' means."""
    a, b = draw(0)
    rows = difference(of_examples(a), of_examples(b, name="B"), layers=True).rows
    depth = np.arange(5) / 4
    slope = (depth - depth.mean()) / ((depth - depth.mean()) ** 2).sum()
    weights = {MEAN: np.full(5, 0.2), SLOPE: slope, **{layer: np.eye(5)[layer] for layer in range(5)}}
    for over, weight in weights.items():
        row = one(rows, LAYER, over) if isinstance(over, int) else one(rows, str(over))
        assert row.quantity == ANISOTROPY and row.found is not None
        of_fold = [(weight @ (a - b)).reshape(-1, K).mean(axis=0)]
        test = stats.ttest_1samp(of_fold[0], 0)
        ends = test.confidence_interval()
        found = row.found
        assert found.difference == pytest.approx(float(weight @ (a - b).mean(axis=1)), abs=1e-12)
        assert (found.p, found.low, found.high) == pytest.approx((test.pvalue, ends.low, ends.high), rel=2e-2, abs=2e-5)
        independent = math.hypot(*(float(np.std((weight @ x), ddof=1)) / math.sqrt(EXAMPLES) for x in (a, b)))
        if over != SLOPE:  # in which what the layers share cancels in each model already
            assert found.stderr < independent / 2, "what the examples share must cancel"


def test_models_of_other_depth_compare_by_mean_and_slope_over_depth() -> None:
    a, _ = draw(1, n_layers=4)
    b, _ = draw(1, n_layers=8)
    a, b = a + np.linspace(0, 0.3, 5)[:, None], b + np.linspace(0, 0.3, 9)[:, None]
    found = difference(of_examples(a), of_examples(b, name="B"), layers=True)
    assert {row.over for row in found.rows} == {MEAN, SLOPE}
    assert found.left_out == ("single layers: the models have 4 and 8 blocks",)
    slope = one(found.rows, SLOPE).found
    assert slope is not None
    assert slope.a == pytest.approx(0.3, abs=0.02) and slope.b == pytest.approx(0.3, abs=0.02)
    assert slope.low < 0 < slope.high


def test_the_same_result_twice_differs_by_nothing() -> None:
    found = difference(sample(), sample(), layers=True, everything=True)
    tested = [row.found for row in found.rows if row.found]
    assert len(tested) > 300
    assert {(t.difference, t.stderr, t.low, t.high, t.p, t.p_holm) for t in tested} == {(0, 0, 0, 0, 1, 1)}


def test_what_rounding_hides_is_no_certainty() -> None:
    """Two runs that agree in every rounded replicate, and differ in the value behind the last digit."""
    a = of_examples(draw(2)[0])
    b = with_scores(a, lambda s: replace(s, value=(s.value or 0) + 1e-7))
    for row in difference(a, b, layers=True).rows:
        assert row.over == SLOPE or (row.found is not None and row.found.p > 0.5), row


def test_a_fold_without_its_tokens_leaves_the_value_as_it_is() -> None:
    a, b = (of_examples(x) for x in draw(3))

    def hole(score: Score) -> Score:
        replicates = (None, *score.replicates[1:])
        return replace(score, replicates=replicates, stderr=jackknife_stderr(replicates[1:]))

    first, second = with_scores(a, hole), with_scores(b, hole)
    row = one(difference(first, second).rows, MEAN).found
    assert row is not None
    pairs = zip(first.scores, second.scores, strict=True)
    by_layer = [[x - y for x, y in zip(p.replicates[1:], q.replicates[1:], strict=True)] for p, q in pairs]  # type: ignore[operator]
    assert row.stderr == pytest.approx(jackknife_stderr(np.mean(by_layer, axis=0).tolist()), rel=1e-6)
    alone = one(difference(first, b).rows, MEAN).found
    assert alone is not None and math.isfinite(alone.stderr)


@given(st.lists(st.integers(0, 100), max_size=12))
def test_holm_rejects_what_holms_steps_reject(thousandths: list[int]) -> None:
    p_values = [p / 1000 for p in thousandths]
    adjusted = holm(p_values)
    for alpha in np.arange(1, 200) / 1000 + 0.0005:
        rejected, left = set(), sorted(range(len(p_values)), key=lambda k: p_values[k])
        while left and p_values[left[0]] * len(left) <= alpha:
            rejected.add(left.pop(0))
        assert {k for k, p in enumerate(adjusted) if p <= alpha} == rejected


def test_holm_is_over_the_rows_that_are_shown() -> None:
    a, b = (of_examples(x) for x in draw(4))
    few, many = difference(a, b), difference(a, b, layers=True)
    assert (len(few.rows), len(many.rows)) == (2, 7)
    for found in (few, many):
        tested = [row.found for row in found.rows if row.found]
        assert [t.p_holm for t in tested] == holm([t.p for t in tested])


def ratio_score(values: np.ndarray) -> Score:
    """The ratio of two means over (examples, 2), as a score with rounded replicates."""
    fold = np.arange(len(values)) % K
    ratio = [float(kept[:, 0].mean() / kept[:, 1].mean()) for kept in (values[fold != k] for k in range(K))]
    stderr = jackknife_stderr(ratio)
    value = float(values[:, 0].mean() / values[:, 1].mean())
    return replace(ONE, value=value, stderr=stderr, replicates=rounded(ratio, stderr, K))


def test_p_values_are_uniform_where_nothing_differs_and_find_more_than_both_errors_where_something_does() -> None:
    rng = np.random.default_rng(0)
    found: dict[float, list[tuple[float, bool, bool]]] = {0.0: [], 0.08: []}
    for effect, pairs in found.items():
        for _ in range(200):
            shared = rng.exponential(1, (167, 2)) + 0.2  # skewed, as what examples bring is
            models = [shared * rng.lognormal(0, 0.2, (167, 2)) for _ in range(2)]
            a, b = ratio_score(models[0] * (1 + effect, 1)), ratio_score(models[1])
            one = paired([a], [b], ([1.0], [1.0]))
            pairs.append((one.p, one.low <= 0 <= one.high, abs(one.difference) > (a.stderr or 0) + (b.stderr or 0)))
    p, covered, _ = (np.array(column) for column in zip(*found[0.0], strict=True))
    assert stats.kstest(p, "uniform").pvalue > 0.05
    assert 0.92 <= covered.mean() <= 0.985
    p, _, beyond = (np.array(column) for column in zip(*found[0.08], strict=True))
    assert 0.1 < (p < 0.05).mean() > 1.5 * beyond.mean()


def without_replicates(result: Result) -> Result:
    bare = with_scores(result, lambda s: replace(s, replicates=()))
    return replace(bare, inputs=replace(bare.inputs, folds=None))


def with_inputs(**changes: Any) -> Result:
    return replace(sample(), inputs=replace(sample().inputs, **changes))


PROTOCOL = sample().identity.protocol


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (failed(sample()), "the second is of a run that failed"),
        (without_replicates(sample()), "the second has no replicates; measure it again"),
        (with_inputs(folds=Folds(1, "0" * 64)), "the second has one fold"),
        (sample(protocol=replace(PROTOCOL, seed=1)), "seed is 0 and 1; measure both under one"),
        (sample(protocol=replace(PROTOCOL, folds=5, id_tokens=9)), "folds is 10 and 5, id_tokens is"),
        (sample(selection="mine/1"), "tokens were selected by blake2b-splitmix64/1 and mine/1"),
        (sample(example_ids_sha256="1" * 64), "other examples: 101 of"),
        (sample(dataset=replace(sample().identity.dataset, split="train")), " train@"),
        (with_inputs(folds=Folds(10, "0" * 64)), "other pictures, or other folds, under the same ids"),
        (
            with_inputs(folds=Folds(10, "0" * 64), skipped=(Skipped("q9", "too long"), *sample().inputs.skipped)),
            "the second skipped 1 that the other measured (q9)",
        ),
        (
            with_scores(sample(), lambda s: replace(s, stderr=s.stderr and s.stderr * 1.1)),
            "its replicates make it",
        ),
        (with_scores(sample(), lambda s: replace(s, replicates=s.replicates[:4])), "4 replicates of 10"),
    ],
)
def test_what_cannot_be_compared_in_pairs_is_refused_with_the_reason(other: Result, said: str) -> None:
    with pytest.raises(ResultError, match="cannot be compared in pairs") as refused:
        difference(sample(), other)
    assert said in str(refused.value)
    with pytest.raises(ResultError):
        difference(other, sample())


def test_rows_without_a_number_say_why() -> None:
    def hole(score: Score) -> Score:
        if (score.metric, score.modality, score.layer) == ("anisotropy", "image", 2):
            return replace(score, value=None, stderr=None, replicates=(), reason="constant")
        return score

    rows = difference(sample(), with_scores(sample(), hole)).rows
    reasons = {(row.quantity.metric, row.quantity.modality): row.reason for row in rows if row.found is None}
    assert reasons[("anisotropy", "image")] == "no value at layer 2"
    missing = with_scores(sample(), lambda s: None if (s.metric, s.layer) == ("anisotropy", 1) else s)
    rows = difference(sample(), missing).rows
    assert {r.reason for r in rows if r.quantity.metric == "anisotropy"} == {"scores of some layers are missing"}


def test_metrics_of_one_result_alone_are_named() -> None:
    other = sample(metrics={**sample().identity.metrics, "anisotropy": 2, "cka": 1})
    found = difference(sample(), other)
    assert "cka: measured in the second alone" in found.left_out
    assert "anisotropy: version 1 in the first, 2 in the second" in found.left_out
    assert "anisotropy" not in {row.quantity.metric for row in found.rows}


@pytest.mark.parametrize("size", [1e308, -1e308, 1e-308])
def test_numbers_at_the_end_of_their_range_give_a_reason_not_a_crash(size: float) -> None:
    spread = abs(size) / 1e3

    def huge(score: Score) -> Score:
        replicates = tuple(size - spread * (k % 2) for k in range(10))
        return replace(score, value=size, replicates=replicates, stderr=spread * math.sqrt(0.9 * 2.5) if size else 0)

    a, b = with_scores(sample(), huge), with_scores(sample(), lambda s: replace(huge(s), value=-size))
    for first, second in ((a, b), (sample(), b)):
        try:
            found = difference(first, second, layers=True)
        except ResultError:
            continue
        for form in RENDERINGS.values():
            assert form(found)


@pytest.mark.parametrize("text", HOSTILE)
def test_foreign_text_stays_text(text: str) -> None:
    metrics = {**sample().identity.metrics, text: 1}
    renamed = with_scores(sample(), lambda s: replace(s, metric=text, flags=()) if s.metric == "anisotropy" else s)
    result = replace(renamed, identity=replace(renamed.identity, metrics=metrics), signature=text)
    found = difference(result, result, everything=True)
    tags = rendered(RENDERINGS["markdown"](found))
    assert set(tags.tags) <= {"p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"} and not tags.links
    assert "\x1b" not in RENDERINGS["text"](found) and "\u202e" not in RENDERINGS["text"](found)
    assert json.loads(RENDERINGS["json"](found))["a"] == text


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (of_examples(x) for x in draw(5))
    a.save(tmp_path / "a.json")
    identity = replace(b.identity, model=replace(b.identity.model, name="B"))
    replace(b, identity=identity).signed().save(tmp_path / "b.json")
    command = ["difference", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "1 of 2 differences" in said or "2 of 2 differences" in said
    assert 'differ, model.name: "tiny-llava" → "B"' in said and "the same 100 examples in the same 10 folds" in said
    assert "slope over layers 0–4" in said
    assert main([*command, "--layers", "--format", "json", "-o", str(tmp_path / "out.json")]) == 0
    assert len(json.loads((tmp_path / "out.json").read_text())["rows"]) == 7
    assert main(["difference", str(tmp_path / "a.json"), str(tmp_path / "none.json")]) == 2
    sample(protocol=replace(PROTOCOL, seed=3)).save(tmp_path / "seed.json")
    assert main(["difference", str(SAMPLE_FILE), str(tmp_path / "seed.json")]) == 2
    assert "seed is 0 and 3" in capsys.readouterr().err
