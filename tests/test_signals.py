"""SIGTERM and SIGINT: the batch under way ends, what was captured is stored, and the next run goes on with it."""

from __future__ import annotations

import os
import signal

import pytest

from microscope_bench.capture.loop import Capture
from microscope_bench.capture.store import TokenStore
from microscope_bench.cli.main import main
from microscope_bench.system import signals
from tests.toy import ToyAdapter, result_files, run

BATCH = 4


class Signalled(ToyAdapter):
    """Gets a signal in the middle of some of its forward passes."""

    def __init__(self, at, number=signal.SIGTERM, times=1):
        super().__init__()
        self.at, self.number, self.times = at, number, times

    def forward(self, batch, *, logits):
        if self.passes + 1 == self.at:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
        return super().forward(batch, logits=logits)


@pytest.fixture
def handled():
    with signals.handled():
        yield


def test_handlers_are_there_inside_alone_and_end_what_cannot_be_saved_at_once():
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    for number in signals.SIGNALS:
        with signals.handled(), pytest.raises(signals.Stopped) as stop:
            os.kill(os.getpid(), number)
        assert stop.value.number == number
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


def test_a_deferred_signal_waits_for_the_check_and_a_second_one_does_not(handled):
    reached = []
    with pytest.raises(signals.Stopped), signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("the first waits")
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("the second does not")
    assert reached == ["the first waits"]


def test_a_signal_in_the_last_batch_ends_the_run_too(handled):
    with pytest.raises(signals.Stopped), signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def undisturbed():
    return run(None, batch_size=BATCH)


@pytest.mark.parametrize("at", [1, 3, 4, 10])
def test_the_batch_under_way_is_finished_and_nothing_is_captured_twice(tmp_path, undisturbed, handled, at):
    stopped = Signalled(at)
    with pytest.raises(signals.Stopped):
        run(tmp_path, stopped, batch_size=BATCH)
    assert stopped.passes == at
    assert result_files(tmp_path) == []
    (store,) = (tmp_path / ".stores").iterdir()
    assert sum(len(TokenStore(store).begun_records(part)) for part in range(3)) == at * BATCH
    adapter = Signalled(None)  # of the same code: another's states are not gone on with
    with signals.handled():
        resumed = run(tmp_path, adapter, batch_size=BATCH)
    assert adapter.passes == 10 - at
    assert resumed.scores == undisturbed.scores
    assert resumed.inputs == undisturbed.inputs and resumed.accuracy == undisturbed.accuracy


def test_a_begun_part_may_be_begun_again_and_finished_with_another_batch_size(tmp_path):
    for at in (1, 1, 2):
        with signals.handled(), pytest.raises(signals.Stopped):
            run(tmp_path, Signalled(at), batch_size=3)
    adapter = Signalled(None)  # of the same code: another's states are not gone on with
    resumed = run(tmp_path, adapter, batch_size=20)
    assert adapter.passes == 3, "12 of the first part of 18 were there"
    reference = run(None, batch_size=3)
    for ours, theirs in zip(resumed.scores, reference.scores, strict=True):
        assert ours.value is theirs.value is None or ours.value == pytest.approx(theirs.value, rel=1e-4, abs=1e-6)


def test_a_second_signal_ends_at_once_and_keeps_what_was_finished(tmp_path, handled):
    stopped = Signalled(3, times=2)
    with pytest.raises(signals.Stopped):
        run(tmp_path, stopped, batch_size=BATCH)
    assert stopped.passes == 2
    adapter = Signalled(None)  # of the same code: another's states are not gone on with
    with signals.handled():
        run(tmp_path, adapter, batch_size=BATCH)
    assert adapter.passes == 8


def test_the_library_leaves_handlers_alone(tmp_path):
    seen = []

    class Looking(ToyAdapter):
        def forward(self, batch, *, logits):
            seen.append([signal.getsignal(number) for number in signals.SIGNALS])
            return super().forward(batch, logits=logits)

    before = [signal.getsignal(number) for number in signals.SIGNALS]
    run(tmp_path, Looking(), limit=16)
    assert seen and all(handlers == before for handlers in seen)


COMMAND = [
    "run",
    "--model",
    "zoo-llava-untrained",
    "--tasks",
    "shapesqa",
    "--limit",
    "24",
    "--metrics",
    "anisotropy",
]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_line_exits_with_128_and_the_signal(tmp_path, monkeypatch, capfd, number, status):
    monkeypatch.chdir(tmp_path)
    capture_batch = Capture._capture_batch
    batches = []

    def one_then_a_signal(self, *args):
        os.kill(os.getpid(), number)
        batches.append(args)
        return capture_batch(self, *args)

    monkeypatch.setattr(Capture, "_capture_batch", one_then_a_signal)
    assert main(COMMAND) == status
    complaint = capfd.readouterr().err
    assert "ends after this batch" in complaint and "same command resumes" in complaint
    assert len(batches) == 1
    assert main(["ls", "stores"]) == 0
    listed = capfd.readouterr().out
    assert "8 of 24" in listed and "rm -r STORE" in listed and "in use" not in listed
    monkeypatch.setattr(Capture, "_capture_batch", capture_batch)
    assert main(COMMAND) == 0
    assert not (tmp_path / "results/.stores").exists()


def test_measuring_ends_at_once_and_the_next_run_measures_without_a_pass(tmp_path, monkeypatch, handled):
    import microscope_bench.run.pipeline as pipeline

    measure = pipeline.measure_tokens

    def signalled(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return measure(*args, **options)

    monkeypatch.setattr(pipeline, "measure_tokens", signalled)
    with pytest.raises(signals.Stopped):
        run(tmp_path)
    assert result_files(tmp_path) == []
    monkeypatch.setattr(pipeline, "measure_tokens", measure)
    adapter = ToyAdapter()
    with signals.handled():
        run(tmp_path, adapter)
    assert adapter.passes == 0
