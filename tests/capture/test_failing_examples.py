"""One example that fails, wherever and however it does, is skipped by name; the rest are measured as without it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from microscope_bench import evaluate
from microscope_bench.adapters.presets import load_model
from microscope_bench.capture.loop import Capture
from microscope_bench.capture.states import BatchStates
from microscope_bench.errors import AdapterError, CaptureError
from microscope_bench.protocol import named_protocol
from tests.toy import ToyAdapter, ToyTask, run

ERRORS = [IndexError("tuple index out of range\nand more"), KeyError("k"), RecursionError(), AssertionError("odd")]


class Failing(ToyAdapter):
    """Fails in one of its methods on the examples with these ids."""

    def __init__(self, where, ids=("q7",), error=ERRORS[0], needs=1):
        super().__init__()
        self.where, self.bad, self.error, self.needs = where, set(ids), error, needs

    def _fail(self, where, ids):
        if where == self.where and self.bad & set(ids) and len(ids) >= self.needs:
            raise self.error

    def encode(self, examples):
        self._fail("encode", [example.id for example in examples])
        return super().encode(examples)

    def forward(self, batch, *, logits):
        self._fail("forward", batch.ids)
        return super().forward(batch, logits=logits)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("where", "said"), [("encode", "in the encoding"), ("forward", "in the model")])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_only_the_culprit_is_skipped_and_the_others_keep_their_numbers(where, said, error, batch_size):
    options = {"batch_size": batch_size, "metrics": ("anisotropy",)}
    result = run(None, Failing(where, error=error), ToyTask(120), **options)
    (skipped,) = result.inputs.skipped
    assert skipped.id == "q7" and skipped.reason.startswith(f"{type(error).__name__} {said}")
    assert "and more" not in skipped.reason
    refused = run(None, task=ToyTask(120, broken={7: "untranslatable"}), **options)
    assert [score.value for score in result.scores] == [score.value for score in refused.scores]


@pytest.mark.parametrize("where", ["encode", "forward"])
def test_too_many_end_the_run(where):
    with pytest.raises(CaptureError, match=r"2 of 120 .*, 1 may be .*q7, q9: IndexError .*max_skipped"):
        run(None, Failing(where, ("q7", "q9")), ToyTask(120), batch_size=8)
    assert len(run(None, Failing(where, ("q7", "q9")), ToyTask(120), batch_size=8, max_skipped=0.1).inputs.skipped) == 2


@pytest.mark.parametrize("where", ["encode", "forward"])
def test_examples_that_fail_only_together_end_it_with_the_remedy(where):
    with pytest.raises(AdapterError, match=r"together \(IndexError.*--batch_size 1"):
        run(None, Failing(where, needs=2), ToyTask(120), batch_size=8)
    assert run(None, Failing(where, needs=2), ToyTask(120), batch_size=1).inputs.skipped == ()


def test_a_task_that_raises_skips_its_example():
    class Raising(ToyTask):
        def example(self, index):
            if index == 7:
                raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
            return super().example(index)

    (skipped,) = run(None, task=Raising(120)).inputs.skipped
    assert skipped.reason.startswith("UnicodeDecodeError in the task: 'utf-8' codec can't decode")


def test_the_look_for_a_main_flow_passes_by_a_failing_example():
    found = Capture(Failing("forward", ("q0",)), ToyTask(20), named_protocol("geometry/1"), 8).find_mainflow()
    assert found == Capture(ToyAdapter(), ToyTask(20), named_protocol("geometry/1"), 8).find_mainflow()


@pytest.mark.parametrize("ends", [KeyboardInterrupt(), SystemExit(3), torch.OutOfMemoryError("CUDA out of memory")])
def test_what_is_nobodys_fault_is_not_swallowed(ends):
    with pytest.raises((type(ends), Exception) if isinstance(ends, Exception) else type(ends)) as raised:
        run(None, Failing("forward", error=ends), ToyTask(120), batch_size=1)
    assert not isinstance(ends, Exception) or "out of memory" in str(raised.value)


def test_bugs_of_the_capture_are_not_swallowed(monkeypatch):
    monkeypatch.setattr("microscope_bench.capture.states.select_positions", None)
    with pytest.raises(TypeError, match="NoneType"):
        run(None, ToyAdapter(), ToyTask(120))
    monkeypatch.undo()
    monkeypatch.setattr(BatchStates, "keep_boundary", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(None, ToyAdapter(), ToyTask(120))


class OneSmall(ToyTask):
    """The toy's questions, one of them about a picture smaller than a patch of Fuyu."""

    def example(self, index):
        example = super().example(index)
        size = (8, 8) if index == 7 else (64, 64)
        return replace(example, images=(Image.new("RGB", size, (index, 200, 30)),))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_one_picture_smaller_than_a_patch_among_many(batch_size):
    adapter = load_model("zoo-fuyu", device="cpu")
    result = evaluate(adapter, OneSmall(120), batch_size=batch_size, metrics=("anisotropy",), progress=False)
    (skipped,) = result.inputs.skipped
    assert skipped.id == "q7" and skipped.reason == "IndexError in the model: tuple index out of range"


def test_what_is_said_of_it_is_one_printable_line():
    error = RuntimeError("\x1b[2J::error::x\u202e\nnext")
    (skipped,) = run(None, Failing("forward", error=error), ToyTask(120)).inputs.skipped
    assert skipped.reason.isprintable() and "error::x" in skipped.reason
