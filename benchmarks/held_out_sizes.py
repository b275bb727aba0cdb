"""How many tokens and examples held-out linearity needs: its shortfall against a population value that is known.

Tokens are made as example offset + token noise, in the states and in what no linear map explains; ``clustering`` is the
share of the offset in the variance of both. The update is a linear map of the state plus that remainder, half and half,
so that a map fitted on infinitely many tokens explains 0.5. Printed is 0.5 minus the mean of ``held_out``, stream
``update``: first by tokens per dimension for tokens that share nothing, then by examples per dimension.

    python benchmarks/held_out_sizes.py [--data-sets 4]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from tabulate import tabulate

from microscope_bench.metrics.core.arrays import cloud_of
from microscope_bench.metrics.core.linear_folds import explained
from microscope_bench.metrics.linearity_metric import Linearity

EXPLAINED = 0.5
WIDTHS = (32, 64, 128, 256)
TOKENS_PER_DIMENSION = (2, 4, 8, 12, 16, 32, 64)
EXAMPLES_PER_DIMENSION = (0.25, 0.5, 1, 2, 4, 8, 16)
CLUSTERING = (0.2, 0.5, 0.8)


def clustered(rng: np.random.Generator, examples: int, tokens: int, d: int, share: float) -> np.ndarray:
    """(examples · tokens, d) normal rows of unit variance, of which examples share the given part."""
    offset, own = rng.standard_normal((examples, 1, d)), rng.standard_normal((examples, tokens, d))
    return (share**0.5 * offset + (1 - share) ** 0.5 * own).reshape(-1, d)


def held_out(rng: np.random.Generator, examples: int, tokens: int, d: int, share: float) -> float:
    """The held-out value of one data set, without its standard error; NaN where there are too few tokens for one."""
    x = clustered(rng, examples, tokens, d, share)
    a = np.random.default_rng(99).standard_normal((d, d)) / d**0.5
    remainder = ((1 - EXPLAINED) / EXPLAINED) ** 0.5 * clustered(rng, examples, tokens, d, share)
    y = torch.from_numpy(x + x @ a + remainder)
    cloud = cloud_of(torch.from_numpy(x), y, np.repeat(np.arange(examples), tokens))
    if 0.9 * examples * tokens <= d:
        return float("nan")
    value = explained(fit.held_out["update"] for fit in Linearity(cloud).fits.replicates.values())
    return float("nan") if value is None else value


def table(title: str, columns: tuple[float, ...], rows: dict[str, list[float]]) -> None:
    """Prints the mean shortfalls."""
    print(tabulate([[name, *values] for name, values in rows.items()], headers=[title, *columns], floatfmt=".2f"))
    print()


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-sets", type=int, default=4)
    n = parser.parse_args().data_sets
    torch.set_num_threads(1)

    def shortfall(examples: int, tokens: int, d: int, share: float) -> float:
        return EXPLAINED - float(
            np.mean([held_out(np.random.default_rng(s), examples, tokens, d, share) for s in range(n)])
        )

    rows = {f"d = {d}": [shortfall(int(r * d), 1, d, 0.0) for r in TOKENS_PER_DIMENSION] for d in WIDTHS}
    table("tokens per dimension", TOKENS_PER_DIMENSION, rows)
    for tokens in (8, 32):
        rows = {
            f"{tokens} tokens, clustering {share}, d = {d}": [
                shortfall(int(r * d), tokens, d, share) for r in EXAMPLES_PER_DIMENSION
            ]
            for share in CLUSTERING
            for d in WIDTHS[:3]
        }
        table("examples per dimension", EXAMPLES_PER_DIMENSION, rows)


if __name__ == "__main__":
    main()
