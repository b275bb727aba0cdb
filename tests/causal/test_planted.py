"""A circuit that was put into a model by hand is found, in its blocks alone, and what no mask stops is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from msgspec import structs
from torch import Tensor, nn

from microscope_bench.causal.block_calls import BlockCall
from microscope_bench.causal.block_proof import check_blocks, check_model, prepared
from microscope_bench.causal.edges import Edge
from microscope_bench.causal.knockout import Asked, knockout
from microscope_bench.errors import AdapterError
from tests.causal.planted import ASKED, LAST, QUESTION, SEEN, Leaking, Planted, PlantedAdapter
from tests.tiny.questions import picture, question
from tests.toy import ToyAdapter, ToyTask

EDGES = ("image->question", "question->last", "image->last", "last->last", "random->question", "none->last")
EXAMPLES = [question(f"q{n}", picture(8, 8, seed=n), text="Which?" + "?" * (n % 3)) for n in range(5)]


def change(window, edges=EDGES):
    adapter = PlantedAdapter()
    batch = adapter.encode(EXAMPLES)
    got = knockout(adapter, batch, prepared(adapter, batch, Asked([Edge.read(e) for e in edges], window)))
    assert (got.base[:, 0] > -0.01).all(), "the planted model is sure of its answer"
    return dict(zip(edges, (got.blocked - got.base)[..., 0].mean(axis=-1), strict=True))


def test_a_window_of_one_block_shows_the_circuit_and_nothing_else():
    found = change(1)
    assert np.flatnonzero(np.abs(found["image->question"]) > 1e-4).tolist() == [1]
    assert np.flatnonzero(np.abs(found["question->last"]) > 1e-4).tolist() == [3]
    assert found["image->question"][1] < -1 and found["question->last"][3] < -1
    for edge in ("image->last", "last->last", "random->question", "none->last"):
        assert np.abs(found[edge]).max() < 1e-4, edge


def test_a_wider_window_shows_it_wherever_it_covers_the_block():
    found = change(3)
    assert np.flatnonzero(found["image->question"] < -1).tolist() == [0, 1, 2]
    assert np.flatnonzero(found["question->last"] < -1).tolist() == [2, 3, 4]


def test_what_flows_past_the_mask_is_refused():
    adapter = PlantedAdapter(block_5=Leaking(QUESTION, LAST, ASKED, SEEN))
    with pytest.raises(AdapterError, match=r"block 5 \(Leaking\) of planted passes something .* past its attention"):
        check_blocks(adapter, adapter.encode(EXAMPLES))


class Padded(Planted):
    """A block that takes a mask of padding alone, (B, S), and fails on another."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if attention_mask is not None:
            hidden_states = hidden_states * attention_mask[:, :, None]
        return hidden_states.cumsum(dim=1)


def test_a_block_that_fails_on_a_mask_of_pairs_is_refused():
    adapter = PlantedAdapter(block_2=Padded(QUESTION, LAST, ASKED, SEEN))
    with pytest.raises(AdapterError, match=r"block 2 \(Padded\) of planted does not read its attention mask"):
        check_blocks(adapter, adapter.encode(EXAMPLES))


def test_a_mask_of_padding_alone_is_refused():
    call = BlockCall(nn.Identity(), "block 1", (torch.zeros(1, 3, 2),), {"attention_mask": torch.ones(1, 3)})
    with pytest.raises(AdapterError, match=r"a mask of padding alone: .* recurrence"):
        call.explicit(torch.ones(1, 3, dtype=torch.bool))


def test_blocks_without_a_mask_are_refused():
    adapter, task = ToyAdapter(), ToyTask(2)
    with pytest.raises(AdapterError, match=r"block 1 \(ToyBlock\) of toy is given no attention mask"):
        check_blocks(adapter, adapter.encode([task.example(0), task.example(1)]))


def test_flash_attention_is_refused_by_name():
    adapter = PlantedAdapter()
    adapter.info = structs.replace(adapter.info, attention="flash_attention_2")
    with pytest.raises(AdapterError, match="flash_attention_2, which ignores a mask"):
        check_model(adapter)


@pytest.mark.parametrize(
    "family, said",
    [
        ("mllama", "its decoder reads the picture by cross-attention"),
        ("florence2", "is an encoder-decoder"),
        ("t5gemma2", "is an encoder-decoder"),
    ],
)
def test_where_an_edge_would_mean_something_else_it_is_refused(tiny_adapter, family, said):
    with pytest.raises(AdapterError, match=said):
        check_model(tiny_adapter(family))


def test_an_example_without_a_picture_counts_for_edges_of_text_alone():
    adapter = PlantedAdapter()
    batch = adapter.encode([EXAMPLES[0], question("blind")])
    got = knockout(adapter, batch, Asked([Edge.read("image->question"), Edge.read("question->last")], 1))
    assert (got.n_keys >= 0).tolist() == [[True, False], [True, True]]
    assert np.isnan(got.blocked[0, :, 1]).all() and np.isfinite(got.blocked[0, :, 0, 0]).all()
