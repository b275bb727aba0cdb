"""What holds of every comparison, and of every file however damaged."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from microscope_bench.cli.main import main
from microscope_bench.errors import ResultError
from microscope_bench.publish.compare.comparison import DRIFT, MISSING, NOT_COMPARABLE, WITHIN, compare_results
from microscope_bench.publish.compare.forms import FORMS
from microscope_bench.publish.compare.tolerances import Tolerances, parse_tolerances
from microscope_bench.results.records import Score
from microscope_bench.results.result import Result, load_result
from tests.publish.small import SMALL
from tests.results.mutations import BYTES, DOCUMENT, mutations
from tests.results.sample import forge

SHARED = [HealthCheck.function_scoped_fixture]
QUICK = settings(max_examples=100, deadline=None, derandomize=True)
INDEX = st.integers(0, len(SMALL.scores) - 1)
CHOSEN = {"linearity": 0.01, "intrinsic_dimension": 0.03, "anisotropy": 0.002}
TOLERANCES = Tolerances(parse_tolerances(["linearity=0.01", "intrinsic_dimension=3%", "anisotropy=0.002"]))


def changed(index: int, **fields: Any) -> Result:
    scores = list(SMALL.scores)
    scores[index] = replace(scores[index], **fields)
    return replace(SMALL, scores=tuple(scores))


def allowed(score: Score) -> float:
    """How far it may move, worked out apart from the code under test."""
    assert score.value is not None
    return CHOSEN[score.metric] * (abs(score.value) if score.metric == "intrinsic_dimension" else 1)


@QUICK
@given(index=INDEX, direction=st.sampled_from([1, -1]))
def test_twice_the_tolerance_is_always_caught_and_half_of_it_never(index: int, direction: int) -> None:
    score = SMALL.scores[index]
    for baseline, new in (lambda moved: ((SMALL, moved), (moved, SMALL)))(
        changed(index, value=score.value + direction * 2 * allowed(score))
    ):
        comparison = compare_results(baseline, new, TOLERANCES)
        # from the other side a relative tolerance is one of the moved value, 6 % away
        assert comparison.status == DRIFT
        (drift,) = comparison.drifts
        assert (drift.series.metric, drift.layer) == (score.metric, score.layer)
        assert 1.8 < drift.excess < 2.2
    half = changed(index, value=score.value + direction * allowed(score) / 2)
    assert compare_results(SMALL, half, TOLERANCES).status == WITHIN


@pytest.mark.parametrize(("new", "status"), [(0.9705, WITHIN), (0.9695, DRIFT), (1.0295, WITHIN), (1.0305, DRIFT)])
def test_a_relative_tolerance_is_a_share_of_the_baseline(new: float, status: int) -> None:
    """At 3 %; a share of the new value would allow another 3 % of it more, or less."""
    index = next(k for k, score in enumerate(SMALL.scores) if score.metric == "intrinsic_dimension")
    comparison = compare_results(changed(index, value=1.0), changed(index, value=new), TOLERANCES)
    assert comparison.status == status


@QUICK
@given(index=INDEX, default=st.sampled_from(["float32", "float16", "bfloat16"]), direction=st.sampled_from([1, -1]))
def test_twice_the_default_tolerance_too(index: int, default: str, direction: int) -> None:
    def of(result: Result) -> Result:
        return replace(result, identity=replace(result.identity, model=replace(result.identity.model, dtype=default)))

    score = SMALL.scores[index]
    limit = Tolerances().find(score.metric, score.estimator, (default,)).limit(score.value or 0)
    assert limit > 0
    moved = changed(index, value=score.value + direction * 2 * limit)
    assert compare_results(of(SMALL), of(moved)).status == DRIFT


@QUICK
@given(st.permutations(range(len(SMALL.scores))))
def test_equal_results_agree_in_any_order_of_rows(order: list[int]) -> None:
    shuffled = replace(SMALL, scores=tuple(SMALL.scores[i] for i in order))
    comparison = compare_results(SMALL, shuffled)
    assert (comparison.status, comparison.drifts) == (WITHIN, ())


@QUICK
@given(index=INDEX, direction=st.booleans())
def test_a_vanished_row_or_a_null_is_always_caught(index: int, direction: bool) -> None:
    gone = replace(SMALL, scores=SMALL.scores[:index] + SMALL.scores[index + 1 :])
    null = changed(index, value=None, stderr=None, reason="NaN in the states")
    for other in (gone, null):
        pair = (SMALL, other) if direction else (other, SMALL)
        assert compare_results(*pair).status == DRIFT


@pytest.mark.parametrize("layer", sorted({score.layer for score in SMALL.scores}))
def test_a_vanished_layer_is_caught(layer: int) -> None:
    gone = replace(SMALL, scores=tuple(score for score in SMALL.scores if score.layer != layer))
    comparison = compare_results(SMALL, gone)
    assert comparison.status == DRIFT
    assert sum(one.kind == MISSING for one in comparison.drifts) == len(SMALL.scores) - len(gone.scores)


def test_swapped_modalities_are_caught() -> None:
    other = {"text": "image", "image": "text"}
    swapped = tuple(replace(score, modality=other.get(score.modality, score.modality)) for score in SMALL.scores)
    assert compare_results(SMALL, replace(SMALL, scores=swapped)).status == DRIFT


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_result_made_in_memory_with_no_number_in_it_is_never_within(value: float) -> None:
    for index in range(len(SMALL.scores)):
        assert compare_results(SMALL, changed(index, value=value)).status == DRIFT
        assert compare_results(changed(index, value=value), SMALL).status == DRIFT


def test_two_values_of_one_thing_are_refused() -> None:
    with pytest.raises(ResultError, match="two values of one metric"):
        compare_results(SMALL, replace(SMALL, scores=(*SMALL.scores, SMALL.scores[0])))


def status_of(baseline: Path, new: Path, form: str = "text") -> int:
    """Through the command line; something is said, and it is no traceback."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(["compare", str(baseline), str(new), "--format", form])
    said = out.getvalue() + err.getvalue()
    assert said.strip() and "Traceback" not in said
    return status


def same_content(content: bytes) -> bool:
    """Whether damaged bytes still say what they said (blanks)."""
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        return False
    # to Python, false in the place of 0 is equal
    return bool(found == DOCUMENT and all(str(found).count(w) == str(DOCUMENT).count(w) for w in ("True", "False")))


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "intact.json"
    path.write_bytes(BYTES)
    assert status_of(path, path) == WITHIN
    return path


def check_damaged(intact: Path, content: bytes, baseline_too: bool) -> None:
    damaged = intact.with_name("damaged.json")
    damaged.write_bytes(content)
    expected = WITHIN if same_content(content) else NOT_COMPARABLE
    assert status_of(intact, damaged) == expected
    if baseline_too:
        assert status_of(damaged, intact) == expected


@st.composite
def damaged_bytes(draw: st.DrawFn) -> bytes:
    start = draw(st.integers(0, len(BYTES)))
    end = draw(st.integers(start, min(len(BYTES), start + 20)))
    content = BYTES[:start] + draw(st.binary(max_size=20)) + BYTES[end:]
    return content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content


def check_document(intact: Path, document: dict[str, Any], side: bool) -> None:
    check_damaged(intact, json.dumps(document).encode(), side)


def check_forged(intact: Path, document: dict[str, Any], form: str) -> None:
    """Hashes made to fit: what is valid is compared; it passes only where no value differs by more than 1 in 1,000."""
    try:
        forge(document)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return
    path = intact.with_name("forged.json")
    path.write_text(json.dumps(document))
    if status_of(intact, path, form) == WITHIN:
        ours, theirs = (
            {(s.metric, s.estimator, s.stream, s.modality, s.tokens, s.layer): s.value for s in load_result(p).scores}
            for p in (intact, path)
        )
        assert theirs == pytest.approx(ours, rel=1.01e-3, abs=1e-4)
        first, second = load_result(intact).identity, load_result(path).identity
        same = {"name": "x", "repo": "x", "revision": "x"}
        assert replace(first, model=replace(first.model, **same)) == replace(
            second, model=replace(second.model, **same)
        )


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=SHARED)
@given(content=damaged_bytes(), side=st.booleans())
def test_damaged_bytes_never_pass(intact: Path, content: bytes, side: bool) -> None:
    check_damaged(intact, content, side)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=SHARED)
@given(document=mutations(), side=st.booleans())
def test_damaged_fields_never_pass(intact: Path, document: dict[str, Any], side: bool) -> None:
    check_document(intact, document, side)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=SHARED)
@given(document=mutations(), form=st.sampled_from(sorted(FORMS)))
def test_forged_fields_pass_only_where_nothing_differs(intact: Path, document: dict[str, Any], form: str) -> None:
    check_forged(intact, document, form)


@pytest.mark.heavy
@pytest.mark.parametrize("what", ["bytes", "fields", "forged"])
def test_two_thousand_of_each(intact: Path, what: str) -> None:
    @settings(max_examples=2000, deadline=None, suppress_health_check=[*SHARED, HealthCheck.too_slow])
    @given(content=damaged_bytes(), document=mutations(), side=st.booleans(), form=st.sampled_from(sorted(FORMS)))
    def each(content: bytes, document: dict[str, Any], side: bool, form: str) -> None:
        if what == "bytes":
            check_damaged(intact, content, side)
        elif what == "fields":
            check_document(intact, document, side)
        else:
            check_forged(intact, document, form)

    each()


def huge() -> Iterator[bytes]:
    yield b"[" * 100_000
    yield b"0" * 1_000_000
    yield json.dumps({**copy.deepcopy(DOCUMENT), "scores": DOCUMENT["scores"] * 2000}).encode()
    yield b""


@pytest.mark.parametrize("content", list(huge()), ids=["deep", "digits", "rows", "empty"])
def test_huge_and_empty_files(intact: Path, content: bytes) -> None:
    check_damaged(intact, content, True)


def test_a_directory_and_a_file_that_may_not_be_read(intact: Path, tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()
    assert status_of(intact, tmp_path / "x.json") == NOT_COMPARABLE
