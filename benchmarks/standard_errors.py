"""Are the standard errors right? The reported ones against the spread of the estimate between fresh data sets.

Each data set has examples whose tokens share an effect, as the tokens of one picture do; the map between the boundaries
is linear up to a small square, a shared offset and noise. Printed is the root mean square of the reported standard
errors divided by the standard deviation of the estimates: 1 is right, below 1 is too sure.

    python benchmarks/standard_errors.py [--data-sets 60]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from tabulate import tabulate

from microscope_bench import metrics

SHAPES = ((30, 32, 48), (60, 32, 96), (100, 32, 48), (200, 32, 48), (400, 32, 48))
"""Examples, tokens of each, width."""


def data_set(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States at one boundary, at the next, and the example of each token."""
    examples, tokens, d = shape
    world = np.random.default_rng(99)  # the same map and scales for every data set
    a = world.standard_normal((d, d)) * 0.5 / np.sqrt(d)
    scale = np.linspace(2, 0.3, d)
    shared = rng.standard_normal((examples, 1, d))
    x = (shared + rng.standard_normal((examples, tokens, d))) * scale
    offset = 0.5 * rng.standard_normal((examples, 1, d))
    strength = 0.1 * rng.gamma(1, 1, (examples, 1, 1))
    update = x @ a + 0.5 * (offset + rng.standard_normal((examples, tokens, d))) + strength * (x**2 - 1)
    groups = np.repeat(np.arange(examples), tokens)
    return x.reshape(-1, d), (x + update).reshape(-1, d), groups


def estimates(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> dict[str, metrics.Estimate]:
    """Every estimate whose standard error is judged."""
    found = {
        f"linearity {estimator}, {stream}": metrics.linearity(x, y, stream, estimator, groups)
        for estimator in ("cross_fitted", "in_sample", "adjusted", "held_out")
        for stream in ("hidden", "update")
    }
    found["anisotropy"] = metrics.anisotropy(x, groups)
    for estimator in ("twonn_discard10", "twonn_mle"):
        found[estimator] = metrics.intrinsic_dimension(x, estimator, groups=groups)
    return found


def main() -> None:
    """Prints the table, one column per shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-sets", type=int, default=60)
    n = parser.parse_args().data_sets
    torch.set_num_threads(1)
    columns: dict[str, list[str]] = {}
    for shape in SHAPES:
        rng = np.random.default_rng(1)
        runs = [estimates(*data_set(rng, shape)) for _ in range(n)]
        for name in runs[0]:
            values = np.array([run[name].value for run in runs])
            errors = np.array([run[name].stderr for run in runs])
            ratio = np.sqrt((errors**2).mean()) / values.std(ddof=1)
            columns.setdefault(name, []).append(f"{ratio:.2f}")
    headers = ["reported error / true spread", *(f"{s} × {t}, d = {d}" for s, t, d in SHAPES)]
    print(tabulate([[name, *ratios] for name, ratios in columns.items()], headers=headers))
    print(f"{n} data sets each: a ratio is itself uncertain by {1 / np.sqrt(2 * (n - 1)):.0%}")


if __name__ == "__main__":
    main()
