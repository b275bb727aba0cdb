"""SmolLM2 on questions without pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.real.conftest import TEXT

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def run(real_run):
    return real_run(*TEXT)


def test_the_states_are_those_that_transformers_gives_for_the_prompt(run):
    """For three questions, at every boundary but the last, which transformers gives after the final norm."""
    model, tokenizer = run.adapter.model, run.adapter.tokenizer
    example, position = run.column("example", "text"), run.column("position", "text")
    for index in (0, 7, 31):
        turn = {"role": "user", "content": run.task.example(index).text}
        prompt = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
        with torch.no_grad():
            states = model(**tokenizer(prompt, return_tensors="pt"), output_hidden_states=True).hidden_states
        kept = example == index
        assert kept.sum() == 32
        for layer in range(30):
            ours, theirs = run.column(f"boundary.{layer}", "text")[kept], states[layer][0].numpy()[position[kept]]
            assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs), (index, layer)


def test_no_token_of_the_template_is_among_the_measured(run):
    """The system prompt that the template writes, role names, and the line ends around them."""
    tokenizer = run.adapter.tokenizer
    example, position = run.column("example", "text"), run.column("position", "text")
    for index in range(TEXT[2]):
        text = run.task.example(index).text
        turn = {"role": "user", "content": text}
        prompt = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
        begin = prompt.index(text)
        spans = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        kept = [spans[place] for place in position[example == index]]
        assert kept and all(begin <= start < end <= begin + len(text) for start, end in kept), index
    seen = run.result.inputs.tokens_seen
    assert run.result.identity.model.template == "separated" and seen["template"] == 25 * TEXT[2]


def test_a_token_that_several_questions_share_is_measured_once(run):
    prefix = run.column("prefix", "text")
    distinct = len(np.unique(prefix))
    assert run.result.inputs.copies == {"text": len(prefix) - distinct} and distinct < len(prefix)
    (score,) = [s for s in run.result.series("anisotropy", "top_share", None, "text") if s.layer == 1]
    assert score.n_tokens == distinct


def test_without_its_sinks_no_direction_of_the_cloud_holds_much(run):
    """With them one direction holds most of boundaries 3 to 8: few words carry coordinates of 500 medians and more."""
    every, without = (run.values("anisotropy", "top_share", None, "text", tokens) for tokens in ("all", "no_sinks"))
    assert len(every) == len(without) == 31 and np.isfinite(every).all()
    assert (every[3:9] > 0.4).all() and (without[3:9] <= 0.12).all(), (every, without)
    assert (without[12:29] < 0.15).all()
