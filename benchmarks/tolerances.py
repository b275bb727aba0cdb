"""How far values move between runs that ought to agree: what the default tolerances of ``compare`` stand above.

    python benchmarks/tolerances.py [--limit 126] [--metrics all]
    python benchmarks/tolerances.py --sensitivity --models zoo-llava,DIR --limit 64

Each model of the zoo answers the same questions in each dtype with batch size 8, with batch size 1, and with two
threads; the last column is the step from float32 to that dtype. Moves of intrinsic dimension are relative, others
absolute.

With ``--sensitivity``: the smallest changes, among powers of 2, that ``compare`` with these defaults catches.
One is the down projection of the middle block times 1 + change; the other the epsilon of all norms of the blocks
times 1 + change.
"""

from __future__ import annotations

import argparse
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch

from microscope_bench import evaluate
from microscope_bench.adapters.base import Adapter
from microscope_bench.adapters.presets import MODELS, load_model
from microscope_bench.publish.compare.comparison import DRIFT, compare_results, values_of
from microscope_bench.results.result import Result

DTYPES = ("float32", "bfloat16", "float16")
VARIANTS = ((8, 1), (1, 1), (8, 2))
"""Batch size and number of threads; the first is what the others are held against."""


def widest_moves(first: Result, second: Result) -> dict[str, float]:
    """``metric.estimator`` → the widest move of its values."""
    found: dict[str, float] = defaultdict(float)
    theirs = values_of(second)
    for key, ours in values_of(first).items():
        new = theirs[key].value
        if ours.value is not None and new is not None:
            relative = abs(ours.value) if key[0].metric.startswith("intrinsic_dimension") else 1.0
            name = ".".join(filter(None, (key[0].metric, key[0].estimator)))
            found[name] = max(found[name], abs(new - ours.value) / relative)
    return found


@contextmanager
def scaled_weight(adapter: Adapter, change: float) -> Iterator[None]:
    """Inside, the down projection of the middle block is 1 + ``change`` times what it was, as far as its dtype can."""
    blocks = adapter.blocks()
    matrix = blocks[len(blocks) // 2].get_submodule("mlp.down_proj").get_parameter("weight").data
    before = matrix.clone()
    matrix.copy_(before.double() * (1 + change))
    try:
        yield
    finally:
        matrix.copy_(before)


@contextmanager
def scaled_epsilon(adapter: Adapter, change: float) -> Iterator[None]:
    """Inside, the epsilon of every norm of the blocks is 1 + ``change`` times what it was."""
    norms = [m for block in adapter.blocks() for m in block.modules() if hasattr(m, "variance_epsilon")]
    before = [norm.variance_epsilon for norm in norms]
    for norm, epsilon in zip(norms, before, strict=True):
        norm.variance_epsilon = epsilon * (1 + change)
    try:
        yield
    finally:
        for norm, epsilon in zip(norms, before, strict=True):
            norm.variance_epsilon = epsilon


Change = Callable[[Adapter, float], AbstractContextManager[None]]
CHANGES: dict[Change, list[float]] = {
    scaled_weight: [2.0**power for power in range(-14, 1)],
    scaled_epsilon: [2.0**power for power in range(-4, 13)],
}
"""Kind of change → how far, from what is not caught in any dtype to what is."""


def smallest_caught(adapter: Adapter, change: Change, baseline: Result, measure: Callable[[], Result]) -> float | None:
    """The smallest of the changes that drifts from the baseline; None where the largest does not."""

    def caught(by: float) -> bool:
        with change(adapter, by):
            return compare_results(baseline, measure()).status == DRIFT

    candidates = CHANGES[change]
    position = bisect_left(candidates, True, key=caught)
    return candidates[position] if position < len(candidates) else None


def print_sensitivity(names: list[str], options: dict[str, Any]) -> None:
    """Prints a line per model, dtype and kind of change."""
    for name in names:
        for dtype in DTYPES:
            kind, args = (name, {}) if name in MODELS else ("hf", {"pretrained": name})
            adapter = load_model(kind, {"dtype": dtype, **args}, device="cpu")
            measure = partial(evaluate, adapter, "shapesqa", progress=False, **options)
            baseline = measure()
            for change in CHANGES:
                smallest = smallest_caught(adapter, change, baseline, measure)
                print(f"{name} {dtype:9} {change.__name__:15} {smallest}", flush=True)


def main() -> None:
    """Prints a line per dtype, metric and estimator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="zoo-llava,zoo-fuyu,zoo-qformer")
    parser.add_argument("--limit", type=int, default=126)
    parser.add_argument("--metrics", default="linearity,intrinsic_dimension,anisotropy")
    parser.add_argument("--sensitivity", action="store_true", help="what is caught instead of what moves")
    args = parser.parse_args()
    options: dict[str, Any] = {"limit": args.limit, "metrics": args.metrics.split(",")}
    if args.metrics == "all":
        options["metrics"] = "all"
    if args.sensitivity:
        print_sensitivity(args.models.split(","), options)
        return
    repeats: dict[tuple[str, str], float] = defaultdict(float)
    casts: dict[tuple[str, str], float] = defaultdict(float)
    for name in args.models.split(","):
        single: Result | None = None
        for dtype in DTYPES:
            adapter, results = load_model(name, {"dtype": dtype}, device="cpu"), []
            for batch_size, threads in VARIANTS:
                torch.set_num_threads(threads)
                results.append(evaluate(adapter, "shapesqa", batch_size=batch_size, progress=False, **options))
            single = single or results[0]
            for total, pairs in (
                (repeats, [(results[0], other) for other in results[1:]]),
                (casts, [(single, results[0])]),
            ):
                for first, second in pairs:
                    for metric, move in widest_moves(first, second).items():
                        total[dtype, metric] = max(total[dtype, metric], move)
    for dtype, metric in sorted(repeats, key=lambda key: (DTYPES.index(key[0]), key[1])):
        print(f"{dtype:9} {metric:55} repeats {repeats[dtype, metric]:.1e}   cast {casts[dtype, metric]:.1e}")


if __name__ == "__main__":
    main()
