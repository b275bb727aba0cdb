"""Copies to the host: right on any device, and on a GPU without a wait inside the pass. No GPU: it is acted here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from microscope_bench.capture.host_copies import HostCopies

ROW, COLUMN = np.array([0, 1, 1]), np.array([4, 0, 2])


class OnGpu:
    """What :class:`HostCopies` sees of a CUDA tensor: its values, and a log of what is asked of it."""

    def __init__(self, values, log, number=0):
        self.values, self.log, self.device = values, log, torch.device("cuda", number)

    def __getitem__(self, index):
        assert all(isinstance(i, OnGpu) and i.device == self.device for i in index), "indices lie on the device"
        self.log.append("gather")
        return OnGpu(self.values[tuple(i.values for i in index)], self.log, self.device.index)

    def to(self, device, *, non_blocking):
        self.log.append(f"to {device}, non_blocking={non_blocking}")
        return self.values.clone()


class Pinned:
    def __init__(self, values, log):
        self.values, self.log = values, log

    def to(self, device, *, non_blocking):
        assert non_blocking, "a blocking copy to a GPU waits for the pass"
        self.log.append(f"index to {device}")
        return OnGpu(self.values, self.log, device.index)


@pytest.fixture
def log(monkeypatch):
    log = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: Pinned(tensor.clone(), log))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append(f"wait for {device}"))
    return log


def test_the_tokens_are_those_of_row_and_column():
    hidden = torch.randn(2, 5, 3, dtype=torch.bfloat16)
    copies = HostCopies(ROW, COLUMN)
    found = copies.take(hidden)
    copies.wait()
    assert torch.equal(found, torch.stack([hidden[0, 4], hidden[1, 0], hidden[1, 2]]))
    hidden.zero_()
    assert found.any(), "what the model does to its tensor later changes nothing"


def test_a_gpu_is_waited_for_once_and_not_before_the_end(log):
    copies = HostCopies(ROW, COLUMN)
    states = [torch.randn(2, 5, 3) for _ in range(3)]
    found = [copies.take(OnGpu(state, log)) for state in states]
    assert log == ["index to cuda:0"] * 2 + ["gather", "to cpu, non_blocking=True"] * 3
    copies.wait()
    assert log[8:] == ["wait for cuda:0"]
    for mine, state in zip(found, states, strict=True):
        assert torch.equal(mine, state[ROW, COLUMN])


def test_every_gpu_of_a_model_that_lies_on_several_is_waited_for(log):
    copies = HostCopies(ROW, COLUMN)
    for number in (0, 0, 1, 1):
        copies.take(OnGpu(torch.randn(2, 5, 3), log, number))
    assert sum(entry.startswith("index") for entry in log) == 4, "indices are brought to a device once"
    del log[:]
    copies.wait()
    assert log == ["wait for cuda:0", "wait for cuda:1"]
