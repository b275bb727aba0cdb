"""Attention knockout against a second implementation, and what a cut must and must not change."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from microscope_bench.adapters.base import IMAGE
from microscope_bench.adapters.evaluation_mode import evaluation_mode
from microscope_bench.adapters.in_memory import in_memory
from microscope_bench.causal.block_proof import prepared
from microscope_bench.causal.edges import Edge, cut_of
from microscope_bench.causal.knockout import Asked, knockout, windows
from microscope_bench.causal.reentry import Blocked, Reentry
from microscope_bench.errors import MicroscopeError
from microscope_bench.protocol import FLOW_PROTOCOL, PROTOCOLS
from tests.causal.second import second_knockout
from tests.tiny import families
from tests.tiny.questions import PICTURE_QUESTIONS, picture, question

EDGES = tuple(map(Edge.read, ("image->question", "question->last", "random->last")))
EIGHT = tuple(
    question(f"q{n}", picture(30 + 9 * n, 60 - 5 * n, seed=n), text=f"Which {'of them ' * (n % 3)}is it?")
    for n in range(8)
)


@functools.cache
def adapter_of(family):
    model, processor = getattr(families, family)()
    return in_memory(model, processor, {})


def knocked_out(adapter, batch, edges=EDGES, window=3):
    with evaluation_mode(adapter):
        return knockout(adapter, batch, prepared(adapter, batch, Asked(edges, window, seed=0)))


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3", "paligemma", "blip_2"])
def test_equals_a_second_implementation(family):
    adapter = adapter_of(family)
    found = {}
    for name, side, examples in (("one", "right", EIGHT[:1]), ("right", "right", EIGHT), ("left", "left", EIGHT)):
        on_side = adapter.padded(side)
        batch = on_side.encode(examples)
        got = found[name] = knocked_out(on_side, batch)
        labels = Reentry(on_side, batch, {0}).labels
        for number, edge in enumerate(EDGES):
            pairs = cut_of(edge, labels, batch.ids, 0).pairs
            with evaluation_mode(on_side):
                expected = second_knockout(on_side, batch, pairs, windows(4, 3))
            assert got.base[:, 0] == pytest.approx(expected[0], abs=1e-5)
            assert got.blocked[number, ..., 0] == pytest.approx(expected[1:], abs=1e-5)
    assert np.abs(found["right"].blocked - found["right"].base).max() > 1e-2
    assert found["left"].blocked == pytest.approx(found["right"].blocked, abs=1e-5)
    assert found["one"].blocked[:, :, 0] == pytest.approx(found["right"].blocked[:, :, 0], abs=1e-5)


@pytest.mark.parametrize("family", ["llava", "internvl", "idefics3"])
def test_a_picture_cut_off_everywhere_is_one_that_no_text_may_see(family):
    adapter = adapter_of(family)
    batch = adapter.encode(EIGHT[:1])
    with evaluation_mode(adapter):
        reentry = Reentry(adapter, batch, {0})
        pairs = cut_of(Edge.read("image->rest"), reentry.labels, batch.ids, 0).pairs
        got = reentry.blocked(Blocked("image->rest", torch.from_numpy(pairs), range(4)))
        allowed = np.tril(np.ones(pairs.shape[1:], dtype=bool)) & ~pairs
        mask = torch.where(torch.from_numpy(allowed), 0.0, torch.finfo(torch.float32).min)[:, None]
        expected = adapter.model(**{**batch.inputs, "attention_mask": mask}, use_cache=False).logits[:, -1]
    got, expected, base = (x.double().log_softmax(dim=-1) for x in (got, expected, reentry.logits))
    assert got.numpy() == pytest.approx(expected.detach().numpy(), abs=1e-5)
    assert (got - base).abs().max() > 1e-2


@pytest.mark.parametrize(
    "family, copies",
    [("llava", True), ("qwen3_vl", True), ("gemma3", True), ("blip_2", True), ("gpt2", True), ("paligemma", False)],
)
def test_edges_to_the_last_position_go_by_copies_of_it_where_nobody_else_reads_it(family, copies):
    adapter = adapter_of(family)
    batch = adapter.encode([question("a"), question("b", text="Which is it?")] if family == "gpt2" else EIGHT[:3])
    edges = [Edge.read("question->last"), Edge.read("last->last")]
    with evaluation_mode(adapter):
        asked = prepared(adapter, batch, Asked(edges, 3))
        assert asked.copies is copies and not asked.whole
        got = knockout(adapter, batch, asked)
        expected = knockout(adapter, batch, replace(asked, copies=False))
    assert got.blocked == pytest.approx(expected.blocked, abs=1e-5)


def test_a_model_that_scales_its_stream_between_blocks_takes_no_copies():
    adapter, edge = in_memory(*families.llava(), {}), EDGES[1]
    adapter.blocks()[2].register_forward_hook(lambda block, args, output: output * 3)
    batch = adapter.encode(EIGHT[:2])
    with evaluation_mode(adapter):
        assert not prepared(adapter, batch, Asked([edge], 3)).copies
    found = knocked_out(adapter, batch, [edge])
    pairs = cut_of(edge, Reentry(adapter, batch, {0}).labels, batch.ids, 0).pairs
    with evaluation_mode(adapter):
        expected = second_knockout(adapter, batch, pairs, windows(4, 3))
    assert found.blocked[0, ..., 0] == pytest.approx(expected[1:], abs=1e-5)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3"])
def test_an_empty_edge_changes_nothing_to_the_last_bit(family):
    adapter = adapter_of(family)
    got = knocked_out(adapter, adapter.encode(EIGHT[:3]), [Edge.read("none->question")], window=1)
    assert (got.blocked == got.base).all()
    assert got.n_keys.tolist() == [[0, 0, 0]]


def test_the_base_is_the_model_as_it_is():
    adapter = adapter_of("llava")
    batch = adapter.encode(EIGHT)
    with evaluation_mode(adapter):
        native = adapter.forward(batch, logits=True).double().log_softmax(dim=-1)
    got = knocked_out(adapter, batch, EDGES[:1])
    assert got.base[:, 0] == pytest.approx(native.max(dim=-1).values.numpy(), abs=1e-6)
    assert got.own.tolist() == native.argmax(dim=-1).tolist()


def test_everything_is_as_before_after_an_exception():
    adapter = adapter_of("llava")
    batch = adapter.encode(PICTURE_QUESTIONS)
    parts = [vars(module).get("forward") for module in adapter.model.modules()]
    reentry = Reentry(adapter, batch, {0})
    before = adapter.forward(batch, logits=True)
    handle = adapter.blocks()[2].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
    nothing = Blocked("", torch.zeros(2, *batch.labels.shape[1:] * 2, dtype=torch.bool), range(1, 2))
    for broken in (lambda: reentry.blocked(nothing), lambda: Reentry(adapter, batch, {0})):
        with pytest.raises(ZeroDivisionError):
            broken()
        assert [vars(module).get("forward") for module in adapter.model.modules()] == parts
    handle.remove()
    assert torch.equal(adapter.forward(batch, logits=True), before)


def test_choices_are_read_in_the_same_passes():
    adapter = adapter_of("llava")
    batch = adapter.encode(EIGHT[:2])
    asked = Asked(EDGES[:1], 3)
    with evaluation_mode(adapter):
        got = knockout(adapter, batch, asked, [[5, 6], [7]])
        logprobs = Reentry(adapter, batch, {0}).logits.double().log_softmax(dim=-1)
    assert got.base[0, 1:] == pytest.approx(logprobs[0, [5, 6]].numpy())
    assert got.base[1, 1] == pytest.approx(float(logprobs[1, 7])) and np.isnan(got.base[1, 2])
    assert got.blocked.shape == (1, 4, 2, 3)


def test_blocks_before_a_window_and_the_vision_tower_do_not_run_again():
    adapter = adapter_of("llava")
    batch = adapter.encode(EIGHT[:1])
    ran = []
    hooks = [
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, part in [
            *((n, block.self_attn) for n, block in enumerate(adapter.blocks())),
            ("tower", next(m for m in adapter.model.modules() if "VisionModel" in type(m).__name__).encoder),
        ]
    ]
    with evaluation_mode(adapter):
        knockout(adapter, batch, Asked(EDGES[:1], 1))
    for hook in hooks:
        hook.remove()
    assert ran == ["tower", 0, 1, 2, 3, 0, 1, 2, 3, 1, 2, 3, 2, 3, 3]


def test_a_curve_of_four_edges_costs_less_than_six_tenths_of_as_many_passes():
    adapter = adapter_of("llava")
    batch = adapter.encode(EIGHT[:2])
    positions = []
    hooks = [
        block.register_forward_pre_hook(lambda _, args, kwargs: positions.append(args[0].shape[1]), with_kwargs=True)
        for block in (part.self_attn.o_proj for part in adapter.blocks())
    ]
    edges = [Edge.read(name) for name in PROTOCOLS[FLOW_PROTOCOL].edges]
    with evaluation_mode(adapter):
        asked = prepared(adapter, batch, Asked(edges, 3))
        positions.clear()
        knockout(adapter, batch, asked)
    for hook in hooks:
        hook.remove()
    passes = sum(positions) / (4 * batch.labels.shape[1])
    assert passes < 0.6 * 4 * 4


@pytest.mark.parametrize("window, said", [(5, "wider than the model, which has 4"), (2, "odd"), (0, "odd")])
def test_a_window_that_cannot_be_is_refused(window, said):
    with pytest.raises(MicroscopeError, match=said):
        windows(4, window)


def test_a_query_that_could_read_nothing_is_told():
    adapter = adapter_of("paligemma")
    batch = adapter.encode(EIGHT[:1])
    assert batch.labels[0, 0] == IMAGE
    pairs = torch.zeros(1, *batch.labels.shape[1:] * 2, dtype=torch.bool)
    pairs[0, 0] = True
    with pytest.raises(MicroscopeError, match=r"image->image leaves position 0 nothing .* block 1 .* cut another edge"):
        Reentry(adapter, batch, {0}).blocked(Blocked("image->image", pairs, range(1)))
