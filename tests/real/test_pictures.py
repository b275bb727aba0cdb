"""SmolLM2 behind a vision tower that was never trained, on real pictures: a test of the measuring, not a finding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.real.conftest import PICTURES

pytestmark = pytest.mark.real
TOKENS = 32  # of each modality and example


@pytest.fixture(scope="module")
def run(real_run):
    return real_run(*PICTURES)


def test_the_states_are_those_that_transformers_gives_for_the_prompt(run):
    """For two questions, both modalities, at every boundary but the last, which transformers gives after its norm."""
    model, processor = run.adapter.model, run.adapter.processor
    for index in (0, 13):
        asked = run.task.example(index)
        (picture,) = asked.images
        content = [{"type": "image"}, {"type": "text", "text": asked.text.replace("<image>", "").lstrip()}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=prompt, images=picture.convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            states = model(**inputs, output_hidden_states=True).hidden_states
        for modality in ("text", "image"):
            kept = run.column("example", modality) == index
            assert kept.sum() == TOKENS
            position = run.column("position", modality)[kept]
            assert ((inputs["input_ids"][0, position] == 49152) == (modality == "image")).all()
            for layer in range(30):
                ours = run.column(f"boundary.{layer}", modality)[kept]
                theirs = states[layer][0].numpy()[position]
                assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs), (index, modality, layer)


def test_every_boundary_of_both_modalities_has_its_numbers(run):
    """But boundary 0 no intrinsic dimension: there text is a vocabulary of few distinct words."""
    for modality in ("text", "image", "joint"):
        for metric, estimator, first in (("anisotropy", "top_share", 0), ("intrinsic_dimension", "twonn_discard10", 1)):
            values = run.values(metric, estimator, None, modality)
            assert len(values) == 31 and np.isfinite(values[first:]).all(), (metric, modality)
