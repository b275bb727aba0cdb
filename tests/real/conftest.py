"""The real models and one run of each. Where a model or the questions are missing, a test says so and is skipped."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from microscope_bench import evaluate, load_result
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.tasks import load_task
from tests.real.smollm2 import CACHE, missing
from tests.real.stored_states import RealRun

TEXT = ("smollm2", "scienceqa_text", 60, "linearity,intrinsic_dimension,anisotropy")
PICTURES = ("smollm2-llava", "scienceqa_img", 36, "intrinsic_dimension,anisotropy")
"""What :func:`real_run` is asked for: a model, a task, a number of questions, metrics.

36 pictures have the 1,024 tokens of a draw. Their linearity at every boundary would take as long as all else.
"""

SCIENCEQA = Path(__file__).parents[3] / "shared" / "data" / "scienceqa"


@pytest.fixture(scope="session")
def adapter() -> Callable[[str], Any]:
    """``adapter("smollm2")``: that model, loaded on the CPU."""
    if reason := missing():
        pytest.skip(reason)
    return cache(lambda name: HFAdapter.load({"pretrained": str(CACHE / name), "dtype": "float32"}, device="cpu"))


@pytest.fixture(scope="session")
def real_run(adapter: Callable[[str], Any], shared_path: Path) -> Callable[..., RealRun]:
    """``real_run(*TEXT)``: what one run gives, and the states that it measured. One worker runs it for all."""
    if not SCIENCEQA.is_dir():
        pytest.skip(f"{SCIENCEQA} is not there: questions and pictures of ScienceQA, in the layout of its authors")

    @cache
    def run(model: str, name: str, limit: int, measured: str) -> RealRun:
        task, directory = load_task(name, task_args={"data_dir": str(SCIENCEQA)}), shared_path / "real" / model
        directory.mkdir(parents=True, exist_ok=True)
        file, store = directory / "result.json", directory / "store"
        with FileLock(directory / "lock"):
            if not file.exists():
                kept = {"store": store, "keep_store": True, "device": "cpu", "progress": False}
                evaluate(adapter(model), task, limit=limit, metrics=measured, **kept).save(file)
        return RealRun(load_result(file), store, adapter(model), task)

    return run
