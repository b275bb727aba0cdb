"""Do intervals cover at the numbers of pictures that runs have? Metrics of one boundary, on draws of 1,024 tokens.

Two kinds of cloud, both of pictures of 32 tokens. ``plain``: the tokens of a picture share half of their variance in 24
dimensions, whose standard deviations fall from 2 to 0.3. ``lines``: the tokens of a picture lie along a line of its
own, and the lines lie all over 5 dimensions, so that neighbours in other pictures tell 5 and those in the same one 1.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from benchmarks.calibration_parts.cells import in_bar, number, percent
from benchmarks.calibration_parts.clustered import Array, Setting, World
from benchmarks.calibration_parts.coverage import summarised
from microscope_bench.metrics.core.arrays import cloud_of
from microscope_bench.metrics.registry import METRICS
from microscope_bench.publish.escape import table

SEED = 3
TOKENS, DIM, AMONG = 32, 24, 5
DRAW = 1024
"""Tokens among which neighbours are looked for, as in a result."""

METRIC_NAMES = (
    "anisotropy",
    "effective_rank",
    "participation_ratio",
    "intrinsic_dimension",
    "intrinsic_dimension_within_examples",
)
JUDGED = {
    "anisotropy top_share": "`anisotropy`",
    "effective_rank covariance": "`effective_rank`",
    "participation_ratio covariance": "`participation_ratio`",
    "intrinsic_dimension twonn_discard10": "`twonn_discard10`",
    "intrinsic_dimension twonn_mle": "`twonn_mle`",
    "intrinsic_dimension_within_examples twonn_discard10": "`twonn_discard10`, within",
}
"""Metric and estimator whose intervals are to cover → its column."""

ANY = "any"
"""Name of intrinsic dimension with the nearest tokens, whosever they are, in place of the metric's."""


def states(kind: str, pictures: int, rng: np.random.Generator) -> Array:
    """(pictures · TOKENS, DIM)."""
    if kind == "plain":
        return World(Setting(kind, pictures, TOKENS, DIM, 0.5, "slope")).draw(rng).x
    centre, direction = rng.standard_normal((2, pictures, 1, AMONG))
    along = rng.standard_normal((pictures, TOKENS, 1))
    lines = centre + along * direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    into, _ = np.linalg.qr(np.random.default_rng(SEED).standard_normal((DIM, AMONG)))
    return (lines @ into.T).reshape(-1, DIM)


def covered(kind: str, pictures: int, draws: int) -> dict[str, Any]:
    """Metric and estimator, and :data:`ANY` → its summary over that many fresh data sets, as plain data."""
    rng = np.random.default_rng(SEED)
    groups = np.repeat(np.arange(pictures), TOKENS)
    found: dict[str, list[tuple[float, float]]] = {}
    n_folds = 0
    for _ in range(draws):
        x = torch.from_numpy(states(kind, pictures, rng))
        cloud, ungrouped = cloud_of(x, None, groups), cloud_of(x, None, groups, n_folds=1)
        for one in (cloud, ungrouped):
            one.wanted_n, one.deduplicate = DRAW, False  # there are no copies to look for
        ungrouped.grouped, n_folds = False, cloud.n_folds
        scores = [(name, *score) for name in METRIC_NAMES for score in METRICS.get(name).scores(cloud)]
        scores += [(ANY, *score) for score in METRICS.get("intrinsic_dimension").scores(ungrouped)]
        for name, estimator, _, estimate in scores:
            assert estimate.value is not None, (name, estimator, estimate.reason)
            found.setdefault(f"{name} {estimator}", []).append((estimate.value, estimate.stderr or 0.0))
    return {name: asdict(summarised(values, n_folds)) for name, values in found.items()}


def coverage_table(found: dict[str, dict[str, Any]], draws: dict[str, dict[int, int]]) -> str:
    """Share of intervals that cover, in per cent, and standard errors over the true spread, in kind plain."""
    rows = []
    for pictures, summaries in found["plain"].items():
        row = [pictures, str(draws["plain"][int(pictures)])]
        for name in JUDGED:
            one = summaries[name]
            share = percent(one["covered"])
            share = share if in_bar(one["covered"]) else f"**{share}**"
            row.append(f"{share} ({number(one['stderr'] / one['sd'], 2)})")
        rows.append(row)
    return table(["pictures", "draws", *JUDGED.values()], rows)


def ratios(found: dict[str, dict[str, Any]]) -> str:
    """The lowest and the highest of the ratios of :func:`coverage_table`."""
    all_of = [of[name]["stderr"] / of[name]["sd"] for of in found["plain"].values() for name in JUDGED]
    return f"{number(min(all_of), 2)} and {number(max(all_of), 2)}"


def neighbours_table(found: dict[str, dict[str, Any]]) -> str:
    """Mean of ``twonn_discard10`` by where neighbours are looked for."""
    names = {
        "intrinsic_dimension twonn_discard10": "two different other pictures",
        f"{ANY} twonn_discard10": "nearest, whosever",
        "intrinsic_dimension_within_examples twonn_discard10": "own picture",
    }
    rows = [
        [kind, pictures, *(number(summaries[name]["mean"], 2) for name in names)]
        for kind, of_kind in found.items()
        for pictures, summaries in of_kind.items()
    ]
    return table(["kind", "pictures", *names.values()], rows)


def verdict(found: dict[str, dict[str, Any]]) -> str:
    """How many of the judged intervals cover."""
    shares = [of[name]["covered"] for of in found["plain"].values() for name in JUDGED]
    return (
        f"At {', '.join(found['plain'])} pictures, 95 % intervals of metrics of one boundary hold what these "
        f"converge to in {percent(min(shares))} to {percent(max(shares))} % of the draws; in the bar: "
        f"{sum(map(in_bar, shares))} of {len(shares)}."
    )
