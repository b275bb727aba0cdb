"""Fixtures every test may use: tiny checkpoints of real architectures, built once for all workers, and no network."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test may reach for the hub
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: a worker of xdist has one core

from tests.matrix.torchvision_ops import declare_operators

declare_operators()  # before anything imports torchvision, where it is installed


@pytest.fixture(scope="session")
def shared_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of this session see."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def tiny(shared_path: Path) -> Callable[[str], Path]:
    """``tiny("llava")``: the directory of that family's checkpoint. Copy it before changing anything."""
    from tests.tiny.checkpoints import build

    root = shared_path / "tiny"
    root.mkdir(exist_ok=True)

    @functools.cache
    def checkpoint(name: str) -> Path:
        done = root / name
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                build(name, root / f"{name}.part").rename(done)
        return done

    return checkpoint


@pytest.fixture(scope="session")
def tiny_adapter(tiny: Callable[[str], Path]) -> Callable[[str], Any]:
    """``tiny_adapter("llava")``: that checkpoint, loaded on the CPU. Shared: leave it as it is."""
    from microscope_bench.adapters.hf import HFAdapter

    return functools.cache(lambda name: HFAdapter.load({"pretrained": str(tiny(name))}, device="cpu"))
