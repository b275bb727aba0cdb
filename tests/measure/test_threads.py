"""Boundaries that are measured at the same time: the same scores, one error, no waiting after an interruption."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from microscope_bench.measure import scores
from microscope_bench.measure.memory_budget import threads_for
from microscope_bench.measure.tokens import StoredTokens
from microscope_bench.metrics.core.workspace import Workspace
from microscope_bench.protocol import named_protocol
from microscope_bench.system.threads import in_threads
from tests.measure.stores import measurement_of, noise_layers, write_store

PROTOCOL = named_protocol("geometry/1").with_changes(tokens_per_example=8, id_tokens=32)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    states = {"text": noise_layers(160, 6, 5), "image": noise_layers(160, 6, 5, seed=1)}
    return write_store(tmp_path_factory.mktemp("threads") / "s", states, 8)


@pytest.mark.parametrize("n", [2, 3, 9])
def test_any_number_of_threads_gives_the_same_scores(store, monkeypatch, n):
    names = ["linearity", "intrinsic_dimension", "anisotropy", "cka"]
    alone = measurement_of(store, PROTOCOL, names, n_layers=4)
    used = set()
    measured = scores._modality_scores

    def noted(*args):
        used.add(threading.get_ident())
        return measured(*args)

    monkeypatch.setattr(scores, "threads_for", lambda tokens: n)
    monkeypatch.setattr(scores, "_modality_scores", noted)
    assert measurement_of(store, PROTOCOL, names, n_layers=4) == alone
    assert len(used) == min(n, 4) and threading.get_ident() not in used


def test_the_shares_are_all_boundaries_in_order():
    for n_layers in range(7):
        for n in range(1, 9):
            runs = scores.shares(n_layers, n)
            assert len(runs) == n and [layer for run in runs for layer in run] == list(range(n_layers + 1))


def test_one_thread_where_memory_is_bounded_or_the_model_is_wide(store, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    tokens = StoredTokens(store, PROTOCOL, CPU)
    assert threads_for(tokens) == 4
    tokens.dim = 768
    assert threads_for(tokens) == 3
    tokens.dim = 4096
    assert threads_for(tokens) == 1
    tokens.dim, tokens.workspace = 2048, Workspace(kept=False)
    assert threads_for(tokens) == 2
    tokens.dim, tokens.workspace = 6, Workspace(rows_per_chunk=100)
    assert threads_for(tokens) == 1


def test_each_thread_computes_with_one_core_and_the_caller_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert in_threads([1, 2, 3], lambda job, go_on: (job, torch.get_num_threads())) == [(1, 1), (2, 1), (3, 1)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_first_error_reaches_the_caller_and_ends_the_others():
    ended = threading.Event()

    def work(job, go_on):
        if job == 1:
            raise OSError("damaged")
        try:
            for _ in range(500):
                go_on()
                time.sleep(0.01)
        finally:
            ended.set()

    with pytest.raises(OSError, match="damaged"):
        in_threads([0, 1], work)
    assert ended.wait(2)
