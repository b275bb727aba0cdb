"""What a stranger's file is held against: each rule catches its slip and names it, and no real result breaks one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from microscope_bench.cli.main import main
from microscope_bench.results.plausibility import implausible
from microscope_bench.results.records import Score, Skipped
from microscope_bench.results.result import Result, load_result
from tests.results.sample import failed, sample, signed, with_scores

NONE = (None,) * 10
RESULTS = Path(__file__).resolve().parents[2] / "results"


@cache
def real() -> Result:
    return load_result(RESULTS / "zoo-llava/sha256-9fd3683a3ee8ad34/scienceqa_img.json")


def edited(metric: str, **change: object) -> Result:
    """The first row with a value of a metric, or of one of its estimators, changed."""
    rows = (s for s in real().scores if metric in (s.metric, f"{s.metric}.{s.estimator}") and s.value is not None)
    first = next(rows)
    return with_scores(real(), lambda score: replace(score, **change) if score is first else score)


def without(keep: Callable[[Score], bool]) -> Result:
    return with_scores(real(), lambda score: score if keep(score) else None)


def test_the_committed_results_break_no_rule() -> None:
    paths = sorted(RESULTS.rglob("*.json"))
    assert len(paths) > 20
    assert {path.name: found for path in paths if (found := implausible(load_result(path)))} == {}


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (edited("linearity.in_sample", value=1.01), "value: 1.01 lies outside 0 to 1"),
        (edited("anisotropy", value=-0.01), "value: -0.01 lies outside 0 to 1"),
        (edited("anisotropy", value=83.0), "value: 83.0 lies outside 0 to 1"),
        (edited("intrinsic_dimension", value=-3.0), "lies outside 0 to inf"),
        (edited("participation_ratio", value=129.0), "lies outside 1 to 128"),
        (edited("cosine_alignment", value=-1.5), "lies outside -1 to 1"),
        (
            edited("anisotropy", replicates=(0.1, 0.2, 0.3, *[None] * 7)),
            "its replicates make it 0.1155, the file says 0.004",
        ),
        (
            edited("anisotropy", replicates=(0.1, *[None] * 9)),
            "1 replicates have no standard error, the file says 0.004",
        ),
        (edited("anisotropy", stderr=1e308, replicates=()), "stderr: 1e+308 of a value within 0 to 1"),
        (edited("intrinsic_dimension", stderr=1e308, replicates=()), "stderr: 1e+308 of a value within 0 to inf"),
        (edited("anisotropy", n_tokens=10**6), "n_tokens: 1000000, but 5340 were kept"),
        (edited("anisotropy", n_examples=168), "n_examples: 168 of 167"),
        (edited("anisotropy", n_tokens=100), "n_examples: 167 among 100 tokens"),
        (edited("intrinsic_dimension", n_tokens=0, n_examples=0), "of no tokens"),
        (
            without(lambda s: (s.metric, s.layer) != ("anisotropy", 3)),
            "anisotropy top_share text all has no row of layer 3",
        ),
        (without(lambda s: s.metric != "cka"), "identity.metrics: cka has a version but no scores"),
        (
            edited("linearity", layer=6, estimator="held_out_permuted"),
            "has a row of layer 6, behind which there is no other",
        ),
        (replace(real(), accuracy=replace(real().accuracy, value=0.3)), "is no whole number of right answers"),
        (replace(real(), accuracy=replace(real().accuracy, stderr=0.001)), "accuracy.stderr: 0.001"),
        (replace(real(), accuracy=replace(real().accuracy, n=1670)), "accuracy.n: 1670 of 167 examples"),
        (replace(real(), inputs=replace(real().inputs, tokens_seen={"text": 9, "image": 9})), "tokens_seen counts 9"),
        (
            replace(real(), inputs=replace(real().inputs, skipped=tuple(Skipped(str(k), "x") for k in range(90)))),
            "inputs.skipped: 90 of 257 examples",
        ),
        (replace(real(), inputs=replace(real().inputs, n_examples=5)), "n_examples: 167 of 5"),
        (replace(real(), inputs=replace(real().inputs, n_examples=5)), "5 measured and 0 skipped of 167"),
        (replace(real(), signature=real().signature.replace("zoo-llava", "famous")), "signature: identity and"),
    ],
)
def test_a_slip_is_named(result: Result, said: str) -> None:
    found = implausible(result)
    assert any(said in line for line in found), found[:5]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(index=st.integers(0, 10**6), how_far=st.floats(0.01, 1e9))
def test_a_share_beyond_its_range_is_always_seen(index: int, how_far: float) -> None:
    unbounded = ("cross_fitted", "leading_64")  # which chance may take above 1
    metrics = ("anisotropy", "linearity", "cka")
    shares = [
        k for k, s in enumerate(real().scores) if s.metric in metrics and s.value and s.estimator not in unbounded
    ]
    place = shares[index % len(shares)]
    scores = list(real().scores)
    scores[place] = replace(scores[place], value=1 + how_far)
    assert any(f"scores[{place}]" in line for line in implausible(replace(real(), scores=tuple(scores))))


def test_a_plug_ins_metric_may_lie_anywhere() -> None:
    renamed = with_scores(real(), lambda s: replace(s, metric="theirs", value=1e9) if s.metric == "isoscore" else s)
    metrics = {name: version for name, version in real().identity.metrics.items() if name != "isoscore"}
    identity = replace(real().identity, metrics=metrics | {"theirs": 1})
    assert implausible(signed(replace(renamed, identity=identity))) == []


def test_a_failed_run_has_nothing_to_look_at() -> None:
    assert implausible(failed(sample())) == []


def test_validate_says_which_rule_failed_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited("anisotropy", value=83.0).save(tmp_path / "forged.json")
    real().save(tmp_path / "real.json")
    assert main(["validate", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"BAD  {tmp_path / 'forged.json'}: no run of this package writes this")
    assert "scores[" in lines[1] and "anisotropy top_share text all, layer 0).value: 83.0 lies outside" in lines[1]
    assert lines[2].startswith("ok   ")
