"""A thousand results: the leaderboard in at most 10 s and 500 MB."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from microscope_bench.cli.main import main

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "results_tree.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_tree", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tree_is_of_results_that_a_run_could_have_written(benchmark: ModuleType, tmp_path: Path) -> None:
    rows = benchmark.write_tree(tmp_path / "results", 2, 6)
    deeper = benchmark.write_tree(tmp_path / "deeper", 1, 13)
    assert deeper > 1.9 * rows > 1000
    assert main(["validate", str(tmp_path / "results"), str(tmp_path / "deeper")]) == 0


@pytest.mark.heavy
@pytest.mark.parametrize("form", ["markdown", "html"])
def test_a_thousand_results(benchmark: ModuleType, tmp_path: Path, form: str) -> None:
    benchmark.write_tree(tmp_path / "results", 1000, 6)
    # the best of three; other work on the machine makes the wall time longer, and several processes make the processor
    # time more: the lesser of the two is what it takes where it has the machine to itself
    wall, cpu, memory = min((benchmark.measure(tmp_path / "results", form) for _ in range(3)), key=lambda f: min(f[:2]))
    print(f"\n{form}: {wall:.1f} s, {cpu:.1f} s of processor time, {memory:.0f} MiB")
    assert min(wall, cpu) <= 10, f"{wall:.1f} s, {cpu:.1f} s of processor time"
    assert memory <= 500 / 1.048576
