"""A machine of one core and without AVX gives the scores of any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from microscope_bench.capture.store import TokenStore
from microscope_bench.metrics.registry import DEFAULT_METRICS
from microscope_bench.protocol import named_protocol
from tests.measure.stores import measurement_of, noise_layers, write_store

PROTOCOL = named_protocol("geometry/1").with_changes(tokens_per_example=8, id_tokens=128)
WITHOUT_AVX = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
}
"""What torch's own kernels, MKL, oneDNN, and the OpenBLAS of NumPy and SciPy take for the machine's."""


OF_FLOAT32 = "twonn_regression20"
"""Its logarithms are those of float32, as in the lineage's code, and each library has its own."""


def measured(store: Path) -> list[list[Any]]:
    """Estimator, value, standard error and replicates of every score."""
    found = measurement_of(TokenStore(store), PROTOCOL, DEFAULT_METRICS, n_layers=2)
    return [[score.estimator, score.value, score.stderr, *score.replicates] for score in found.scores]


def on_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system gives no process one core")
def test_one_core_without_avx_gives_the_same_scores(tmp_path: Path) -> None:
    states = {name: noise_layers(400, 20, 3, seed) for seed, name in enumerate(("text", "image"), start=1)}
    states["image"][1] = states["image"][0] + states["image"][1] / 3
    write_store(tmp_path / "store", states, 8)
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path / "store")],
        env=environment | WITHOUT_AVX | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=on_one_core,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kernels, *there = json.loads(done.stdout)
    assert kernels == ["DEFAULT", 1], "the variable is understood, and torch computes with one thread"
    here = measured(tmp_path / "store")
    assert len(here) > 100 and all(value is not None for _, value, *_ in here)
    for (estimator, *one), (also, *other) in zip(here, there, strict=True):
        assert estimator == also
        assert one[0] == pytest.approx(other[0], rel=1e-6 if estimator == OF_FLOAT32 else 1e-9), estimator
        assert one[1:] == pytest.approx(other[1:], rel=1e-4), estimator


if __name__ == "__main__":
    kernels = [torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    print(json.dumps([kernels, *measured(Path(sys.argv[1]))]))
