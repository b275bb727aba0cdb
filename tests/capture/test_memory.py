"""Memory that runs out in a forward pass: the batch is halved, the scores stay."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest
import torch

from microscope_bench.capture.states import BatchStates
from microscope_bench.errors import ExampleError, MicroscopeError
from microscope_bench.system.memory import out_of_memory
from tests.toy import ToyAdapter, ToyTask, run

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    MemoryError(),
]


class Small(ToyAdapter):
    """Takes batches of up to ``most``."""

    def __init__(self, most, error=ERRORS[0]):
        super().__init__()
        self.most, self.error, self.sizes, self.held = most, error, [], []

    def forward(self, batch, *, logits):
        self.sizes.append(len(batch.ids))
        if len(batch.ids) > self.most:
            activations = torch.zeros(1000)
            activations.itself = activations  # as caches and exceptions do: nothing but the collector frees it
            self.held.append(weakref.ref(activations))
            raise type(self.error)(*self.error.args)
        assert not any(reference() is not None for reference in self.held), "the failed pass still holds memory"
        return super().forward(batch, logits=logits)


@pytest.mark.parametrize(
    "error",
    [ERRORS[0], *(pytest.param(error, marks=pytest.mark.heavy) for error in ERRORS[1:])],
    ids=lambda error: type(error).__name__,
)
def test_the_batch_is_halved_for_the_rest_of_the_run_and_the_scores_are_the_same(error, caplog):
    caplog.set_level(logging.INFO)
    gc.disable()  # what keeps tensors alive in a cycle is to be found by the package itself
    try:
        adapter = Small(3, error)
        result = run(None, adapter, batch_size=8)
    finally:
        gc.enable()
    assert adapter.sizes[:4] == [8, 4, 2, 2] and set(adapter.sizes[2:]) == {2}
    assert "out of memory with 8 examples in a batch; going on with 4" in caplog.text
    reference = run(None, batch_size=2)
    assert result.scores == reference.scores
    for ours, theirs in zip(result.scores, run(None, batch_size=8).scores, strict=True):
        assert ours.value is theirs.value is None or ours.value == pytest.approx(theirs.value, rel=1e-4, abs=1e-6)


def test_one_example_that_does_not_fit_is_an_error_that_names_it_and_says_what_to_do(tmp_path):
    with pytest.raises(MicroscopeError, match=r"out of memory \(CUDA out .*Not even example q0 alone fits.*device_map"):
        run(tmp_path, Small(0), batch_size=8)


def test_a_processor_that_runs_out_of_memory_is_not_an_example_that_cannot_be_measured():
    class Small(ToyAdapter):
        def encode(self, examples):
            if len(examples) > 2:
                raise ExampleError(examples[0].id, "MemoryError in the processor") from MemoryError()
            return super().encode(examples)

    assert run(None, Small(), batch_size=8).inputs.skipped == ()


def test_bugs_of_the_capture_end_the_run_and_name_the_examples_of_their_batch(tmp_path, monkeypatch):
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    keep = BatchStates.keep_boundary

    def defect(self, layer, hidden):
        if "q5" in [example.id for example in self._examples]:
            raise ZeroDivisionError("division by zero")
        keep(self, layer, hidden)

    monkeypatch.setattr(BatchStates, "keep_boundary", defect)
    with pytest.raises(ZeroDivisionError) as raised:
        run(tmp_path, ToyAdapter(), ToyTask(10), batch_size=4)
    assert raised.value.__notes__ == ["at one of the examples q4, q5, q6, q7"]
    monkeypatch.undo()
    (file,) = tmp_path.glob("toy/*/*.json")
    assert "division by zero at one of the examples q4, q5, q6, q7" in file.read_text()
    adapter = ToyAdapter()
    run(tmp_path, adapter, ToyTask(10), batch_size=4)
    assert adapter.passes == 2, "the first four examples were kept"


def test_memory_that_runs_out_in_measuring_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    import microscope_bench.run.pipeline as pipeline

    def too_large(*_args, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(pipeline, "measure_tokens", too_large)
    with pytest.raises(MicroscopeError, match=r"--device cpu.*goes on with it"):
        run(tmp_path)
    monkeypatch.undo()
    adapter = ToyAdapter()
    run(tmp_path, adapter)
    assert adapter.passes == 0
