"""How far values move between runs that ought to agree: what the default tolerances of ``compare`` stand above.

    python benchmarks/tolerances.py [--limit 126] [--metrics all]

Each model of the zoo answers the same questions in each dtype with batch size 8, with batch size 1, and with two
threads; the last column is the step from float32 to that dtype. Moves of intrinsic dimension are relative, others
absolute.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import torch

from microscope_bench import evaluate
from microscope_bench.adapters.presets import load_model
from microscope_bench.publish.compare.comparison import values_of
from microscope_bench.results.result import Result

DTYPES = ("float32", "float16", "bfloat16")
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


def main() -> None:
    """Prints a line per dtype, metric and estimator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="zoo-llava,zoo-fuyu,zoo-qformer")
    parser.add_argument("--limit", type=int, default=126)
    parser.add_argument("--metrics", default="linearity,intrinsic_dimension,anisotropy")
    args = parser.parse_args()
    repeats: dict[tuple[str, str], float] = defaultdict(float)
    casts: dict[tuple[str, str], float] = defaultdict(float)
    for name in args.models.split(","):
        single: Result | None = None
        for dtype in DTYPES:
            adapter, results = load_model(name, {"dtype": dtype}, device="cpu"), []
            for batch_size, threads in VARIANTS:
                torch.set_num_threads(threads)
                options = {"limit": args.limit, "metrics": args.metrics.split(",")}
                if args.metrics == "all":
                    options["metrics"] = "all"
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
