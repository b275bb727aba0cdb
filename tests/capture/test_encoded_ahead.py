"""The next batch is encoded in a thread while the model runs, where its adapter allows it, and is the same batch."""

from __future__ import annotations

import threading

import pytest
import torch

from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.errors import ExampleError
from tests.capture.captured import by_token, captured
from tests.toy import ToyAdapter, ToyTask


def still_encoding():
    return [thread for thread in threading.enumerate() if thread.name.startswith("encoding")]


class Watched(ToyAdapter):
    """Its passes, but for the last, wait until the next batch is encoded."""

    def __init__(self, ahead, last):
        super().__init__()
        self.encodes_on_host, self.last = ahead, last
        self.encoded, self.threads, self.sizes = threading.Semaphore(0), set(), []

    def encode(self, examples):
        self.threads.add(threading.current_thread())
        try:
            return super().encode(examples)
        finally:
            self.encoded.release()

    def forward(self, batch, *, logits):
        self.sizes.append(len(batch.ids))
        if self.encodes_on_host:
            assert self.encoded.acquire(timeout=30), "its own batch"
            if len(self.sizes) < self.last:
                assert self.encoded.acquire(timeout=30), "nothing was encoded during the pass"
                self.encoded.release()
        return super().forward(batch, logits=logits)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_pass_runs_beside_the_encoding_of_the_next_batch_of_this_or_the_next_part(tmp_path, ahead):
    adapter = Watched(ahead, last=5)
    found = by_token(captured(tmp_path / "found", adapter))
    assert adapter.sizes == [4] * 5, "two batches a part, one in the last"
    assert (threading.main_thread() in adapter.threads, len(adapter.threads)) == (True, 2 if ahead else 1)
    assert not still_encoding(), "the thread ends with the capture"
    expected = by_token(captured(tmp_path / "expected"))
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_what_was_encoded_for_a_batch_that_no_longer_comes_is_left(tmp_path):
    class Small(ToyAdapter):
        encodes_on_host = True

        def forward(self, batch, *, logits):
            if len(batch.ids) > 2 and self.passes > 1:
                raise torch.OutOfMemoryError("too many")
            return super().forward(batch, logits=logits)

    found, expected = (by_token(captured(tmp_path / name, a)) for name, a in {"a": Small(), "b": ToyAdapter()}.items())
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_memory_that_the_pass_took_is_free_for_the_encoding_after_it(tmp_path):
    class Tight(ToyAdapter):
        encodes_on_host = True

        def encode(self, examples):
            if threading.current_thread() is not threading.main_thread():
                raise torch.OutOfMemoryError("beside the pass")
            return super().encode(examples)

    found, expected = (by_token(captured(tmp_path / name, a)) for name, a in {"a": Tight(), "b": ToyAdapter()}.items())
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_an_adapter_that_encodes_its_own_way_is_not_called_by_a_thread(tiny):
    class Own(HFAdapter):
        def encode(self, examples):
            return super().encode(examples)

    loaded = [one.load({"pretrained": str(tiny("llava"))}, device="cpu") for one in (HFAdapter, Own)]
    assert [adapter.encodes_on_host for adapter in loaded] == [True, False]


def test_an_error_of_the_thread_is_that_of_the_example(tmp_path):
    class Ahead(ToyAdapter):
        encodes_on_host = True

    task = ToyTask(20, broken={5: "untranslatable", 9: "picture"})
    records = captured(tmp_path / "ahead", Ahead(), task).records
    assert records == captured(tmp_path / "one", task=task).records
    assert [record.id for record in records if record.skipped] == ["q5", "q9"]


def test_an_error_of_the_pass_waits_for_the_thread(tmp_path):
    class Failing(ToyAdapter):
        encodes_on_host = True

        def forward(self, batch, *, logits):
            raise ExampleError("q99", "of nobody here")

    with pytest.raises(ExampleError, match="of nobody here"):
        captured(tmp_path / "s", Failing())
    assert not still_encoding()
