"""What a metric is: the one record that tables, pages, plausibility, tolerances, citations and docs read.

Imports no torch: what publishes results reads the records where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Literal

from microscope_bench.errors import MicroscopeError

if TYPE_CHECKING:
    from microscope_bench.metrics.core.cloud import Cloud
    from microscope_bench.metrics.core.estimate import Estimate

EstimatorScore = tuple[str, str | None, "Estimate"]
"""Estimator, stream (None where a metric has no streams), and what it gave."""


class Bound(Enum):
    """An end of a range that depends on the model."""

    WIDTH = "d"


WIDTH = Bound.WIDTH


@dataclass(frozen=True)
class ToleranceByDtype:
    """The largest move that is no drift, as ``--tolerance`` takes it (``0.002``, ``3%``, ``0.002+3%``), by dtype."""

    float32: str
    float16: str
    bfloat16: str


USUAL_TOLERANCE = ToleranceByDtype("0.0001+0.1%", "0.0005+0.5%", "0.002+1%")


@dataclass(frozen=True, kw_only=True)
class Headline:
    """An estimator, in one stream, that stands for its metric: a column of the tables, a chart of the report.

    Attributes:
        explanation: one line on how to read the column.
        extreme: which end over the layers tells more.
        in_tables: whether it is a column wherever a result holds the metric; else only the report and ``plot`` show it.
        in_report: what the report says at the chart, where that is more than ``explanation``.
        metric: the metric's name, filled in by its :class:`Metric`.
    """

    estimator: str
    stream: str | None = None
    title: str
    explanation: str
    extreme: Literal["min", "max"]
    in_tables: bool = True
    in_report: str = ""
    metric: str = ""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A pure function of a token cloud, and everything that is said of it anywhere.

    Attributes:
        name: as results and ``--metrics`` write it.
        version: raised by every change that moves a number.
        title: its name in running text.
        explanation: one line, without a full stop.
        estimators: all of them, in the order of the scores.
        streams: all of them; empty where the metric has none.
        scores: every estimator on every stream of one cloud. It draws on what the cloud keeps
            (``moments``, ``distinct``, ``neighbours``, ...), may look at the clouds it stands beside (``next``,
            ``text``), and yields nothing where it does not apply.
        compares: what a value is of: one ``cloud``; a cloud beside that of ``text``, whose tokens it counts too; a
            boundary and the ``next`` one, so that there is no value at the last.
        low: the least that a value can be, whatever the model.
        high: the most; ``WIDTH`` stands for d.
        estimator_ranges: estimator → (least, most), where they differ from ``low`` and ``high``.
        tolerance: the move from a baseline that ``compare`` takes for rounding.
        estimator_tolerances: the same of estimators that move more.
        cited_as: what a methods section says of how it was estimated; empty says the name and version alone.
        drops_copies: whether copies of a token are dropped first, so that there may be fewer tokens than examples.
        axis_floor: where the axis of a chart ends below, whatever the values.
        cautions: flag → what it means for a reader of a table.
        half_precision: what a half type of the hidden states means for a reader of a table.
        neighbours: how many nearest neighbours ``Cloud.neighbours`` is to hold; 0 for a metric that looks at none.
    """

    name: str
    version: int
    title: str
    explanation: str
    estimators: tuple[str, ...]
    scores: Callable[[Cloud], Iterable[EstimatorScore]]
    streams: tuple[str, ...] = ()
    headlines: tuple[Headline, ...] = ()
    compares: Literal["cloud", "text", "next"] = "cloud"
    unit: str = ""
    low: float = -math.inf
    high: float | Bound = math.inf
    estimator_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    tolerance: ToleranceByDtype = USUAL_TOLERANCE
    estimator_tolerances: Mapping[str, ToleranceByDtype] = field(default_factory=dict)
    cited_as: str = ""
    drops_copies: bool = False
    axis_floor: float | None = None
    cautions: Mapping[str, str] = field(default_factory=dict)
    half_precision: str = ""
    neighbours: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "headlines", tuple(replace(one, metric=self.name) for one in self.headlines))
        for one in self.headlines:
            if one.estimator not in self.estimators or one.stream not in (self.streams or (None,)):
                raise MicroscopeError(
                    f"metric {self.name} has a headline of estimator {one.estimator!r}, stream {one.stream!r}, which "
                    "its Metric does not list"
                )
        unknown = {*self.estimator_ranges, *self.estimator_tolerances} - set(self.estimators)
        if unknown:
            raise MicroscopeError(f"metric {self.name} has ranges or tolerances of {sorted(unknown)}, not estimators")

    @property
    def between(self) -> bool:
        """Whether a value lies between two boundaries, so that L + 1 boundaries give L values."""
        return self.compares == "next"

    @property
    def beside_text(self) -> bool:
        """Whether a value relates a modality to text and counts the tokens of both."""
        return self.compares == "text"

    def range_of(self, estimator: str, width: int) -> tuple[float, float]:
        """The least and the most that an estimator can give for states of ``width`` dimensions."""
        low, high = self.estimator_ranges.get(estimator, (self.low, self.high))
        return low, float(width) if isinstance(high, Bound) else high
