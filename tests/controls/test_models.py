"""What the controls of models change, on real architectures."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from microscope_bench.adapters.base import PADDING, TEXT
from microscope_bench.adapters.presets import load_model
from microscope_bench.controls import Run, with_control
from microscope_bench.errors import AdapterError
from tests.toy import ToyAdapter, ToyTask

TASK = ToyTask(4)
EXAMPLES = [TASK.example(index) for index in range(4)]


@pytest.fixture(scope="module", params=["qwen2_vl", "llava_next", "zoo-omnifusion-untrained"])
def adapter(request, tiny_adapter):
    return load_model(request.param, device="cpu") if request.param.startswith("zoo-") else tiny_adapter(request.param)


def controlled(name, adapter, seed=0):
    return with_control(name, Run(adapter, TASK, 4, seed)).adapter


def test_text_tokens_are_permuted_and_nothing_else(adapter):
    before, after = adapter.encode(EXAMPLES), controlled("permuted_tokens", adapter).encode(EXAMPLES)
    assert np.array_equal(before.labels, after.labels)
    assert before.inputs.keys() == after.inputs.keys()
    for key in before.inputs.keys() - {"input_ids"}:
        assert torch.equal(before.inputs[key], after.inputs[key])
    for row in range(4):
        ids, permuted = (batch.inputs["input_ids"][row].numpy() for batch in (before, after))
        text = before.labels[row] == TEXT
        assert np.array_equal(ids[~text], permuted[~text])
        assert Counter(ids[text].tolist()) == Counter(permuted[text].tolist())
        assert (ids[text] != permuted[text]).mean() > 0.5
        assert np.array_equal(after.tokens[row], permuted[after.labels[row] != PADDING])


def test_the_permutation_hangs_on_seed_and_example_alone(adapter):
    first, again = (controlled("permuted_tokens", adapter, seed).encode(EXAMPLES) for seed in (0, 1))
    alone = controlled("permuted_tokens", adapter).encode(EXAMPLES[2:3])
    assert np.array_equal(first.tokens[2], alone.tokens[0])
    assert not np.array_equal(first.tokens[2], again.tokens[2])


def test_no_choice_is_scored_after_a_permuted_prompt(adapter):
    batch = controlled("permuted_tokens", adapter).encode(EXAMPLES[:1])
    with pytest.raises(AdapterError, match="the prompt's end is permuted"):
        controlled("permuted_tokens", adapter).choice_token_ids(batch.prompts[0], "AB")
    assert len(adapter.choice_token_ids(batch.prompts[0], "AB")) == 2, "the adapter that was given scores as before"


def test_a_model_that_reads_no_token_ids_is_refused():
    with pytest.raises(AdapterError, match=r"inputs of toy \(ids, is_image, pixels\) hold no input_ids"):
        controlled("permuted_tokens", ToyAdapter()).encode(EXAMPLES)


def test_untrained_is_the_same_model_with_other_weights(adapter):
    fresh, weights = controlled("untrained", adapter), adapter.model.state_dict()
    states = {name: tensor.clone() for name, tensor in weights.items()}
    assert (fresh.info.control, fresh.info.trained) == ("untrained", False)
    assert len(fresh.blocks()) == len(adapter.blocks())
    assert not set(map(id, fresh.blocks())) & set(map(id, adapter.blocks()))
    before, after = (one.forward(one.encode(EXAMPLES), logits=True) for one in (adapter, fresh))
    assert before.shape == after.shape and after.isfinite().all()
    assert not torch.allclose(before, after)
    assert adapter.info.control is None
    assert all(torch.equal(tensor, states[name]) for name, tensor in weights.items()), "the given one is as before"


def test_an_adapter_that_cannot_make_untrained_weights_says_so():
    with pytest.raises(AdapterError, match=r"ToyAdapter cannot make untrained weights; override fresh_weights"):
        controlled("untrained", ToyAdapter())
