"""How far a value may move: what is read, what is refused, which one counts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microscope_bench.errors import ResultError
from microscope_bench.metrics.record import USUAL_TOLERANCE
from microscope_bench.metrics.registry import METRICS
from microscope_bench.publish.compare.spread import read_tolerances, to_lines
from microscope_bench.publish.compare.tolerances import (
    DTYPES,
    Tolerance,
    Tolerances,
    default_tolerance,
    parse_tolerances,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("text", "absolute", "relative"),
    [("0.002", 0.002, 0), ("3%", 0, 0.03), ("12%", 0, 0.12), ("0.002+3%", 0.002, 0.03), ("0", 0, 0),
     (" 1e-3 ", 1e-3, 0), (".5", 0.5, 0), ("2E+1", 20, 0), ("1e-1+1e1%", 0.1, 0.1)],
)  # fmt: skip
def test_what_is_read(text: str, absolute: float, relative: float) -> None:
    assert Tolerance.parse(text) == Tolerance(absolute, relative)
    assert Tolerance.parse(str(Tolerance.parse(text))) == Tolerance.parse(text)


@pytest.mark.parametrize(
    "text", ["", " ", "%", "-1", "-3%", "nan", "inf", "1e999", "3%+0.1", "1+2", "1,5", "1 %", "٣", "x"]
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ResultError, match="is not a tolerance; write"):
        Tolerance.parse(text)


@given(baseline=FINITE, new=FINITE, absolute=st.floats(0, 1e300), relative=st.floats(0, 10))
def test_excess_says_what_the_definition_says(baseline: float, new: float, absolute: float, relative: float) -> None:
    """Held against the definition in exact arithmetic."""
    from fractions import Fraction

    excess = Tolerance(absolute, relative).excess(baseline, new)
    move = abs(Fraction(new) - Fraction(baseline))
    limit = Fraction(absolute) + Fraction(relative) * abs(Fraction(baseline))
    assert not math.isnan(excess)
    if move > limit * (1 + Fraction(1, 10**9)):
        assert excess > 1
    elif 2 * move < limit < 10**307:
        assert excess <= 1


@pytest.mark.parametrize("sign", [1, -1])
def test_a_relative_tolerance_is_one_of_the_magnitude(sign: int) -> None:
    tolerance = Tolerance(0.01, 0.03)
    assert tolerance.limit(sign * 2.0) == pytest.approx(0.07)
    assert tolerance.excess(sign * 2.0, sign * 2.0 - 0.035) == pytest.approx(0.5)


@pytest.mark.parametrize("new", [math.nan, math.inf, -math.inf, -1e308])
@pytest.mark.parametrize("tolerance", [Tolerance(0.1), Tolerance(0, 5.0), Tolerance(1e308, 5.0)])
def test_nothing_that_is_not_a_number_is_within(new: float, tolerance: Tolerance) -> None:
    assert not tolerance.excess(1e308, new) <= 1
    assert not tolerance.excess(math.nan, 1.0) <= 1


def test_the_more_specific_wins_and_a_choice_goes_before_the_defaults() -> None:
    tolerances = Tolerances(parse_tolerances(["intrinsic_dimension=3%", "intrinsic_dimension.twonn_mle=0.5"]))
    both = ("float32", "float32")
    assert tolerances.find("intrinsic_dimension", "twonn_mle", both) == Tolerance(0.5)
    # the default of this very estimator does not go before what the user said about the metric
    assert tolerances.find("intrinsic_dimension", "twonn_regression20", both) == Tolerance(0, 0.03)
    headline = "linearity", "cross_fitted"
    assert tolerances.find(*headline, both) == default_tolerance(*headline, "float32")
    assert tolerances.find("a_plugin", "x", both) == Tolerance.parse(USUAL_TOLERANCE.float32)


@pytest.mark.parametrize(
    ("dtypes", "counts"),
    [(("float64", "float32"), "float32"), (("float32", "float16"), "float16"), (("bfloat16", "float16"), "bfloat16"),
     (("float32", "float8_e4m3fn"), "bfloat16")],
)  # fmt: skip
def test_the_coarser_type_counts(dtypes: tuple[str, str], counts: str) -> None:
    headline = "linearity", "cross_fitted"
    assert Tolerances().find(*headline, dtypes) == default_tolerance(*headline, counts)


def test_coarser_types_are_never_held_to_less() -> None:
    names = [(name, estimator) for name in METRICS for estimator in METRICS.get(name).estimators]
    for name in [*names, ("accuracy", ""), ("skipped", ""), ("sinks", ""), ("a_plugin", "x")]:
        for value in (0.01, 1.0, 30.0):
            single, half, brain = (default_tolerance(*name, dtype).limit(value) for dtype in DTYPES)
            assert single <= half <= brain


@pytest.mark.parametrize("texts", [["linearity"], ["=3%"], ["a=1", "a=2"], ["a=b"]])
def test_broken_choices(texts: list[str]) -> None:
    with pytest.raises(ResultError):
        parse_tolerances(texts)


def test_a_file_of_them(tmp_path) -> None:
    chosen = {"linearity.cross_fitted": Tolerance(1.3e-9), "accuracy": Tolerance(), "x": Tolerance(0.1, 0.5)}
    path = tmp_path / "tolerances.txt"
    path.write_text(to_lines(chosen, 3) + "\n\ny=3%  # because\n")
    assert read_tolerances(path) == chosen | {"y": Tolerance(0, 0.03)}
    path.write_text("linearity=much")
    with pytest.raises(ResultError, match=r"tolerances\.txt: 'much' is not a tolerance"):
        read_tolerances(path)
    for content in (b"\xff\xfe", None):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(ResultError, match="cannot read the tolerances"):
            read_tolerances(path)
