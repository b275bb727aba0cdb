"""A thousand results: the leaderboard in at most 10 s of a core and 500 MB."""

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
    # the best of three, in the processor's time: neighbours make it longer, nothing makes it shorter
    _, cpu, memory = min((benchmark.measure(tmp_path / "results", form) for _ in range(3)), key=lambda found: found[1])
    print(f"\n{form}: {cpu:.1f} s of processor time, {memory:.0f} MiB")
    assert cpu <= 10, f"{cpu:.1f} s of processor time"
    assert memory <= 500 / 1.048576
