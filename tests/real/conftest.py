"""The real models and one run of each. Where a model or the questions are missing, a test says so and is skipped."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from microscope_bench import evaluate
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.tasks import load_task
from tests.real.smollm2 import CACHE, missing
from tests.real.stored_states import RealRun

SCIENCEQA = Path(__file__).parents[3] / "shared" / "data" / "scienceqa"


@pytest.fixture(scope="session")
def adapter() -> Callable[[str], Any]:
    """``adapter("smollm2")``: that model, loaded on the CPU."""
    if reason := missing():
        pytest.skip(reason)
    return cache(lambda name: HFAdapter.load({"pretrained": str(CACHE / name), "dtype": "float32"}, device="cpu"))


@pytest.fixture(scope="session")
def real_run(adapter: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RealRun]:
    """``real_run("smollm2", "scienceqa_text", 60)``: what one run gives, and the states that it measured."""
    if not SCIENCEQA.is_dir():
        pytest.skip(f"{SCIENCEQA} is not there: questions and pictures of ScienceQA, in the layout of its authors")

    @cache
    def run(model: str, name: str, limit: int) -> RealRun:
        store, task = tmp_path_factory.mktemp(model) / "store", load_task(name, task_args={"data_dir": str(SCIENCEQA)})
        result = evaluate(
            adapter(model),
            task,
            limit=limit,
            metrics="anisotropy,intrinsic_dimension",
            store=store,
            keep_store=True,
            device="cpu",
            progress=False,
        )
        return RealRun(result, store, adapter(model), task)

    return run
