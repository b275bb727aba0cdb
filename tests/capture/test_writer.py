"""Parts written beside the next pass: in order, one at a time, and with every error in the thread that captures."""

from __future__ import annotations

import logging
import threading

import pytest
import torch

from microscope_bench.capture.loop import Capture, part_writer
from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import StoreError
from tests.capture.captured import FEW, by_token, captured
from tests.toy import ToyAdapter, ToyTask


class Slow:
    """A store whose writes begin when they are let go; notes what it was given."""

    def __init__(self, fails_at=None):
        self.gate, self.written, self.running, self.most, self.fails_at = threading.Event(), [], 0, 0, fails_at

    def write_part(self, part, tensors, records):
        self.running += 1
        self.most = max(self.most, self.running)
        assert self.gate.wait(10)
        self.running -= 1
        if part == self.fails_at:
            raise StoreError(f"part {part} cannot be written")
        self.written.append(part)


def content():
    return {}, []


def test_a_part_is_written_while_the_caller_goes_on_and_the_end_waits_for_it():
    store = Slow()
    with part_writer(store) as write:
        write(0, content)
        assert store.written == []
        store.gate.set()
    assert store.written == [0]


def test_parts_keep_their_order_and_one_waits_at_most():
    store = Slow()
    store.gate.set()
    with part_writer(store) as write:
        for part in range(20):
            write(part, content)
            assert len(store.written) >= part, "the part before is written"
    assert store.written == list(range(20))
    assert store.most == 1


@pytest.mark.parametrize("fails_at", [0, 2])
def test_what_cannot_be_written_is_raised_where_the_capture_runs(fails_at):
    store = Slow(fails_at)
    store.gate.set()
    with pytest.raises(StoreError, match=f"part {fails_at} cannot"), part_writer(store) as write:
        for part in range(3):
            write(part, content)
    assert store.written == list(range(fails_at))


def test_what_ended_the_run_is_not_hidden_by_a_part_that_fails_too(caplog):
    store = Slow(fails_at=0)
    store.gate.set()
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(KeyboardInterrupt),
        part_writer(store) as write,
    ):
        write(0, content)
        raise KeyboardInterrupt
    assert "part 0 cannot be written" in caplog.text


def test_nor_by_one_that_cannot_be_put_together(caplog):
    def too_large():
        raise MemoryError

    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt), part_writer(Slow()) as write:
        write(0, too_large)
        raise KeyboardInterrupt
    assert "MemoryError" in caplog.text
    with pytest.raises(MemoryError), part_writer(Slow()) as write:
        write(0, too_large)


def test_no_thread_is_left(tmp_path):
    captured(tmp_path / "s")
    with pytest.raises(KeyboardInterrupt):
        captured(tmp_path / "t", ToyAdapter(break_at=4))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("token store")]


def test_a_full_disk_stops_the_capture_and_what_was_written_before_counts(tmp_path, monkeypatch):
    write, on_main = TokenStore.write_part, []

    def full(store, part, *given):
        on_main.append(threading.current_thread() is threading.main_thread())
        if part == 1:
            raise StoreError("part 1 cannot be written: no space left on device")
        write(store, part, *given)

    monkeypatch.setattr(TokenStore, "write_part", full)
    task, path = ToyTask(40), tmp_path / "s"
    store = TokenStore.open_or_create(path, {}, n_examples=40, part_examples=8)
    with pytest.raises(StoreError, match="no space left"):
        Capture(ToyAdapter(), task, FEW, 4).fill(store, store.missing_parts(), lambda n: None)
    assert not any(on_main), "parts are written beside the capture"
    assert TokenStore(path).missing_parts() == [1, 2, 3, 4]
    monkeypatch.undo()
    Capture(ToyAdapter(), task, FEW, 4).fill(store, store.missing_parts(), lambda n: None)
    reference = by_token(captured(tmp_path / "r", task=task))
    resumed = by_token(TokenStore(path))
    assert all(torch.equal(states, resumed[key]) for key, states in reference.items())
