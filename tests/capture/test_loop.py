from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import pytest
import torch

from microscope_bench.adapters.base import IMAGE, SPECIAL, TEXT
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.failing_examples import check_skipped
from microscope_bench.capture.fingerprints import probe_inputs
from microscope_bench.capture.loop import Capture
from microscope_bench.capture.store import TokenStore, writing
from microscope_bench.errors import CaptureError
from microscope_bench.protocol import named_protocol
from microscope_bench.system.processes import Processes, ProcessesError
from tests.capture.captured import FEW, by_token, captured
from tests.toy import PATCHES, ToyAdapter, ToyTask


def test_the_store_holds_what_the_model_computes_for_each_selected_token(tmp_path):
    adapter, task = ToyAdapter(), ToyTask(6)
    tokens = by_token(captured(tmp_path / "s", adapter, task))
    for index in range(6):
        batch = adapter.encode([task.example(index)])
        hidden = adapter.embedding(batch.inputs["ids"]).detach().clone()
        with torch.no_grad():
            hidden[torch.from_numpy(batch.labels == IMAGE)] = adapter.eye(batch.inputs["pixels"])
            states = [hidden]
            for layer in adapter.layers:
                states.append(layer(states[-1]))
        mine = {key[1:]: value for key, value in tokens.items() if key[0] == f"q{index}"}
        assert {modality for modality, _ in mine} == {TEXT, IMAGE}
        assert len(mine) == 8
        for (modality, position), kept in mine.items():
            assert batch.labels[0, position] == modality
            torch.testing.assert_close(kept, torch.stack([s[0, position] for s in states]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batch_size_changes_no_choice_and_hardly_a_state(tmp_path, batch_size):
    reference = by_token(captured(tmp_path / "a", batch_size=4))
    other = by_token(captured(tmp_path / "b", batch_size=batch_size))
    assert reference.keys() == other.keys()
    for key, states in reference.items():
        torch.testing.assert_close(states, other[key], rtol=1e-4, atol=1e-5)


def test_order_of_examples_changes_nothing(tmp_path):
    order = np.random.default_rng(0).permutation(20).tolist()
    reference = by_token(captured(tmp_path / "a", batch_size=1))
    shuffled = by_token(captured(tmp_path / "b", task=ToyTask(order=order), batch_size=1))
    assert reference.keys() == shuffled.keys()
    assert all(torch.equal(states, shuffled[key]) for key, states in reference.items())


@pytest.mark.parametrize("break_at", [1, 2, 4, 5])
def test_an_interrupted_capture_resumes_where_it_stopped(tmp_path, break_at):
    reference = by_token(captured(tmp_path / "a"))
    with pytest.raises(KeyboardInterrupt):
        captured(tmp_path / "b", ToyAdapter(break_at=break_at))
    adapter = ToyAdapter()
    resumed = by_token(captured(tmp_path / "b", adapter))
    assert adapter.passes == 6 - break_at, "no batch is captured again, though a part is two of them"
    assert reference.keys() == resumed.keys()
    assert all(torch.equal(states, resumed[key]) for key, states in reference.items())


def test_examples_that_cannot_be_measured_are_named_and_the_rest_is_as_if_they_were_not_there(tmp_path):
    broken = {3: "picture", 9: "untranslatable", 12: "x" * 200}
    store = captured(tmp_path / "s", ToyAdapter(context_length=100), ToyTask(20, broken=broken))
    skipped = {r.id: r.skipped for r in store.records if r.skipped}
    assert skipped == {
        "q3": "its picture does not open",
        "q9": "no token for it",
        "q12": "229 tokens exceed the model's context of 100",
    }
    tokens, reference = by_token(store), by_token(captured(tmp_path / "a"))
    assert tokens.keys() == {key for key in reference if key[0] not in skipped}
    for key, states in tokens.items():
        torch.testing.assert_close(states, reference[key], rtol=1e-4, atol=1e-5)


def test_too_many_skipped_examples_stop_the_run_also_across_a_resume(tmp_path):
    task = ToyTask(20, broken={0: "picture", 1: "picture", 17: "picture"})
    strict = named_protocol("geometry/1").with_changes(max_skipped=0.1)
    for _ in range(2):
        with pytest.raises(
            CaptureError, match=r"3 of 20 examples could not be measured, 2 may be .* First: q0, q1, q17: its picture"
        ):
            captured(tmp_path / "s", task=task, protocol=strict)


def test_a_store_is_not_taken_for_good_under_a_stricter_protocol(tmp_path):
    task = ToyTask(20, broken={0: "picture", 17: "picture"})
    captured(tmp_path / "s", task=task)
    with pytest.raises(CaptureError, match=r"2 of 20 examples could not be measured, 1 may be .* First: q0, q17: its"):
        captured(tmp_path / "s", task=task, protocol=FEW.with_changes(max_skipped=0.05))


@dataclass(frozen=True)
class Lost(Processes):
    """One process whose connection to the others is lost once ``after`` numbers were added."""

    after: int = 0

    def counter(self):
        add, asked = super().counter(), count(1)

        def lost(n):
            if n == 0 and next(asked) > self.after:
                raise ProcessesError("gone")
            return add(n)

        return lost


@pytest.mark.parametrize("after", [0, 1])
def test_what_was_captured_is_kept_where_the_other_processes_are_gone(tmp_path, after):
    store = TokenStore.open_or_create(tmp_path / "s", {}, n_examples=20, part_examples=8)
    with writing(store.path), pytest.raises(ProcessesError, match="gone"):
        Capture(ToyAdapter(), ToyTask(20), FEW, 4).fill(store, [0, 1, 2], lambda n: None, Lost(after=after))
    assert store.missing_parts() == [0, 1, 2][after + 1 :]


def test_a_part_of_which_nothing_could_be_measured_is_a_part_all_the_same(tmp_path):
    store = captured(tmp_path / "s", task=ToyTask(10, broken={8: "picture", 9: "picture"}), part_examples=8)
    store.check_complete()
    assert len(by_token(store)) == 8 * 8


def test_a_picture_that_leaves_no_image_position_is_an_error(tmp_path):
    adapter = ToyAdapter()
    encode = adapter.encode

    def mislabelled(examples):
        batch = encode(examples)
        batch.labels[batch.labels == IMAGE] = TEXT
        return batch

    adapter.encode = mislabelled
    with pytest.raises(CaptureError, match="q0 has 1 image"):
        captured(tmp_path / "s", adapter)


def test_labels_of_the_wrong_length_are_an_error(tmp_path):
    adapter = ToyAdapter()
    encode = adapter.encode

    def cut(examples):
        batch = encode(examples)
        batch.labels = batch.labels[:, :-PATCHES]
        return batch

    adapter.encode = cut
    with pytest.raises(Exception, match="block 1 saw"):
        captured(tmp_path / "s", adapter)


def test_records_count_labels_and_score_letters(tmp_path):
    adapter, task = ToyAdapter(), ToyTask(5, broken={2: "unscorable"})
    records = captured(tmp_path / "s", adapter, task).records
    assert records[0].tokens_seen == {
        "special": 1,
        "text": len(task.example(0).text) - len("<image>"),
        "image": PATCHES,
    }
    assert records[0].converted_from == ["P"]
    assert records[2].choice_logprobs is None and records[2].unscored == "two tokens"
    example = task.example(1)
    logits = adapter.forward(adapter.encode([example]), logits=True)[0]
    expected = torch.log_softmax(logits.double(), -1)[[ord(c) for c in example.choices]].tolist()
    assert records[1].choice_logprobs == pytest.approx(expected, abs=1e-5)
    assert records[1].answer == 1


def test_the_probe_depends_on_the_inputs_alone(tmp_path):
    task = ToyTask(12)
    (probe,) = {probe_inputs(ToyAdapter(), task, range(8)) for _ in range(2)}
    other = probe_inputs(ToyAdapter(), ToyTask(order=range(1, 13)), range(8))
    assert other.media_sha256 != probe.media_sha256
    assert other.inputs_sha256 != probe.inputs_sha256


@pytest.mark.parametrize("skipped", [range(0, 4), range(4, 8)], ids=["before", "after"])
def test_a_part_is_put_together_of_pieces_of_which_one_has_nothing_measured(tmp_path, skipped):
    task = ToyTask(20, broken=dict.fromkeys(skipped, "picture"))
    lenient = named_protocol("geometry/1").with_changes(tokens_per_example=4, max_skipped=0.5)
    reference = by_token(captured(tmp_path / "a", task=task, protocol=lenient))
    stop_at = {0: 1, 4: 2}[skipped.start]  # the pass after the first batch, or after the first that is measured
    with pytest.raises(KeyboardInterrupt):
        captured(tmp_path / "b", ToyAdapter(break_at=stop_at), task, protocol=lenient)
    resumed = by_token(captured(tmp_path / "b", ToyAdapter(), task, protocol=lenient))
    assert reference.keys() == resumed.keys()
    assert all(torch.equal(states, resumed[key]) for key, states in reference.items())


def test_a_begun_part_whose_task_was_edited_is_captured_anew(tmp_path):
    class Edited(ToyTask):
        def example(self, index):
            example = super().example(index)
            return replace(example, answer=0)

    with pytest.raises(KeyboardInterrupt):
        captured(tmp_path / "s", ToyAdapter(break_at=2))
    store = TokenStore(tmp_path / "s")
    capture = Capture(ToyAdapter(), Edited(20), FEW, 4)
    assert capture.outdated_parts(store, range(store.n_parts)) == [0]
    assert Capture(ToyAdapter(), ToyTask(20), FEW, 4).outdated_parts(store, range(store.n_parts)) == []


def test_an_adapter_that_labels_otherwise_has_another_fingerprint():
    class Relabelling(ToyAdapter):
        def encode(self, examples):
            batch = super().encode(examples)
            batch.labels[:, 1] = SPECIAL  # the first letter of the question
            return batch

    one, other = (probe_inputs(adapter, ToyTask(12), range(8)) for adapter in (ToyAdapter(), Relabelling()))
    assert one.media_sha256 == other.media_sha256
    assert one.inputs_sha256 != other.inputs_sha256


def test_reasons_that_are_alike_are_told_once_and_those_of_other_processes_are_pointed_to():
    protocol = named_protocol("geometry/1")
    records = [ExampleRecord(f"q{n}", skipped="no picture" if n else "odd") for n in range(6)]
    with pytest.raises(CaptureError, match=r"First: q0: odd; q1, q2, q3, \.\.\.: no picture\. Repair them"):
        check_skipped(protocol, 6, 20, records)
    with pytest.raises(CaptureError, match=r"First: those that the other processes name\. Repair"):
        check_skipped(protocol, 6, 20, [])
