"""What a regression check of the inside is for: one changed line, right answers as before, and geometry that tells."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from microscope_bench import evaluate
from microscope_bench.adapters.presets import load_model
from microscope_bench.publish.compare.comparison import DRIFT, MOVED, WITHIN, compare_results
from microscope_bench.results.result import Result

QUESTIONS = 63


def measured(change: Callable[[list[nn.Module]], None] | None = None, batch_size: int = 8) -> Result:
    adapter = load_model("zoo-llava", device="cpu")
    if change:
        change(list(adapter.blocks()))
    return evaluate(adapter, "shapesqa", limit=QUESTIONS, batch_size=batch_size, progress=False)


@pytest.fixture(scope="module")
def baseline() -> Result:
    return measured()


def norm_epsilon(blocks: list[nn.Module]) -> None:
    for block in blocks:
        assert block.input_layernorm.variance_epsilon == 1e-6
        block.input_layernorm.variance_epsilon = 1e-5


def dropped_attention_scale(blocks: list[nn.Module]) -> None:
    blocks[-1].self_attn.scaling = 1.0


@torch.no_grad()
def int8_weights(blocks: list[nn.Module]) -> None:
    for linear in (module for block in blocks for module in block.modules() if isinstance(module, nn.Linear)):
        step = linear.weight.abs().amax(dim=1, keepdim=True) / 127
        linear.weight.copy_((linear.weight / step).round() * step)


@pytest.mark.parametrize("change", [norm_epsilon, dropped_attention_scale, int8_weights])
def test_a_changed_line_is_caught_though_the_answers_stay(baseline: Result, change: Callable[..., None]) -> None:
    comparison = compare_results(baseline, measured(change))
    assert comparison.status == DRIFT
    assert comparison.verdict.startswith("the model changed: ")
    moved = [drift for drift in comparison.drifts if drift.series.metric != "accuracy"]
    assert len(moved) >= 10 and all(drift.kind == MOVED for drift in moved)
    # boundary 0 is before any block: what did not change is not said to have
    assert all(drift.layer for drift in moved if drift.series.metric != "linearity")
    old, new = baseline.accuracy, comparison.new.accuracy if comparison.new else None
    assert old and new and old.value is not None and new.value is not None and old.stderr
    assert abs(new.value - old.value) < old.stderr, "by accuracy nobody would have noticed"


def test_another_batch_size_is_no_change(baseline: Result) -> None:
    assert compare_results(baseline, measured(batch_size=5)).status == WITHIN
