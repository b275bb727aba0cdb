"""What lies where in a panel, and in which colours."""

from __future__ import annotations

import itertools
import math
import re
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microscope_bench.publish.report.axis import scale_of, shorten, spread

CSS = (resources.files("microscope_bench.publish") / "templates/report.css").read_text(encoding="utf-8")
COLOURS = dict(re.findall(r"\.(c\d|base) \{ --c: (#[0-9a-f]{6})", CSS))
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(FINITE, FINITE.map(abs)), min_size=1, max_size=8))
def test_an_axis_holds_its_values_with_a_few_distinct_ticks(values):
    scale = scale_of(values)
    ticks = [tick for tick, _ in scale.ticks]
    assert ticks == sorted(set(ticks)) and 3 <= len(ticks) <= 9
    assert len({text for _, text in scale.ticks}) == len(ticks)
    for value, _ in values:
        if abs(value) <= 1e300:
            assert scale.holds(value)
        assert math.isfinite(scale.place(value, 100.0))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1000, 1), min_size=1, max_size=8), st.floats(0, 10))
def test_an_axis_with_a_floor_holds_what_is_above_it(values, stderr):
    scale = scale_of([(value, stderr) for value in values], floor=-1.0)
    if max(values) > -1:
        # bands of the values that are there may take it a little below
        assert scale.low >= -1 - 3 * (max(values) + 1) - 1
    assert all(scale.holds(value) for value in values if value >= -1)


def test_ticks_are_round_numbers():
    assert [text for _, text in scale_of([(0.31, 0.0), (0.97, 0.0)]).ticks] == ["0.2", "0.4", "0.6", "0.8", "1.0"]
    assert [text for _, text in scale_of([(-1.5, 0.0), (2.2, 0.0)]).ticks] == ["−2", "−1", "0", "1", "2", "3"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.floats(-50, 250), min_size=1, max_size=15))
def test_labels_keep_apart_in_order_and_inside(wanted):
    placed = spread(wanted, 0.0, 200.0, 11.0)
    order = sorted(range(len(wanted)), key=lambda k: (wanted[k], k))
    assert all(-1e-9 <= place <= 200 + 1e-9 for place in placed)
    assert all(placed[b] - placed[a] >= 11 - 1e-9 for a, b in itertools.pairwise(order))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(20, 180), min_size=1, max_size=6))
def test_labels_with_room_stay_where_they_belong(wanted):
    if all(abs(a - b) >= 11 for a, b in itertools.combinations(wanted, 2)):
        assert spread(wanted, 0.0, 200.0, 11.0) == pytest.approx(wanted)


@given(st.text(min_size=1, max_size=80))
def test_a_shortened_name_keeps_both_ends(text):
    short = shorten(text, 90.0)
    assert short == text or ("…" in short and len(short) <= len(text) and text.startswith(short.split("…")[0]))
    assert len(short) <= 24


def linear(colour: str) -> list[float]:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance."""
    a, b = (sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(x), strict=True)) for x in (one, other))
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


# Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB
SIGHT = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}


def seen(colour: str, matrix: tuple[tuple[float, ...], ...]) -> tuple[float, float, float]:
    """CIE Lab of a colour as somebody sees it."""
    r, g, b = (min(1, max(0, sum(m * c for m, c in zip(row, linear(colour), strict=True)))) for row in matrix)
    x, y, z = (
        0.4124 * r + 0.3576 * g + 0.1805 * b,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        0.0193 * r + 0.1192 * g + 0.9505 * b,
    )

    def f(t: float) -> float:
        return t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116

    fx, fy, fz = f(x / 0.9505), f(y), f(z / 1.089)
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_differ_to_every_eye(sight):
    curves = [colour for name, colour in COLOURS.items() if name != "base"]
    assert len(set(curves)) == 8
    for one, other in itertools.combinations(curves, 2):
        assert math.dist(seen(one, SIGHT[sight]), seen(other, SIGHT[sight])) > 15, (one, other)
    assert math.dist(seen(COLOURS["base"], SIGHT[sight]), seen(COLOURS["c0"], SIGHT[sight])) > 15


def test_contrast_is_enough_to_read():
    variables = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", CSS))
    full = {name: c if len(c) == 7 else "#" + "".join(2 * digit for digit in c[1:]) for name, c in variables.items()}
    for text in ("ink", "soft", "link"):
        for ground in ("paper", "wash"):
            assert contrast(full[text], full[ground]) >= 4.5
    for colour in COLOURS.values():
        assert contrast(colour, full["paper"]) >= 3, "of a graphic"
