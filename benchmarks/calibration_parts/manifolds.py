"""Intrinsic dimension on scikit-dimension's benchmark manifolds: every estimator of ours, and those of others.

All see the same points. scikit-dimension is a development extra; DADApy needs an older numpy, so it lives in an
environment of its own and answers through :mod:`dadapy_worker`.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from microscope_bench.metrics.core.arrays import cloud_of
from microscope_bench.metrics.registry import METRICS

Array = NDArray[np.float64]
Found = dict[str, float | None]

DIMENSION_METRICS = ("intrinsic_dimension", "intrinsic_dimension_by_scale")
SCALES = tuple(2**i for i in range(7))
DADAPY = ("2NN", "2NN, maximum likelihood", *(f"GRIDE k = {k}" for k in SCALES))
WORKER = Path(__file__).with_name("dadapy_worker.py")

SAME_ESTIMATOR = {
    "twonn_discard10": ("scikit-dimension TwoNN", "DADApy 2NN"),
    "twonn_mle": ("DADApy 2NN, maximum likelihood",),
    "twonn_regression20": ("llm-microscope",),
    **{f"gride_{k}": (f"DADApy GRIDE k = {k}",) for k in SCALES},
}
"""Ours → the same estimator in other packages."""


def clouds(n: int, seed: int) -> Iterator[tuple[str, int, Array]]:
    """Name, true dimension and points of each of the 24 manifolds."""
    from skdim.datasets import BenchmarkManifolds

    generator = BenchmarkManifolds(random_state=seed)
    for name, x in generator.generate("all", n=n).items():
        yield name, int(generator.truth.loc[name, "Intrinsic Dimension"]), np.ascontiguousarray(x, dtype=np.float64)


def ours(x: Array) -> Found:
    """Estimator → dimension."""
    cloud = cloud_of(torch.from_numpy(x), None, None, n_folds=1)  # no standard error is looked at
    known = [METRICS.get(name) for name in DIMENSION_METRICS]
    cloud.n_neighbours = max(metric.neighbours for metric in known)
    return {estimator: estimate.value for metric in known for estimator, _, estimate in metric.scores(cloud)}


def scikit_dimension(x: Array) -> Found:
    """Name → dimension by the estimators of scikit-dimension that take seconds."""
    import skdim.id

    makers: dict[str, Callable[[], Any]] = {
        "TwoNN": skdim.id.TwoNN,
        "MLE": skdim.id.MLE,
        "CorrInt": skdim.id.CorrInt,
        "lPCA": skdim.id.lPCA,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {f"scikit-dimension {name}": finite(make().fit(x).dimension_) for name, make in makers.items()}


def llm_microscope(x: Array) -> Found:
    """The estimator of llm-microscope 0.0.7; nothing where it is not installed."""
    from tests.metrics.oracles import reference

    try:
        return {"llm-microscope": finite(reference().intrinsic_dimension(torch.from_numpy(x), "cpu"))}
    except ModuleNotFoundError:
        return {}


def dadapy(points: dict[str, Array], python: str | None) -> dict[str, Found]:
    """Manifold → the estimates of DADApy; nothing where there is no interpreter that has it.

    Args:
        points: manifold → (n, d).
        python: the interpreter of an environment with DADApy, or None.

    Raises:
        RuntimeError: that interpreter cannot import DADApy.
    """
    if python is None:
        return {name: {} for name in points}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "points.npz"
        np.savez(file, **points)
        done = subprocess.run([python, str(WORKER), str(file)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{python} does not run DADApy: {done.stderr.strip().splitlines()[-1:]}")
    answers = json.loads(done.stdout.splitlines()[-1])
    return {name: {f"DADApy {k}": finite(v) for k, v in found.items()} for name, found in answers.items()}


def finite(value: Any) -> float | None:
    """A number, or None where it is NaN or infinite."""
    return float(value) if np.isfinite(value) else None


def estimates(n: int, seed: int, python: str | None) -> list[dict[str, Any]]:
    """Every estimate on every manifold at one n and seed: plain records, one per manifold."""
    drawn = list(clouds(n, seed))
    others = dadapy({name: x for name, _, x in drawn}, python)
    return [
        {
            "manifold": name,
            "truth": truth,
            "n": n,
            "seed": seed,
            "found": {**ours(x), **scikit_dimension(x), **(llm_microscope(x) if n <= 1000 else {}), **others[name]},
        }
        for name, truth, x in drawn
    ]
