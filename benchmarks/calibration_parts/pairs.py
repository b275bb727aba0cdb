"""Do paired tests hold what they say? Two models of one kind on the same examples, equal in truth or not.

An example has 8 tokens that both models see: a content of 12 dimensions, half of whose variance the tokens of an
example share; a block adds a linear and a cubic part to it. A model turns both into 24 dimensions by a rotation of its
own and adds a noise of its own. Two "seeds" differ in rotation and noise alone, so that every metric has one truth for
both, and what an example brings is in both.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import kstest
from scipy.stats import t as student_t

from benchmarks.calibration_parts.cells import percent
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.registry import estimates, headlines
from microscope_bench.publish.difference.paired import Paired, paired
from microscope_bench.publish.escape import table
from microscope_bench.results.records import Score
from microscope_bench.results.replicates import rounded

SEED = 2
EXAMPLES, TOKENS, CONTENT, DIM, FOLDS = 167, 8, 12, 24, 10
EFFECTS = {"anisotropy": 0.01, "linearity": 0.08, "intrinsic_dimension": 0.5}
"""Metric → by how much the second model differs, in the parameter that moves it, so that power is neither 0 nor 1."""


@dataclass(frozen=True)
class Kind:
    """What both models of a pair are drawn by, but for rotation and noise.

    Attributes:
        first: standard deviation of the content's first coordinate, which anisotropy hangs on.
        cubic: weight of the block's cubic part, which linearity hangs on.
        noise: standard deviation of the model's own noise in every dimension, which intrinsic dimension hangs on.
    """

    first: float = 2.0
    cubic: float = 0.3
    noise: float = 0.3

    def moved(self, metric: str) -> Kind:
        """The same with the parameter of a metric moved by its effect."""
        by = EFFECTS[metric]
        return {
            "anisotropy": Kind(self.first * (1 + by), self.cubic, self.noise),
            "linearity": Kind(self.first, self.cubic * (1 + by), self.noise),
            "intrinsic_dimension": Kind(self.first, self.cubic, self.noise * (1 + by)),
        }[metric]


@dataclass(frozen=True)
class Agreement:
    """One metric over the pairs.

    Attributes:
        covered: share of pairs of equal truth whose 95 % interval holds 0.
        ks: p-value of Kolmogorov and Smirnov's test that their p-values are uniform.
        stderr: root mean square of the standard errors of the difference, over its true spread.
        independent: the same of √(a² + b²).
        found: share of pairs of unequal truth that the paired test finds at 5 %.
        found_apart: share of them that an interval of t · √(a² + b²), which knows of no pairs, finds.
        beyond: share of them that differ by more than both standard errors together.
        beyond_equal: share of the pairs of equal truth that do.
    """

    covered: float
    ks: float
    stderr: float
    independent: float
    found: float
    found_apart: float
    beyond: float
    beyond_equal: float


def content(rng: np.random.Generator) -> np.ndarray:
    """Content of all tokens, (EXAMPLES, TOKENS, CONTENT), of unit variance, half of it shared within an example."""
    shared = rng.normal(size=(EXAMPLES, 1, CONTENT))
    return math.sqrt(0.5) * (shared + rng.normal(size=(EXAMPLES, TOKENS, CONTENT)))


def states(seen: np.ndarray, kind: Kind, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two boundaries of a model, each (EXAMPLES · TOKENS, DIM), float64."""
    scaled = seen.reshape(-1, CONTENT) * np.array([kind.first, *[1.0] * (CONTENT - 1)])
    block, _ = np.linalg.qr(np.random.default_rng(SEED).normal(size=(CONTENT, CONTENT)))
    update = 0.5 * scaled @ block + kind.cubic * (seen.reshape(-1, CONTENT) @ block.T) ** 3 / 3
    turn, _ = np.linalg.qr(rng.normal(size=(DIM, DIM)))
    x, added = (one @ turn[:CONTENT] + kind.noise * rng.normal(size=(len(one), DIM)) for one in (scaled, update))
    return torch.from_numpy(x), torch.from_numpy(x + added)


def headline_scores(
    seen: np.ndarray, kind: Kind, rng: np.random.Generator, metrics: tuple[str, ...]
) -> dict[str, Score]:
    """Metric and stream → the headline's score, its replicates rounded as in a file."""
    groups = np.repeat(np.arange(EXAMPLES), TOKENS).tolist()
    x, y = states(seen, kind, rng)
    found = estimates(x, y, metrics, groups, FOLDS)
    return {
        " ".join(filter(None, (head.metric, head.stream))): _score(found[head.metric, head.estimator, head.stream])
        for head in headlines(metrics)
    }


def _score(one: Estimate) -> Score:
    kept = rounded(one.replicates, one.stderr, FOLDS)
    return Score("m", "e", None, "text", "all", 0, one.value, one.stderr, one.n_tokens, EXAMPLES, (), one.reason, kept)


def one_pair(
    rng: np.random.Generator, second: Kind, metrics: tuple[str, ...] = tuple(EFFECTS)
) -> dict[str, tuple[Paired, float, float]]:
    """Metric → the paired difference of two models on the same examples, and the standard error of each."""
    seen = content(rng)
    a, b = (headline_scores(seen, kind, rng, metrics) for kind in (Kind(), second))
    return {
        name: (paired([a[name]], [b[name]], ([1.0], [1.0])), a[name].stderr or 0.0, b[name].stderr or 0.0) for name in a
    }


def agreement(pairs: int) -> dict[str, Any]:
    """Metric → what its paired test came to over that many pairs, equal and unequal in truth, as plain data."""
    rng = np.random.default_rng(SEED)
    equal = [one_pair(rng, Kind()) for _ in range(pairs)]
    unequal = {metric: [one_pair(rng, Kind().moved(metric), (metric,)) for _ in range(pairs)] for metric in EFFECTS}
    return {name: asdict(_agreement(name, equal, unequal[name.split()[0]])) for name in equal[0]}


def _agreement(name: str, equal: list[Any], unequal: list[Any]) -> Agreement:
    same, apart = [one[name] for one in equal], [one[name] for one in unequal]
    most = float(student_t.ppf(0.975, FOLDS - 1))
    spread = float(np.std([found.difference for found, _, _ in same], ddof=1))
    return Agreement(
        covered=float(np.mean([found.low <= 0 <= found.high for found, _, _ in same])),
        ks=float(kstest([found.p for found, _, _ in same], "uniform").pvalue),
        stderr=math.sqrt(float(np.mean([found.stderr**2 for found, _, _ in same]))) / spread,
        independent=math.sqrt(float(np.mean([a * a + b * b for _, a, b in same]))) / spread,
        found=float(np.mean([found.p < 0.05 for found, _, _ in apart])),
        found_apart=float(np.mean([abs(found.difference) > most * math.hypot(a, b) for found, a, b in apart])),
        beyond=float(np.mean([abs(found.difference) > a + b for found, a, b in apart])),
        beyond_equal=float(np.mean([abs(found.difference) > a + b for found, a, b in same])),
    )


def pairs_verdict(found: dict[str, dict[str, float]]) -> str:
    """How the paired tests kept their word."""
    shares, ks = [one["covered"] for one in found.values()], min(one["ks"] for one in found.values())
    return (
        f"Of pairs of models that are equal in truth, the 95 % interval of the difference holds 0 in "
        f"{percent(min(shares))} to {percent(max(shares))} %, by metric; the smallest p-value of the tests that their "
        f"p-values are uniform is {ks:.2g}, of {len(found)}."
    )


def pairs_table(found: dict[str, dict[str, float]]) -> str:
    """The agreement of every metric as markdown."""
    headers = ["metric", "intervals that hold 0, %", "p-values uniform (KS)", "stderr / spread", "√(a² + b²) / spread"]
    headers += ["found, paired, %", "found, t·√(a² + b²), %", "beyond both errors, %", "the same where equal, %"]
    rows = []
    for name, one in found.items():
        shares = [f"{100 * one[field]:.1f}" for field in ("found", "found_apart", "beyond", "beyond_equal")]
        ratios = [f"{one[field]:.2f}" for field in ("ks", "stderr", "independent")]
        rows.append([name, f"{100 * one['covered']:.1f}", *ratios, *shares])
    return table(headers, rows)
