"""A token that several examples share is one token: it weighs once, and lies in one fold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from microscope_bench.adapters.base import LABELS
from microscope_bench.capture.loop import Capture
from microscope_bench.capture.store import TokenStore
from microscope_bench.measure.tokens import StoredTokens
from microscope_bench.metrics.registry import METRICS
from microscope_bench.protocol import named_protocol
from tests.measure.stores import CPU, distinct_rows, measurement_of, noise, noise_layers, write_store
from tests.toy import LAYERS, ToyAdapter, ToyTask

PROTOCOL = named_protocol("geometry/1")


def copied_store(path, n_examples=40, each=10, shared=4):
    """The first tokens of every example are those of all; behind them no two are the same."""
    prefix = torch.arange(n_examples * each).reshape(n_examples, each)
    prefix[:, :shared] = torch.arange(shared)
    layers = noise_layers(n_examples * each, 6, 3)
    for layer in layers:
        layer.view(n_examples, each, 6)[:, :shared] = layer.view(n_examples, each, 6)[:1, :shared].clone()
    return write_store(path, {"text": layers}, each, prefix=prefix.flatten())


def test_one_copy_stands_for_all_and_a_hash_chooses_it(tmp_path):
    store = copied_store(tmp_path / "s")
    tokens = StoredTokens(store, PROTOCOL, CPU)
    assert sorted(tokens.row.tolist()) == sorted(distinct_rows(store, PROTOCOL.seed)[0])
    assert len(tokens.row) == 40 * 6 + 4 and tokens.copies == {"text": 39 * 4}
    keys = tokens.keys(1, np.arange(len(tokens.row)))
    assert len(torch.unique(keys)) == len(keys)


def test_a_half_has_its_own_copies(tmp_path):
    store = copied_store(tmp_path / "s")
    whole = StoredTokens(store, PROTOCOL, CPU)
    for odd in (0, 1):
        half = whole.of_examples(np.arange(40) % 2 == odd)
        names = {record.id for record in half.records[odd::2]}
        assert sorted(half.row.tolist()) == sorted(distinct_rows(store, PROTOCOL.seed, names)[0])
        assert half.copies == {"text": 19 * 4}
    assert len(whole.row) == 244, "the whole stays what it is"


def test_copies_do_not_come_first_in_a_sample(tmp_path):
    """The smallest of a hundred hashes is small: by it a shared token would be in every sample."""
    tokens = StoredTokens(copied_store(tmp_path / "s", n_examples=100, each=20, shared=10), PROTOCOL, CPU)
    prefix = tokens.keys(1, tokens.in_random_order(tokens.of("text"))).numpy()
    places = np.flatnonzero(prefix < 10) / len(prefix)
    assert len(places) == 10 and 0.2 < places.mean() < 0.8


def test_copies_weigh_nothing(tmp_path):
    """Every metric gives of a store with copies what it gives of the distinct tokens alone."""
    store = copied_store(tmp_path / "s")
    found = measurement_of(store, PROTOCOL, ["linearity", "anisotropy"], n_layers=2)
    tensors, kept = store.begun_tensors(0), sorted(distinct_rows(store, PROTOCOL.seed)[0])
    alone = TokenStore.open_or_create(tmp_path / "alone", {}, n_examples=40, part_examples=40)
    alone.write_part(0, {name: tensor[kept].clone() for name, tensor in tensors.items()}, store.records)
    expected = measurement_of(alone, PROTOCOL, ["linearity", "anisotropy"], n_layers=2)
    assert found.scores == expected.scores and found.sinks == expected.sinks
    assert found.copies == {"text": 39 * 4} and expected.copies == {"text": 0}
    assert {score.n_tokens for score in found.scores} == {244}


def test_linearity_of_noise_is_not_what_its_copies_make_of_it(tmp_path):
    """Nine of ten tokens are copies: a map that is tested on what it was fitted on explains them."""
    store = copied_store(tmp_path / "s", n_examples=60, each=40, shared=36)
    (score,) = [
        s
        for s in measurement_of(store, PROTOCOL, ["linearity"], n_layers=2).scores
        if (s.estimator, s.stream, s.tokens, s.layer) == ("held_out", "hidden", "all", 1)
    ]
    assert score.n_tokens == 60 * 4 + 36 and score.value < 0.1


def test_nothing_but_copies_gives_null_with_a_reason(tmp_path):
    states = [noise(5, 6, layer).repeat(30, 1) for layer in range(3)]
    same = torch.arange(5).repeat(30)
    store = write_store(tmp_path / "s", {"text": states}, 5, origin=same, prefix=same)
    names = tuple(METRICS)
    found = measurement_of(store, PROTOCOL, names, n_layers=2)
    assert found.copies == {"text": 145}
    assert all((score.value is None) == (score.reason is not None) for score in found.scores)
    assert all(score.n_tokens <= 5 for score in found.scores)
    fitted = [s for s in found.scores if s.metric == "linearity" and s.estimator in ("held_out", "adjusted")]
    assert fitted and all(score.value is None for score in fitted)
    one = write_store(
        tmp_path / "one", {"text": [x[:1].repeat(30, 1) for x in states]}, 1, prefix=torch.zeros(30, dtype=torch.int64)
    )
    for score in measurement_of(one, PROTOCOL, names, n_layers=2).scores:
        assert score.n_tokens <= 1 and (score.value is None) == (score.reason is not None)


class Alike(ToyTask):
    """Every question begins with the same words."""

    def example(self, index):
        return replace(super().example(index), text="Look well. " + super().example(index).text)


class OnePicture(ToyTask):
    """Every question is about the same picture, which stands behind it in the sequence, or before it."""

    def example(self, index):
        return replace(super().example(index), images=super().example(0).images, text=f"<image>{index % 3}")


def captured(path, task, *, batch_size=4, part_examples=16, adapter=None):
    store = TokenStore.open_or_create(path, {}, n_examples=len(task), part_examples=part_examples)
    Capture(adapter or ToyAdapter(), task, PROTOCOL, batch_size).fill(store, store.missing_parts(), lambda n: None)
    return store


def test_neither_order_nor_parts_nor_batches_choose_the_copy(tmp_path):
    few = PROTOCOL.with_changes(id_tokens=50)
    order = np.random.default_rng(1).permutation(40).tolist()
    metrics = ["linearity", "anisotropy", "intrinsic_dimension"]
    first = measurement_of(captured(tmp_path / "a", Alike(40), batch_size=1), few, metrics, n_layers=LAYERS)
    assert first.copies["text"] > 40 * 5
    other = captured(tmp_path / "b", Alike(order=order), batch_size=1, part_examples=7)
    assert measurement_of(other, few, metrics, n_layers=LAYERS) == first
    batched = measurement_of(captured(tmp_path / "c", Alike(40), batch_size=8), few, metrics, n_layers=LAYERS)
    assert batched.copies == first.copies
    for mine, theirs in zip(first.scores, batched.scores, strict=True):
        assert (mine.n_tokens, mine.reason) == (theirs.n_tokens, theirs.reason)
        assert mine.value is None or mine.value == pytest.approx(theirs.value, rel=1e-4)


def test_one_picture_for_all_questions_is_measured_once(tmp_path):
    """Three questions, fifty times: all of their tokens are copies but those of one each."""
    store = captured(tmp_path / "s", OnePicture(50))
    found = measurement_of(store, PROTOCOL, tuple(METRICS), n_layers=LAYERS)
    tokens = StoredTokens(store, PROTOCOL, CPU)
    assert np.bincount(tokens.modality)[LABELS.index("text")] == 3
    assert len(tokens.modality) == 3 + 3 * 6 and tokens.n_folds == 1
    assert {score.modality for score in found.scores} == {"text", "image", "joint"}
    assert all((score.value is None) == (score.reason is not None) for score in found.scores)
