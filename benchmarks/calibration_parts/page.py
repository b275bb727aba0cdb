"""docs/calibration.md: tables and verdicts made of what was measured."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from benchmarks.calibration_parts import linearity_tables, picture_counts
from benchmarks.calibration_parts.cells import COVERAGE_BAR, NO_VALUE, in_bar, number, percent
from benchmarks.calibration_parts.clustered import SETTINGS
from benchmarks.calibration_parts.coverage import FRESH, JUDGED, KNOWN, SEED, STREAMS
from benchmarks.calibration_parts.manifolds import SAME_ESTIMATOR
from benchmarks.calibration_parts.pairs import pairs_table, pairs_verdict
from microscope_bench.publish.escape import table

Record = dict[str, Any]

ERROR_BAR, ERROR_BAR_N = 0.11, 5000
WORSE = 5e-4
"""Mean relative errors that differ by less are the same in the three digits of the table."""

TEMPLATE = Path(__file__).with_name("page.md")
PACKAGES = ("torch", "numpy", "scikit-dimension")
COMMAND = "python benchmarks/calibration.py --write docs/calibration.md"
QUICK_NOTE = " **This page is such a part**, so that its figures are rough and some remarks are about rows it lacks."
DADAPY_NOTE = """
DADApy's GRIDE goes up to the 128th neighbour, as ours. It maximises nearly the same likelihood: it leaves out ratios
far above the others (by more than 20 times the distance from the median to the 95th percentile) and writes N − 1 for N,
ours does neither; on curves, where a few ratios are huge, that shows in the second digit, on average in the third."""


@dataclass(frozen=True)
class Measured:
    """All that the page tells.

    Attributes:
        manifolds: one record per manifold, n and seed, from :func:`manifolds.estimates`.
        coverage: name of a setting → estimate → :class:`coverage.Summary` as plain data.
        draws: data sets per setting.
        linearity: what examples for a dimension do to estimates of linearity, by kind.
        linearity_sets: data sets of each of its kinds.
        width: d of these.
        pictures: kind → number of pictures → metric and estimator → :class:`coverage.Summary` as plain data.
        picture_draws: kind → number of pictures → data sets.
        quick: whether this is the quick part of it only.
        pairs: metric → :class:`pairs.Agreement` as plain data.
        n_pairs: pairs of models that it is of.
    """

    manifolds: list[Record]
    coverage: dict[str, dict[str, Any]]
    draws: int
    linearity: linearity_tables.ByExamples
    linearity_sets: dict[str, int]
    width: int
    pictures: dict[str, dict[str, Any]]
    picture_draws: dict[str, dict[int, int]]
    quick: bool
    pairs: dict[str, dict[str, float]]
    n_pairs: int

    @property
    def has_dadapy(self) -> bool:
        """Whether DADApy was there."""
        return any(name.startswith("DADApy") for record in self.manifolds for name in record["found"])

    @property
    def sizes(self) -> list[int]:
        """Every n of the manifolds, ascending."""
        return sorted({record["n"] for record in self.manifolds})

    def estimators(self) -> list[str]:
        """Ours, then those of others, as first met."""
        return list(dict.fromkeys(name for record in self.manifolds for name in record["found"]))

    def relative_error(
        self, estimator: str, n: int, keep: Callable[[Record], bool] = lambda record: True
    ) -> float | None:
        """Mean of |estimate − d| / d over manifolds and seeds; None where any of them has no value."""
        chosen = [record for record in self.manifolds if record["n"] == n and keep(record)]
        found = [(record["found"].get(estimator), record["truth"]) for record in chosen]
        errors = [abs(value - d) / d for value, d in found if value is not None]
        return float(np.mean(errors)) if found and len(errors) == len(found) else None

    def seed_spread(self, estimator: str, n: int) -> float | None:
        """Standard deviation between seeds over d, averaged over manifolds; None with one seed."""
        by_manifold: dict[str, list[float]] = {}
        for record in self.manifolds:
            if record["n"] == n and record["found"].get(estimator) is not None:
                by_manifold.setdefault(record["manifold"], []).append(record["found"][estimator] / record["truth"])
        spreads = [np.std(values, ddof=1) for values in by_manifold.values() if len(values) > 1]
        return float(np.mean(spreads)) if spreads else None


def dimension_table(measured: Measured) -> str:
    """Estimator by n, and by true dimension at the largest n."""
    largest = measured.sizes[-1]
    groups: dict[str, Callable[[Record], bool]] = {
        "d ≤ 6": lambda record: record["truth"] <= 6,
        "d = 7–20": lambda record: 6 < record["truth"] <= 20,
        "d > 20": lambda record: record["truth"] > 20,
    }
    headers = ["estimator", *(f"n = {n:,}" for n in measured.sizes), *groups, "between seeds"]
    rows = []
    for estimator in measured.estimators():
        name = f"`{estimator}`" if is_ours(estimator) else estimator
        overall = [measured.relative_error(estimator, n) for n in measured.sizes]
        split = [measured.relative_error(estimator, largest, keep) for keep in groups.values()]
        rows.append([name, *map(number, [*overall, *split, measured.seed_spread(estimator, measured.sizes[0])])])
    if not measured.has_dadapy:
        rows.append(["DADApy", "not installed", *[NO_VALUE] * (len(headers) - 2)])
    return table(headers, rows)


def is_ours(estimator: str) -> bool:
    """Whether an estimator is one of this package."""
    return estimator in SAME_ESTIMATOR


def manifold_table(measured: Measured) -> str:
    """Mean estimate on each manifold at the largest n."""
    largest = measured.sizes[-1]
    shown = [name for name in measured.estimators() if is_ours(name)] + ["scikit-dimension MLE"]
    rows = []
    for manifold in dict.fromkeys(record["manifold"] for record in measured.manifolds):
        records = [r for r in measured.manifolds if r["manifold"] == manifold and r["n"] == largest]
        means = [np.mean([r["found"][name] for r in records]) for name in shown]
        rows.append([manifold.replace("_", " "), str(records[0]["truth"]), *(number(float(v), 1) for v in means)])
    return table(["manifold", "d", *(f"`{n}`" if is_ours(n) else n for n in shown)], rows)


def settings_table() -> str:
    """What the settings are."""
    rows = [
        [s.name, str(s.examples), str(s.tokens), str(s.dim), number(s.examples / s.dim, 2), str(s.shared), s.spectrum]
        for s in SETTINGS
    ]
    return table(["setting", "examples", "tokens of each", "d", "examples / d", "shared ρ", "columns of x"], rows)


def heading(name: str) -> str:
    """An estimate at the head of a column."""
    estimator, comma, stream = name.partition(", ")
    return name if name in map(KNOWN.format, STREAMS) else f"`{estimator}`{comma}{stream}"


def coverage_table(measured: Measured) -> str:
    """Share of intervals that cover, in per cent; outside the bar in bold."""
    names = [*JUDGED, *(KNOWN.format(stream) for stream in STREAMS)]
    rows = []
    for setting, found in measured.coverage.items():
        cells = [NO_VALUE if name not in found else percent(found[name]["covered"]) for name in names]
        judged = [f"**{c}**" if not in_bar(found[n]["covered"]) else c for n, c in zip(JUDGED, cells, strict=False)]
        rows.append([setting, *judged, *cells[len(judged) :]])
    return table(["setting", *map(heading, names)], rows)


def ratio_table(measured: Measured) -> str:
    """Root mean square of the standard errors over the true spread."""
    rows = [
        [setting, *(number(found[name]["stderr"] / found[name]["sd"], 2) for name in JUDGED)]
        for setting, found in measured.coverage.items()
    ]
    return table(["setting", *map(heading, JUDGED)], rows)


def dimension_ratios(measured: Measured) -> str:
    """From which to which multiple of the true spread the standard errors of intrinsic dimension are."""
    names = [name for name in JUDGED if name.startswith("twonn")]
    ratios = [found[name]["stderr"] / found[name]["sd"] for found in measured.coverage.values() for name in names]
    return f"{number(min(ratios), 2)} to {number(max(ratios), 2)}"


def outside(measured: Measured) -> list[str]:
    """Every setting and estimate whose intervals cover too rarely or too often, and on which side they miss."""
    return [
        f"{heading(name)} in setting *{setting}*: {percent(s['covered'])} % ({percent(s['below'])} % of the intervals "
        f"lie wholly below, {percent(s['above'])} % wholly above)"
        for setting, found in measured.coverage.items()
        for name, s in ((name, found[name]) for name in JUDGED)
        if not in_bar(s["covered"])
    ]


def against_peers(measured: Measured) -> Iterable[tuple[str, str, int, float]]:
    """Ours, the peer's name, n, and by how much our mean relative error exceeds its."""
    for estimator, peers in SAME_ESTIMATOR.items():
        for peer in peers:
            for n in measured.sizes:
                mine, theirs = measured.relative_error(estimator, n), measured.relative_error(peer, n)
                if mine is not None and theirs is not None:
                    yield estimator, peer, n, mine - theirs


def verdicts(measured: Measured) -> list[str]:
    """The bars, each with what was measured."""
    largest = measured.sizes[-1]
    error = measured.relative_error("twonn_mle", largest)
    assert error is not None
    peers = list(against_peers(measured))
    estimator, peer, n, excess = max(peers, key=lambda found: found[3])
    judged = len(measured.coverage) * len(JUDGED)
    missed = len(outside(measured))
    packages = sorted({name.split(" ")[0] for _, name, _, _ in peers})
    bar = f"bar: {ERROR_BAR} at n = {ERROR_BAR_N:,}"
    verdict = "" if largest != ERROR_BAR_N else ": met" if error <= ERROR_BAR else ": **missed**"
    return [
        f"`twonn_mle` is off by {number(error)} of the true dimension on average at n = {largest:,} ({bar}){verdict}.",
        f"No estimator is worse than the same estimator of {', '.join(packages)} on the same points: "
        f"{'met' if excess <= WORSE else '**missed**'} to three digits. In {len(peers)} comparisons our mean relative "
        f"error exceeds a peer's by at most {max(excess, 0):.1g} (`{estimator}`, {peer}, n = {n:,}).",
        *linearity_tables.verdicts(measured.linearity, measured.coverage, measured.width),
        f"95 % intervals cover in {percent(COVERAGE_BAR[0])} to {percent(COVERAGE_BAR[1])} % of the draws: met by "
        f"{judged - missed} of {judged} (estimate, setting) pairs"
        f"{'.' if not missed else '; the others stand under [Coverage](#coverage), with the reason.'}",
        picture_counts.verdict(measured.pictures),
        pairs_verdict(measured.pairs),
    ]


def outside_note(measured: Measured) -> str:
    """What lies outside the bar, as a list."""
    found = outside(measured)
    return "\n".join(["Outside:", "", *(f"- {line}." for line in found)]) if found else "None is outside."


def largest_gap(measured: Measured) -> float:
    """How far the mean of ``held_out`` is from the mean true score of the maps it is made of, at worst."""
    return max(
        abs(found[f"held_out, {stream}"]["mean"] - found[FRESH.format(stream)]["mean"])
        for found in measured.coverage.values()
        for stream in STREAMS
        if FRESH.format(stream) in found
    )


def render(measured: Measured, picture: str) -> str:
    """The whole page.

    Args:
        measured: all of it.
        picture: path of the picture, relative to the page.
    """
    flags = f"{' --quick' * measured.quick}{' --dadapy build/dadapy/bin/python' * measured.has_dadapy}"
    seeds = {n: len({r["seed"] for r in measured.manifolds if r["n"] == n}) for n in measured.sizes}
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        command=COMMAND + flags,
        machine=f"{platform.machine()}, {platform.system()}",
        versions=", ".join(f"{name} {version(name)}" for name in PACKAGES),
        quick=QUICK_NOTE if measured.quick else "",
        seed=str(SEED),
        picture=picture,
        verdicts="\n".join(f"- {line}" for line in verdicts(measured)),
        manifold_seeds=" and ".join(f"{count} seed{'s' * (count > 1)} at n = {n:,}" for n, count in seeds.items()),
        smallest=f"{measured.sizes[0]:,}",
        largest=f"{measured.sizes[-1]:,}",
        dadapy_note=DADAPY_NOTE if measured.has_dadapy else "",
        dimension_table=dimension_table(measured),
        manifold_table=manifold_table(measured),
        draws=str(measured.draws),
        by_examples_table=linearity_tables.by_examples_table(
            measured.linearity, measured.linearity_sets, measured.width
        ),
        width=str(measured.width),
        by_setting_table=linearity_tables.by_setting_table(measured.coverage),
        pictures_table=picture_counts.coverage_table(measured.pictures, measured.picture_draws),
        picture_ratios=picture_counts.ratios(measured.pictures),
        neighbours_table=picture_counts.neighbours_table(measured.pictures),
        gap=number(largest_gap(measured)),
        binomial=number(100 * math.sqrt(0.95 * 0.05 / measured.draws), 1),
        settings_table=settings_table(),
        bar="–".join(map(percent, COVERAGE_BAR)),
        coverage_table=coverage_table(measured),
        outside=outside_note(measured),
        ratio_table=ratio_table(measured),
        dimension_ratios=dimension_ratios(measured),
        pairs_table=pairs_table(measured.pairs),
        pairs=str(measured.n_pairs),
    )
