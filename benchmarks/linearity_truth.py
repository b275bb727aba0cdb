"""Is linearity true? Estimates against a population value that is known, by examples per dimension.

Examples of 32 tokens share half of their variance, in the states and in what no linear map explains; the update is a
linear map of the state plus that remainder, half and half, so that the best map explains about 0.5. Beside this
``plain`` kind stand some that are harder: see :data:`KINDS`. Printed are the mean of the estimate less the truth, its
standard deviation between data sets, the root mean square of its reported standard error divided by that, and the share
of data sets whose 95 % interval holds the truth.

    python benchmarks/linearity_truth.py [--width 64] [--data-sets 200] [--kinds plain] [--estimators cross_fitted]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache, partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from tabulate import tabulate

from microscope_bench.metrics.core.arrays import N_FOLDS, cloud_of
from microscope_bench.metrics.core.jackknife import interval
from microscope_bench.metrics.linearity_metric import ESTIMATORS, Linearity

TOKENS = 32
EXAMPLES_PER_DIMENSION = (0.125, 0.25, 0.5, 1, 2, 4)
POPULATION = 20_000  # examples of 2 tokens

Array: TypeAlias = NDArray[np.float64]
Draw: TypeAlias = Callable[[np.random.Generator, tuple[int, int], int], tuple[Array, Array]]
"""From a generator, (examples, tokens of each) and d: states and updates, (examples, tokens, d)."""


def clustered(rng: np.random.Generator, size: tuple[int, int], d: int) -> Array:
    """Normal rows of unit variance, half of it shared within an example."""
    offset, own = rng.standard_normal((size[0], 1, d)), rng.standard_normal((*size, d))
    return (offset + own) / 2**0.5


def map_of(d: int) -> Array:
    return np.random.default_rng(99).standard_normal((d, d)) / d**0.5


def plain(rng: np.random.Generator, size: tuple[int, int], d: int) -> tuple[Array, Array]:
    x = clustered(rng, size, d)
    return x, x @ map_of(d) + clustered(rng, size, d)


def heavy(rng: np.random.Generator, size: tuple[int, int], d: int) -> tuple[Array, Array]:
    """Every example is as long as one of Student's t with 3 degrees of freedom."""
    length = np.sqrt(1 / rng.chisquare(3, (size[0], 1, 1)))
    x, update = plain(rng, size, d)
    return length * x, length * update


def norms(rng: np.random.Generator, size: tuple[int, int], d: int) -> tuple[Array, Array]:
    """The map is as strong as the example's states are long."""
    x = clustered(rng, size, d) * np.exp(0.4 * rng.standard_normal((size[0], 1, 1)))
    return x, x @ map_of(d) * np.sqrt(np.square(x).mean((1, 2), keepdims=True)) + clustered(rng, size, d)


def topics(n: int, rng: np.random.Generator, size: tuple[int, int], d: int) -> tuple[Array, Array]:
    """Every example is of one of n topics, each with an offset of its own in states and updates."""
    offset_x, offset_t = np.random.default_rng(n).standard_normal((2, n, 1, d))
    topic = rng.integers(n, size=size[0])
    x, update = plain(rng, size, d)
    return x + offset_x[topic], update + offset_t[topic]


KINDS: dict[str, Draw] = {
    "plain": plain,
    "heavy": heavy,
    "norms": norms,
    "4 topics": partial(topics, 4),
    "12 topics": partial(topics, 12),
    "40 topics": partial(topics, 40),
}


@cache
def truth_of(draw: Draw, d: int) -> float:
    """What the best map of very many examples explains: fitted on some, its covariance taken on as many others."""
    rng = np.random.default_rng(10**6)
    fitted, (x, t) = [[part.reshape(-1, d) for part in draw(rng, (POPULATION, 2), d)] for _ in range(2)]
    centred = [part - part.mean(0) for part in fitted]
    best = np.linalg.solve(centred[0].T @ centred[0], centred[0].T @ centred[1])
    x, t = x - x.mean(0), t - t.mean(0)
    return float(((x @ best) * t).sum() / np.square(t).sum())


def judged(draw: Draw, d: int, examples: int, estimators: list[str], data_sets: int) -> dict[str, list[float]]:
    """Estimator → mean less truth, spread, reported by true spread, coverage; NaN where there is no value."""
    truth = truth_of(draw, d)
    groups, n_folds = np.repeat(np.arange(examples), TOKENS), min(N_FOLDS, examples)
    found: dict[str, list[tuple[float, float]]] = {estimator: [] for estimator in estimators}
    for seed in range(data_sets):
        x, t = (part.reshape(-1, d) for part in draw(np.random.default_rng(seed), (examples, TOKENS), d))
        linearity = Linearity(cloud_of(torch.from_numpy(x), torch.from_numpy(x + t), groups))
        for estimator, values in found.items():
            one = linearity.estimate(estimator, "update")
            values.append((one.value or np.nan, one.stderr or np.nan))
    out = {}
    for estimator, pairs in found.items():
        values, errors = np.array(pairs).T
        covered = [
            not np.isnan(e) and interval(v, e, n_folds)[0] < truth < interval(v, e, n_folds)[1] for v, e in pairs
        ]
        sd, error = float(values.std(ddof=1)), float(np.sqrt(np.square(errors).mean()))
        out[estimator] = [float(values.mean()) - truth, sd, error / sd, float(np.mean(covered))]
    return out


def by_examples(kind: str, width: int, estimators: list[str], data_sets: int) -> dict[str, dict[str, list[float]]]:
    """Examples for a dimension, as text → what :func:`judged` finds."""
    return {
        f"{ratio:g}": judged(KINDS[kind], width, int(ratio * width), estimators, data_sets)
        for ratio in EXAMPLES_PER_DIMENSION
    }


def main() -> None:
    """Prints one table per kind and estimator."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--data-sets", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["plain"])
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=["cross_fitted", "held_out"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for kind in asked.kinds:
        found = by_examples(kind, asked.width, asked.estimators, asked.data_sets)
        rows = [
            [int(float(ratio) * asked.width), ratio, estimator, *numbers]
            for ratio, of_size in found.items()
            for estimator, numbers in of_size.items()
        ]
        headers = ["examples", "a dimension", "estimator", "mean − truth", "sd", "reported / sd", "covered"]
        print(f"{kind}, d = {asked.width}, {asked.data_sets} data sets")
        print(tabulate(rows, headers=headers, floatfmt=("", "", "", "+.4f", ".4f", ".2f", ".3f")), flush=True)


if __name__ == "__main__":
    main()
