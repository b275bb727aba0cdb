"""Fixtures every test may use: tiny checkpoints of real architectures, built once per session, and no network."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.matrix.torchvision_ops import declare_operators

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test may reach for the hub
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
declare_operators()  # before anything imports torchvision, where it is installed


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``tiny("llava")``: the directory of that family's checkpoint. Copy it before changing anything."""
    from tests.tiny.families import build

    root = tmp_path_factory.mktemp("tiny")
    return functools.cache(lambda name: build(name, root / name))


@pytest.fixture(scope="session")
def tiny_adapter(tiny: Callable[[str], Path]) -> Callable[[str], Any]:
    """``tiny_adapter("llava")``: that checkpoint, loaded on the CPU. Shared: leave it as it is."""
    from microscope_bench.adapters.hf import HFAdapter

    return functools.cache(lambda name: HFAdapter.load({"pretrained": str(tiny(name))}, device="cpu"))
