"""docs/calibration.svg: the questions of the page in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

from benchmarks.calibration_parts.cells import COVERAGE_BAR
from benchmarks.calibration_parts.coverage import JUDGED
from benchmarks.calibration_parts.linearity_tables import JUDGED as JUDGED_LINEARITY
from benchmarks.calibration_parts.page import Measured, is_ours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, THEIRS = "#0b5fa5", "#8a8a8a"
MARKERS = ("o", "s", "^", "D", "v", "P")
COLOURS = ("#0b5fa5", "#4aa3df", "#d95f02", "#1b7837", "#7fbf7b", "#762a83")


def draw(measured: Measured, path: Path) -> None:
    """Writes the picture; the same numbers give the same file."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"svg.hashsalt": "calibration", "font.size": 9, "axes.spines.top": False}):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(17, 6), layout="constrained")
        draw_errors(left, measured)
        draw_linearity(middle, measured)
        draw_coverage(right, measured)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def draw_errors(axes: Axes, measured: Measured) -> None:
    """Mean relative error: hollow at the smallest n, solid at the largest; ours in blue."""
    smallest, largest = measured.sizes[0], measured.sizes[-1]
    errors = {name: measured.relative_error(name, largest) for name in measured.estimators()}
    shown = [name for name, error in errors.items() if error is not None]
    for row, name in enumerate(reversed(shown)):
        colour = OURS if is_ours(name) else THEIRS
        small, large = measured.relative_error(name, smallest), errors[name]
        axes.plot([small, large], [row, row], color=colour, linewidth=1)
        axes.plot(small, row, "o", color=colour, markerfacecolor="white")
        axes.plot(large, row, "o", color=colour)
    axes.set_yticks(range(len(shown)), list(reversed(shown)))
    axes.set_xlim(left=0)
    axes.grid(axis="x", linewidth=0.3)
    axes.set_xlabel("mean relative error over 24 manifolds")
    axes.set_title(f"Intrinsic dimension: n = {smallest:,} (hollow), n = {largest:,} (solid); ours in blue", fontsize=9)


def draw_linearity(axes: Axes, measured: Measured) -> None:
    """Mean less truth of the headline and its bracket by examples for a dimension; other kinds thin, headline only."""
    for kind, of_kind in measured.linearity.items():
        ratios = [float(ratio) for ratio in of_kind]
        for name, colour in zip(JUDGED_LINEARITY if kind == "plain" else ("cross_fitted",), COLOURS[::2], strict=False):
            biases = [by_estimator[name][0] for by_estimator in of_kind.values()]
            if kind == "plain":
                axes.plot(ratios, biases, "o-", color=colour, label=f"{name}, plain")
            else:
                axes.plot(ratios, biases, linewidth=0.8, color=THEIRS)
                axes.annotate(
                    kind, (ratios[0], biases[0]), (-4, 0), textcoords="offset points", ha="right", va="center"
                )
    axes.axhline(0, color="#7fbf7b", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
    axes.set_xlim(left=ratios[0] / 2.5)
    axes.grid(axis="y", linewidth=0.3)
    axes.set_xlabel("examples for a dimension")
    axes.set_ylabel("mean − linearity of the population")
    axes.set_title("Linearity of the update; thin: cross_fitted of kinds whose examples differ", fontsize=9)
    axes.legend(fontsize=8, frameon=False)


def draw_coverage(axes: Axes, measured: Measured) -> None:
    """Share of covering intervals by setting; the band is what is asked for."""
    settings = list(measured.coverage)
    axes.axvspan(*COVERAGE_BAR, color="#e8f2e8", zorder=0)
    axes.axvline(0.95, color="#7fbf7b", linewidth=0.8)
    for i, (name, marker, colour) in enumerate(zip(JUDGED, MARKERS, COLOURS, strict=True)):
        shares = [measured.coverage[setting][name]["covered"] for setting in reversed(settings)]
        rows = [row + 0.1 * (i - 2.5) for row in range(len(settings))]
        axes.plot(shares, rows, marker, color=colour, markersize=5, label=name)
    for between in range(1, len(settings)):
        axes.axhline(between - 0.5, color="#bbbbbb", linewidth=0.4)
    axes.set_yticks(range(len(settings)), list(reversed(settings)))
    axes.set_ylim(-0.5, len(settings) - 0.5)
    axes.set_xlabel("share of 95 % intervals that cover")
    axes.set_title(f"Coverage over {measured.draws} draws of examples; the band is 90–98 %", fontsize=9)
    axes.grid(axis="x", linewidth=0.3)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False)
