"""Where things lie in a panel of a report: the axis, its ticks, and labels that do not cover each other."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 380, 42, 112, 8, 38
"""Of a panel, in SVG units; close to CSS pixels on a phone and on a desk, so text keeps its size."""

PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, 172
LABEL_GAP = 11
_NARROW = frozenset("fijlrt.,:;|!()[]'`- /")
_WIDE = frozenset("mwABCDEFGHIJKLMNOPQRSTUVWXYZ@%…+<>=~")
_LARGEST = 1e300  # of what an axis spans: differences of larger numbers leave the range of float64
_FAR = 1e4  # beyond this a coordinate draws the same line, and some renderers give up


@dataclass(frozen=True)
class Scale:
    """A vertical axis that several panels share.

    Attributes:
        low: value at its lower end.
        high: value at its upper end.
        ticks: (value, how it is written), from low to high.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float, height: float) -> float:
        """Distance of a value from the upper end, where the axis is ``height`` long; beyond the ends where it is so."""
        share = (self.high - max(-_LARGEST, min(_LARGEST, value))) / (self.high - self.low)
        return max(-_FAR, min(_FAR, share * height))

    def holds(self, value: float) -> bool:
        """Whether a value lies on the axis."""
        return self.low <= value <= self.high


def scale_of(values: Iterable[tuple[float, float]], floor: float | None = None) -> Scale:
    """The axis for values with their standard errors; bands far wider than the values' range may leave it.

    Args:
        values: (value, standard error or 0), at least one.
        floor: the axis does not go below this, unless all values do.
    """
    pairs = [(max(-_LARGEST, min(_LARGEST, v)), min(_LARGEST, e)) for v, e in values]
    low, high = min(v for v, _ in pairs), max(v for v, _ in pairs)
    if floor is not None and high > floor:
        pairs = [(v, e) for v, e in pairs if v >= floor]
        low = max(low, floor)
    least = max(1e-6, 0.005 * max(abs(low), abs(high)))
    reach = 1.5 * max(high - low, least)
    low = min(low, max(min(v - e for v, e in pairs), low - reach))
    high = max(high, min(max(v + e for v, e in pairs), high + reach))
    if high - low < least:
        low, high = low - least, high + least
    step = _nice((high - low) / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    while first * step > low:  # by rounding
        first -= 1
    while last * step < high:
        last += 1
    return Scale(first * step, last * step, tuple((k * step, _written(k * step, step)) for k in range(first, last + 1)))


def _nice(step: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is no smaller."""
    power = math.floor(math.log10(step))
    for lead in (1, 2, 5, 10):
        nice = lead * 10.0**power
        if nice >= step * (1 - 1e-9):
            return nice
    return 10.0 ** (power + 1)


def _written(value: float, step: float) -> str:
    """A tick with as many digits as tell it from the next."""
    decimals = max(0, -math.floor(math.log10(step)))
    if decimals <= 5 and abs(value) < 1e5:
        text = f"{value:.{decimals}f}"
    else:
        digits = math.floor(math.log10(abs(value) or step)) - math.floor(math.log10(step)) + 1
        text = f"{value:.{max(1, digits)}g}"
    return text.replace("-", "−")


def spread(wanted: Sequence[float], low: float, high: float, gap: float) -> list[float]:
    """Places next to the wanted ones that are ``gap`` apart and lie within low..high, which must be long enough.

    >>> spread([10.0, 11.0, 50.0], 0.0, 60.0, 10.0)
    [5.5, 15.5, 50.0]
    """
    order = sorted(range(len(wanted)), key=lambda k: (wanted[k], k))
    # labels that would touch become one block around the mean of what they want; blocks that then touch are merged
    blocks: list[list[int]] = []
    starts: list[float] = []
    for index in order:
        blocks.append([index])
        starts.append(_start([wanted[index]], low, high, gap))
        while len(blocks) > 1 and starts[-2] + gap * len(blocks[-2]) > starts[-1]:
            last = blocks.pop()
            starts.pop()
            blocks[-1] += last
            starts[-1] = _start([wanted[k] for k in blocks[-1]], low, high, gap)
    placed = [0.0] * len(wanted)
    for block, start in zip(blocks, starts, strict=True):
        for position, index in enumerate(block):
            placed[index] = start + gap * position
    return placed


def _start(wanted: Sequence[float], low: float, high: float, gap: float) -> float:
    length = gap * (len(wanted) - 1)
    return max(low, min(high - length, math.fsum(wanted) / len(wanted) - length / 2))


def shorten(text: str, room: float) -> str:
    """Text that is about ``room`` wide at 10 pixels; what is left out of the middle shows as an ellipsis.

    >>> shorten("zoo-llava-next-untrained", 90), shorten("zoo-llava", 90)
    ('zoo-llav…trained', 'zoo-llava')
    """
    if _width(text) <= room:
        return text
    kept = min(len(text) - 1, int(room))  # no character is narrower than a pixel
    while kept > 1 and _width(text[: kept - kept // 2] + "…" + text[len(text) - kept // 2 :]) > room:
        kept -= 1
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def _width(text: str) -> float:
    """About how wide a text is at 10 pixels, in a wide sans-serif face."""
    return math.fsum(
        10.0 if unicodedata.east_asian_width(c) in "WF" else 4.0 if c in _NARROW else 8.5 if c in _WIDE else 6.3
        for c in text
    )
