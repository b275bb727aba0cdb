"""When the capture does what: in the pass only what the pass needs, the rest while a GPU would still run it."""

from __future__ import annotations

import pytest
import torch

from microscope_bench.capture import states as module
from microscope_bench.capture.hooks import run_pass
from microscope_bench.capture.host_copies import HostCopies
from microscope_bench.capture.states import BatchStates, join
from microscope_bench.errors import CaptureError
from tests.capture.captured import FEW
from tests.toy import LAYERS, ToyAdapter, ToyTask


@pytest.fixture
def log(monkeypatch):
    log = []

    def logged(owner, name, said):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **given: log.append(said) or real(*args, **given))

    logged(HostCopies, "take", "copy")
    logged(HostCopies, "wait", "wait")
    logged(module, "media_sha256", "hash")
    logged(module, "token_origins", "origins")
    return log


def captured(n=3, rows=None):
    adapter, task = ToyAdapter(), ToyTask(n)
    examples = [task.example(i) for i in range(n)]
    batch = adapter.encode(examples)
    of_rows = examples if rows is None else [examples[row] for row in rows]
    part = batch if rows is None else adapter.encode(of_rows)
    if rows is not None:  # rows of one pass share its padding
        part.labels = batch.labels[rows]
    states = BatchStates(adapter, FEW, part, of_rows, rows)
    logits = run_pass(adapter, batch, states.keep_boundary, logits=True)
    return states, logits, batch


def test_hashes_and_choices_come_after_the_pass_and_before_the_wait_for_it(log):
    states, logits, _ = captured()
    assert log == ["copy"] * (LAYERS + 1), "nothing else is done while the blocks are being launched"
    states.score_choices(logits, {row: [0, 1] for row in range(3)})
    assert log[LAYERS + 1 :] == ["hash"] * 3 + ["origins"] * 3 + ["wait"]
    states.finish()
    assert len(states.records) == 3 and states.tensors.keys() == {f"boundary.{k}" for k in range(LAYERS + 1)}
    assert log.count("hash") == 3 and log.count("wait") == 1, "it is done once"


def test_whoever_looks_without_asking_waits_all_the_same(log):
    states, *_ = captured()
    assert len(join([states], [[0, 1, 2]])["example"])
    assert log.count("wait") == 1


def test_rows_of_a_larger_batch_are_kept_as_if_they_ran_alone():
    every, *_ = captured()
    some, *_ = captured(rows=[2, 0])
    of_all, of_some = join([every], [[0, 1, 2]]), join([some], [[2, 0]])
    kept = of_all["example"] != 1
    assert of_some["example"].unique().tolist() == [0, 2]
    for name, tensor in of_some.items():
        assert torch.equal(tensor, of_all[name][kept]), name


def test_without_a_pass_there_is_nothing_to_finish():
    adapter, task = ToyAdapter(), ToyTask(1)
    states = BatchStates(adapter, FEW, adapter.encode([task.example(0)]), [task.example(0)])
    with pytest.raises(CaptureError, match="no boundary was handed over"):
        states.finish()


def test_a_token_is_numbered_among_all_of_its_modality_not_among_those_that_are_kept():
    states, _, batch = captured()
    kept = join([states], [[0, 1, 2]])
    columns = (kept[name].tolist() for name in ("example", "modality", "position", "number"))
    found = list(zip(*columns, strict=True))
    assert len(found) == 3 * 2 * FEW.tokens_per_example, "all examples have more tokens than are kept"
    for example, modality, position, number in found:  # padding is on the right: a position is a column
        assert number == (batch.labels[example, position + 1 :] == modality).sum()
