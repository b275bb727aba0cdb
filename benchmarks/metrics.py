"""Our metrics of arrays against llm-microscope 0.0.7, scikit-dimension, DADApy and scikit-learn, on the same arrays.

    python benchmarks/metrics.py                                  # 2 threads; some ten minutes
    python benchmarks/metrics.py --json metrics.json
    python benchmarks/metrics.py --quick                          # small arrays, to see that it runs

Measured, in interleaved runs (A, B, A, B, ...), the median of each:

- linearity of both streams and anisotropy, values only: what llm-microscope computes (by SVDs in float32) against
  ``metrics.estimates(..., n_folds=1)``; and beside it, up to d = 1024, all estimators with jackknife errors over ten
  folds, which none of the others has. Target: at least 7 times as fast as llm-microscope at (4096, 1024), and 10 times
  at (4096, 4096); with all errors twice as fast as its values.
- TwoNN on the same float64 rows, copies kept as the others keep them. Target: at least 300 times as fast as
  llm-microscope's loop, and not slower than scikit-dimension or DADApy at any shape. The loop would take up to a
  quarter of an hour: it is timed on its first rows, each of which looks at all others, and scaled up
  ("extrapolated"). scikit-learn stands for the bare neighbour search.

A contender that is not installed is left out, and the script says so. The states are a Gaussian cloud of falling
variances and what a block might make of it, float32 as a model gives them.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import interleaved, write_json
from microscope_bench import metrics
from tests.metrics.oracles import gaussian, next_states, reference

SHAPES = ((4096, 1024), (8192, 2048), (4096, 4096))
QUICK_SHAPES = ((512, 64), (256, 256))
LOOP_ROWS = 24
WIDEST_OF_ALL = 1024
"""Widest states that all estimators are timed on."""

MOMENTS, TWONN = "linearity and anisotropy", "TwoNN"
OURS = "microscope_bench"
OURS_ALL = "microscope_bench, all estimators and errors"
LINEAGE = "llm-microscope"
LOOP = "llm-microscope (extrapolated)"


def states(n: int, d: int) -> tuple[Tensor, Tensor]:
    """float32 (n, d), twice."""
    x = gaussian(n, d) * torch.logspace(0, -1.5, d, dtype=torch.float64)
    return x.float(), next_states(x).float()


def values_of_ours(x: Tensor, y: Tensor) -> list[float | None]:
    """Linearity of both streams and anisotropy."""
    found = metrics.estimates(x, y, ["linearity", "anisotropy"], n_folds=1)
    keys = (
        ("linearity", "in_sample", "hidden"),
        ("linearity", "in_sample", "update"),
        ("anisotropy", "top_share", None),
    )
    return [found[key].value for key in keys]


def values_of_lineage(x: Tensor, y: Tensor) -> list[float | None]:
    """The same by llm-microscope; its function for the update returns nothing, so the update is handed to the other."""
    lineage = reference()
    linearity = [lineage.procrustes_similarity(x, target) for target in (y, y - x)]
    return [*linearity, lineage.calculate_anisotropy_torch(x)]


def moments_contenders(x: Tensor, y: Tensor) -> dict[str, Callable[[], list[float | None]]]:
    """Who computes linearity and anisotropy."""

    def all_of_ours() -> list[float | None]:
        return [one.value for one in metrics.estimates(x, y, ["linearity", "anisotropy"]).values()]

    found = {OURS: lambda: values_of_ours(x, y), OURS_ALL: all_of_ours}
    if installed(LINEAGE, reference):
        found[LINEAGE] = lambda: values_of_lineage(x, y)
    return found


def twonn_contenders(x: Tensor) -> dict[str, Callable[[], float | None]]:
    """Who computes TwoNN by the nine-tenths line, which is the default of both libraries; x is float64."""
    rows = x.numpy()

    def scikit_learn() -> None:
        from sklearn.neighbors import NearestNeighbors

        NearestNeighbors(n_neighbors=2, algorithm="brute").fit(rows).kneighbors()

    def scikit_dimension() -> float:
        import skdim.id

        return float(skdim.id.TwoNN().fit(rows).dimension_)

    def dadapy() -> float:
        from dadapy import Data

        data = Data(rows, maxk=2)
        data.compute_distances(maxk=2)
        return float(data.compute_id_2NN()[0])

    found: dict[str, Callable[[], float | None]] = {
        OURS: lambda: metrics.intrinsic_dimension(x, deduplicate=False).value,
        "scikit-learn (search only)": scikit_learn,
    }
    for name, module, run in (("scikit-dimension", "skdim.id", scikit_dimension), ("DADApy", "dadapy", dadapy)):
        if installed(name, lambda module=module: __import__(module)):
            found[name] = run
    return found


ABSENT: list[str] = []


def installed(name: str, load: Callable[[], object]) -> bool:
    """Whether a contender can be loaded; noted if not."""
    try:
        load()
    except (ImportError, OSError) as error:
        note = f"{name} is left out: {str(error).splitlines()[0]}"
        if note not in ABSENT:
            ABSENT.append(note)
        return False
    return True


def first_rows_of_loop(x: Tensor) -> tuple[Callable[[], None], float]:
    """llm-microscope's loop over the rows, the loop's own lines on some of them, and what share of all these are."""
    some = min(LOOP_ROWS, len(x))

    def loop() -> None:
        for i in range(some):
            distances = torch.nn.functional.pairwise_distance(x[i, None, :], x[None, :, :], eps=0)[0]
            distances = torch.cat([distances[:i], distances[i + 1 :]])
            torch.kthvalue(distances, k=1), torch.kthvalue(distances, k=2)

    return loop, some / len(x)


def disagreement(ours: Any, theirs: Any) -> float | None:
    """The largest difference of values that both give."""
    pairs = np.array([(a, b) for a, b in zip(np.atleast_1d(ours), np.atleast_1d(theirs), strict=True)], dtype=float)
    return None if np.isnan(pairs).any() else float(np.abs(pairs[:, 0] - pairs[:, 1]).max())


def row(
    task: str, shape: tuple[int, int], name: str, seconds: float, ours: float, differs: float | None
) -> dict[str, Any]:
    """One line of the table."""
    ratio = None if name.startswith(OURS) else seconds / ours
    return {"task": task, "n": shape[0], "d": shape[1], "contender": name, "seconds": seconds} | {
        "times_ours": ratio,
        "largest_difference": differs,
    }


def moments_rows(x: Tensor, y: Tensor, repeats: int) -> list[dict[str, Any]]:
    """Linearity of both streams and anisotropy at one shape."""
    contenders = moments_contenders(x, y)
    if x.shape[1] > WIDEST_OF_ALL:
        contenders.pop(OURS_ALL)
    values = {name: run() for name, run in contenders.items()}  # and warm up
    seconds = {name: median(runs) for name, runs in interleaved(contenders, repeats).items()}
    return [
        row(MOMENTS, tuple(x.shape), name, took, seconds[OURS],
            disagreement(values[OURS], values[name]) if name == LINEAGE else None)
        for name, took in seconds.items()
    ]  # fmt: skip


def twonn_rows(x: Tensor, repeats: int) -> list[dict[str, Any]]:
    """TwoNN at one shape."""
    contenders = twonn_contenders(x)
    values = {name: run() for name, run in contenders.items()}
    loop, share = first_rows_of_loop(x)
    seconds = {name: median(runs) for name, runs in interleaved({**contenders, LOOP: loop}, repeats).items()}
    seconds[LOOP] /= share
    shape = tuple(x.shape)
    return [
        row(TWONN, shape, name, took, seconds[OURS],
            disagreement(values[OURS], values[name]) if name != OURS and values.get(name) is not None else None)
        for name, took in seconds.items()
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="of every contender alike (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, of which the median counts (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="small arrays, one round: whether it runs")
    parser.add_argument("--only", choices=(MOMENTS, TWONN), help="one of the two tasks")
    parser.add_argument("--shapes", help="other shapes, such as 4096x1024,8192x2048")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    from threadpoolctl import threadpool_limits

    threadpool_limits(args.threads)
    rows = []
    shapes = QUICK_SHAPES if args.quick else SHAPES
    if args.shapes:
        shapes = tuple((int(n), int(d)) for n, d in (shape.split("x") for shape in args.shapes.split(",")))
    for n, d in shapes:
        x, y = states(n, d)
        repeats = 1 if args.quick else args.repeats
        rows += moments_rows(x, y, repeats) if args.only != TWONN else []
        rows += twonn_rows(x.double(), repeats) if args.only != MOMENTS else []
    print(tabulate(
        [(r["task"], f"{r['n']} x {r['d']}", *list(r.values())[3:]) for r in rows],
        ["task", "N x d", "contender", "seconds", "times ours", "largest difference"],
        floatfmt=("", "", "", ".3f", ".1f", ".1e"),
    ))  # fmt: skip
    print(f"median of {1 if args.quick else args.repeats} interleaved rounds, {args.threads} threads")
    print("\n".join(ABSENT))
    if args.json:
        write_json(args.json, {"threads": args.threads, "quick": args.quick, "rows": rows, "left_out": ABSENT})


if __name__ == "__main__":
    main()
