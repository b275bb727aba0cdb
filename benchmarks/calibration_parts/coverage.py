"""Do 95 % intervals cover? Estimates and standard errors over fresh draws of examples, and what they come to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks.calibration_parts.clustered import Array, DataSet, Setting, World
from benchmarks.linearity_truth import truth_of
from microscope_bench.metrics.core.arrays import cloud_of
from microscope_bench.metrics.core.jackknife import interval
from microscope_bench.metrics.registry import METRICS

SEED = 1
"""Every setting starts from it."""

STREAMS = ("hidden", "update")
OF_POPULATION = tuple(f"cross_fitted, {stream}" for stream in STREAMS)
"""Estimates whose intervals are to hold the value of the population, which is known."""

JUDGED = (*OF_POPULATION, "anisotropy", "twonn_mle", "twonn_discard10", "twonn_regression20")
"""Estimates whose intervals are to cover; those of the others, what the estimator converges to at that n."""

FRESH = "fresh, {}"
"""Name of the true score of a map fitted on nine tenths of the examples."""

KNOWN = "known map, {}"
"""Name of the score of the best map, its interval over examples."""

TRUE = "population, {}"
"""Name of what the best map of infinitely many tokens scores."""


@dataclass(frozen=True)
class Summary:
    """One estimate over the draws of one setting.

    Attributes:
        mean: what it converges to at that n.
        sd: its standard deviation between draws.
        stderr: root mean square of the standard errors; None for an estimate without one.
        covered: share of draws whose 95 % interval holds the target, ``mean`` unless there is another; None for an
            estimate without a standard error.
        below: share of draws whose whole interval lies below the target.
        above: share of draws whose whole interval lies above it.
    """

    mean: float
    sd: float
    stderr: float | None = None
    covered: float | None = None
    below: float | None = None
    above: float | None = None


def population(setting: Setting, stream: str) -> float:
    """What the best linear map scores: from the formula, or for the manifold from very many tokens."""
    known = World(setting).linearity(stream)

    def draw(rng: np.random.Generator, size: tuple[int, int], _: int) -> tuple[Array, Array]:
        data = World(replace(setting, examples=size[0], tokens=size[1])).draw(rng)
        return data.x, data.y if stream == "hidden" else data.y - data.x

    return truth_of(draw, setting.dim) if known is None else known


def scores_of(data: DataSet) -> tuple[dict[str, tuple[float, float]], int]:
    """Estimate → value and standard error of one data set; and the number of folds."""
    cloud = cloud_of(torch.from_numpy(data.x), torch.from_numpy(data.y), data.groups)
    found = {}
    for metric in ("linearity", "anisotropy", "intrinsic_dimension"):
        for estimator, stream, estimate in METRICS.get(metric).scores(cloud):
            name = "anisotropy" if metric == "anisotropy" else estimator if stream is None else f"{estimator}, {stream}"
            if estimate.value is not None and estimate.stderr is not None:
                found[name] = (estimate.value, estimate.stderr)
    return found, cloud.n_folds


def summarised(draws: list[tuple[float, float]], n_folds: int, target: float | None = None) -> Summary:
    """The summary of values with standard errors, whose intervals are to hold ``target``, or their mean."""
    values, errors = np.array(draws).T
    mean = float(values.mean())
    target = mean if target is None else target
    ends = np.array([interval(value, error, n_folds) for value, error in draws])
    below, above = float((ends[:, 1] < target).mean()), float((ends[:, 0] > target).mean())
    rms = float(np.sqrt((errors**2).mean()))
    return Summary(mean, float(values.std(ddof=1)), rms, 1 - below - above, below, above)


def covered(setting: Setting, draws: int) -> dict[str, Any]:
    """Estimate → its summary over that many fresh data sets, as plain data.

    Beside the estimates stand :data:`FRESH` and :data:`KNOWN`, where the best map is known.
    """
    world, rng = World(setting), np.random.default_rng(SEED)
    found: dict[str, list[tuple[float, float]]] = {}
    fresh: dict[str, list[float]] = {}
    known: dict[str, list[tuple[float, float]]] = {}
    n_folds = 0
    for _ in range(draws):
        data = world.draw(rng)
        scores, n_folds = scores_of(data)
        for name, score in scores.items():
            found.setdefault(name, []).append(score)
        fitted_on = data.without_examples_below(setting.examples // 10)
        for stream in STREAMS:
            if (true := world.linearity_of_fit(fitted_on, stream)) is not None:
                fresh.setdefault(FRESH.format(stream), []).append(true)
            if (of_known := world.interval_of_known_map(data, stream)) is not None:
                known.setdefault(KNOWN.format(stream), []).append(of_known)
    if incomplete := [name for name in JUDGED if len(found.get(name, ())) < draws]:
        raise RuntimeError(f"setting {setting.name}: no value or standard error in some draws of {incomplete}")
    truths = {f"cross_fitted, {stream}": population(setting, stream) for stream in STREAMS}
    out = {name: summarised(values, n_folds, truths.get(name)) for name, values in found.items()}
    out |= {name: summarised(values, setting.examples) for name, values in known.items()}
    out |= {name: Summary(float(np.mean(v)), float(np.std(v, ddof=1))) for name, v in fresh.items()}
    out |= {TRUE.format(stream): Summary(truths[f"cross_fitted, {stream}"], 0.0) for stream in STREAMS}
    return {name: asdict(summary) for name, summary in out.items()}
