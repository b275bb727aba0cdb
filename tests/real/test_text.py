"""SmolLM2 on questions without pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.real
QUESTIONS = 60


@pytest.fixture(scope="module")
def run(real_run):
    return real_run("smollm2", "scienceqa_text", QUESTIONS)


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


def test_without_its_sinks_no_direction_of_the_cloud_holds_much(run):
    """With them one direction holds most of boundaries 3 to 8: few words carry coordinates of 500 medians and more."""
    every, without = (run.values("anisotropy", "top_share", None, "text", tokens) for tokens in ("all", "no_sinks"))
    assert len(every) == len(without) == 31 and np.isfinite(every).all()
    assert (every[3:9] > 0.4).all() and (without[3:9] <= 0.12).all(), (every, without)
    assert (without[12:29] < 0.15).all()
