from __future__ import annotations

import logging
import shutil
from collections import namedtuple
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from microscope_bench import evaluate
from microscope_bench.capture.hooks import run_pass
from microscope_bench.capture.loop import Capture
from microscope_bench.capture.mainflow import Mainflow, find_mainflow, mainflow_hooks
from microscope_bench.capture.store import TokenStore, writing
from microscope_bench.errors import MainflowError, StoreError
from microscope_bench.protocol import named_protocol
from microscope_bench.run.pipeline import store_bytes
from tests.capture.chains import chain_of
from tests.toy import LAYERS, WIDTH, ToyAdapter, ToyTask

FEW = named_protocol("geometry/1").with_changes(tokens_per_example=4, max_skipped=0.2)


class RunningMean(nn.Module):
    """Causal attention with equal weights."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden_states, past_key_values=None):
        steps = torch.arange(1, hidden_states.shape[1] + 1)[None, :, None]
        return self.mix(hidden_states.cumsum(dim=1) / steps), None


class PreNormBlock(nn.Module):
    """The usual form. ``lie`` makes the block do something else than its parts suggest."""

    def __init__(self, lie=None):
        super().__init__()
        self.lie = lie
        self.input_layernorm = nn.LayerNorm(WIDTH)
        self.self_attn = RunningMean()
        self.post_attention_layernorm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))
        if lie == "extra":
            self.gate = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden_states):
        normed = self.input_layernorm(hidden_states)
        if self.lie == "unnormed":
            normed = hidden_states
        cache = object() if self.lie == "cache" else None
        hidden_states = hidden_states + self.self_attn(hidden_states=normed, past_key_values=cache)[0]
        normed = self.post_attention_layernorm(hidden_states)
        if self.lie == "twice":
            self.mlp(normed)
        added = self.mlp(normed)
        return hidden_states + (0.99 * added if self.lie == "scaled" else added)


def pre_norm_adapter(lies=(), **options):
    """The toy model with blocks of the usual form; some of which may lie."""
    adapter = ToyAdapter(**options)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapter.layers = nn.ModuleList([PreNormBlock(dict(lies).get(layer)) for layer in range(LAYERS)])
    return adapter


def batch_of(adapter, n=3):
    task = ToyTask(n)
    return adapter.encode([task.example(i) for i in range(n)])


def captured(path, adapter=None, task=None, batch_size=4, mainflow=True):
    adapter, task = adapter or pre_norm_adapter(), task or ToyTask(20)
    capture = Capture(adapter, task, FEW, batch_size)
    chain = capture.find_mainflow() if mainflow else None
    run = {"mainflow": chain and asdict(chain)}
    store = TokenStore.open_or_create(path, run, n_examples=len(task), part_examples=8)
    with writing(store.path):
        capture.fill(store, store.missing_parts(), lambda _: None)
    return store


def by_token(store, stream="mainflow", first=1):
    """(example id, modality, position) → states of a stream, (layers, d)."""
    found, records = {}, store.records
    for part in range(store.n_parts):
        file = safe_open(store.tensor_file(part), framework="pt")
        keys = [file.get_tensor(k).tolist() for k in ("example", "modality", "position")]
        states = torch.stack([file.get_tensor(f"{stream}.{layer}") for layer in range(first, LAYERS + 1)])
        for row, (example, modality, position) in enumerate(zip(*keys, strict=True)):
            found[records[store.part_range(part).start + example].id, modality, position] = states[:, row]
    return found


def n_hooks(adapter):
    modules = [module for block in adapter.blocks() for module in block.modules()]
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("unnormed", "what enters self_attn is not what leaves input_layernorm"),
        ("scaled", "what leaves block 2 .* is not the stream with what leaves mlp added to it"),
        ("twice", "mlp ran 2 times"),
        ("cache", "self_attn was given a KV cache"),
        ("extra", "has parts beside norm, attention, norm and MLP: gate"),
    ],
)
def test_a_block_that_is_not_what_its_parts_suggest_is_refused(lie, reason):
    adapter = pre_norm_adapter(lies={1: lie})
    with pytest.raises(MainflowError, match=reason) as error:
        chain_of(adapter, batch_of(adapter))
    assert "--mainflow" in str(error.value) and "--mainflow" not in error.value.reason
    assert find_mainflow(adapter, batch_of(adapter)) == Mainflow(error.value.reason)
    assert n_hooks(adapter) == 0


@pytest.mark.parametrize("logits", [True, False])
def test_every_state_comes_once_in_order_and_nothing_else_changes(logits):
    adapter = pre_norm_adapter()
    batch = batch_of(adapter)
    if not logits:
        adapter.head.forward = lambda *_: pytest.fail("the head ran")
    seen, result = chain_of(adapter, batch, logits)
    plain = {}
    alone = run_pass(adapter, batch, lambda layer, hidden: plain.update({layer: hidden.clone()}), logits=logits)
    expected = [("boundary", 0)]
    for layer in range(1, LAYERS + 1):
        expected += [("mainflow", layer), ("boundary", layer)]
    assert list(seen) == expected
    assert all(torch.equal(seen["boundary", layer], hidden) for layer, hidden in plain.items())
    assert (result is None) if not logits else torch.equal(result, alone)
    assert n_hooks(adapter) == 0


def test_hooks_are_removed_after_an_exception():
    adapter = pre_norm_adapter()
    batch = batch_of(adapter)
    with pytest.raises(ZeroDivisionError):
        run_pass(
            adapter,
            batch,
            lambda *_: None,
            logits=True,
            beside=lambda: mainflow_hooks(adapter.blocks(), batch.labels, lambda layer, _: 1 // (2 - layer)),
        )
    assert n_hooks(adapter) == 0


def test_states_that_are_no_numbers_are_stored_as_they_are(tmp_path):
    adapter = pre_norm_adapter()
    with torch.no_grad():
        adapter.layers[1].mlp[2].bias[3] = torch.inf
    mainflow = torch.stack(list(by_token(captured(tmp_path / "s", adapter)).values()))
    assert mainflow[:, 0].isfinite().all()
    assert (mainflow[:, 1, 3] == torch.inf).all() and mainflow[:, 1, :3].isfinite().all()
    assert mainflow[:, 2].isnan().all()


def test_the_store_holds_the_chain_beside_untouched_boundaries(tmp_path):
    adapter = pre_norm_adapter()
    store = captured(tmp_path / "a", adapter)
    plain = captured(tmp_path / "b", adapter, mainflow=False)
    assert (store.mainflow, plain.mainflow) == (Mainflow(), None)
    boundaries = by_token(store, "boundary", first=0)
    for key, states in by_token(plain, "boundary", first=0).items():
        assert torch.equal(states, boundaries[key])
    assert [r.choice_logprobs for r in store.records] == [r.choice_logprobs for r in plain.records]
    tokens = by_token(store)
    for index in range(5):
        example = ToyTask(5).example(index)
        seen, _ = chain_of(adapter, adapter.encode([example]))
        labels = adapter.encode([example]).labels[0]
        mine = {key[1:]: states for key, states in tokens.items() if key[0] == example.id}
        assert len(mine) == 8
        for (modality, position), states in mine.items():
            assert labels[position] == modality
            expected = torch.stack([seen["mainflow", layer][0, position] for layer in range(1, LAYERS + 1)])
            torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_batch_size_and_order_hardly_change_a_state(tmp_path, batch_size):
    reference = by_token(captured(tmp_path / "a"))
    order = np.random.default_rng(0).permutation(20).tolist()
    other = by_token(captured(tmp_path / "b", task=ToyTask(order=order), batch_size=batch_size))
    assert reference.keys() == other.keys()
    for key, states in reference.items():
        torch.testing.assert_close(states, other[key], rtol=1e-4, atol=1e-5)


def test_an_interrupted_capture_resumes_to_the_same_states(tmp_path):
    reference = by_token(captured(tmp_path / "a"))
    with pytest.raises(KeyboardInterrupt):
        captured(tmp_path / "b", pre_norm_adapter(break_at=5))
    resumed = by_token(captured(tmp_path / "b"))
    assert reference.keys() == resumed.keys()
    assert all(torch.equal(states, resumed[key]) for key, states in reference.items())


def test_a_model_without_a_main_flow_has_its_boundaries_stored_and_the_reason(tmp_path):
    store = captured(tmp_path / "s", ToyAdapter(), ToyTask(10, broken={0: "picture"}))
    assert store.mainflow == Mainflow(
        "block 1 (ToyBlock) is not made of norm, attention, norm and MLP under the usual names, but of mix, mlp"
    )
    assert TokenStore(tmp_path / "s").mainflow == store.mainflow
    assert not any(name.startswith("mainflow") for name in list(safe_open(store.tensor_file(0), framework="pt").keys()))
    assert len(by_token(store, "boundary")) == 9 * 8


def test_what_is_written_into_the_stream_in_a_later_pass_alone_stops_the_run(tmp_path):
    class Deepstack(ToyAdapter):
        def __init__(self):
            super().__init__()
            self.layers = pre_norm_adapter().layers
            self.layers[1].register_forward_pre_hook(lambda _, args: (args[0] + (self.passes > 2),))

    with pytest.raises(MainflowError, match=r"what enters block 2 .* Run it without --mainflow"):
        captured(tmp_path / "s", Deepstack())


def test_the_chain_is_counted_in_the_size_of_the_store():
    shape = {"n_boundaries": 9, "hidden_size": 5, "dtype": torch.float16}
    assert store_bytes(6, **shape) == 6 * 9 * 5 * 2
    assert store_bytes(6, **shape, mainflow=True) == 6 * (9 + 8) * 5 * 2


def test_evaluate_asks_for_it(tmp_path, caplog):
    options = {"metrics": "anisotropy", "progress": False, "keep_store": True, "mainflow": True}
    evaluate(pre_norm_adapter(), ToyTask(20), store=tmp_path / "a", **options)
    assert TokenStore(tmp_path / "a").has_mainflow
    with caplog.at_level(logging.WARNING):
        evaluate(ToyAdapter(), ToyTask(20), store=tmp_path / "b", **options)
    assert "mainflow is left out: block 1 (ToyBlock)" in caplog.text


def test_a_result_with_the_chain_is_another_than_one_without(tmp_path):
    options = {"metrics": "linearity", "progress": False, "output_path": tmp_path}
    with_chain = evaluate(pre_norm_adapter(), ToyTask(30), mainflow=True, **options)
    without = evaluate(pre_norm_adapter(), ToyTask(30), **options)
    assert {score.stream for score in with_chain.scores} - {score.stream for score in without.scores} == {"mainflow"}
    assert with_chain.short_id != without.short_id
    assert len(list(tmp_path.rglob("toy_task*.json"))) == 2, "neither takes the other's place"
    assert with_chain.identity.metrics == {"linearity": 1, "linearity.mainflow": 1}


def test_the_first_example_with_a_medium_and_the_first_without_decide(tmp_path):
    class Deepstack(ToyAdapter):
        """Writes into the stream where there are pictures."""

        def __init__(self):
            super().__init__()
            self.layers = pre_norm_adapter().layers
            self.layers[1].register_forward_pre_hook(lambda _, args: (args[0] + self.has_pictures,))

        def forward(self, batch, *, logits):
            self.has_pictures = bool(batch.media)
            return super().forward(batch, logits=logits)

    class TextFirst(ToyTask):
        def example(self, index):
            example = super().example(index)
            return replace(example, images=(), text=example.text.replace("<image>", "")) if index < 3 else example

    store = captured(tmp_path / "s", Deepstack(), TextFirst(10))
    assert "what enters block 2" in store.mainflow.missing_because


def test_a_disk_that_holds_the_boundaries_alone_is_too_small_for_the_chain(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    free = 20 * 32 * 2 * (LAYERS + 2) * WIDTH * 4
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free, 0, free))
    options = {"metrics": "anisotropy", "progress": False}
    evaluate(pre_norm_adapter(), ToyTask(20), **options)
    with pytest.raises(StoreError, match="--store"):
        evaluate(pre_norm_adapter(), ToyTask(20), mainflow=True, **options)
