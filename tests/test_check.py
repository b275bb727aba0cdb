"""Each way of getting an adapter wrong is caught by the check that is about it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from microscope_bench.adapters.base import IMAGE, STRUCTURE, TEXT
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.check import check, default_examples


class MissesTheNewlines(HFAdapter):
    def refine_labels(self, batch, boundary0):
        return batch.labels


class CallsSomeTextImage(HFAdapter):
    def refine_labels(self, batch, boundary0):
        labels = super().refine_labels(batch, boundary0).copy()
        labels[labels == STRUCTURE] = TEXT
        row, column = np.argwhere(labels == TEXT)[-1]
        labels[row, column] = IMAGE
        return labels


class HasOneLabelTooFew(HFAdapter):
    def encode(self, examples):
        batch = super().encode(examples)
        batch.labels = batch.labels[:, :-1]
        return batch

    def check_labels(self, batch, boundary0):
        pass


class FindsNoPicture(HFAdapter):
    def refine_labels(self, batch, boundary0):
        return np.where(batch.labels == IMAGE, TEXT, batch.labels)


class ListsBlocksBackwards(HFAdapter):
    def blocks(self):
        return super().blocks()[::-1]


class ListsTheVisionTower(HFAdapter):
    def blocks(self):
        return list(self.model.model.vision_tower.encoder.layers)[:-1]


class ForgetsTheFirstBlock(HFAdapter):
    def blocks(self):
        return super().blocks()[1:]


class LetsRowsInfluenceEachOther(HFAdapter):
    def encode(self, examples):
        batch = super().encode(examples)
        for name in batch.media:
            batch.inputs[name] = batch.media[name] * len(examples)
        return batch


class DrawsAtRandom(HFAdapter):
    def forward(self, batch, *, logits):
        for name in batch.media:
            batch.inputs[name] = batch.media[name] + 1e-3 * torch.randn_like(batch.media[name])
        return super().forward(batch, logits=logits)


class LeavesAHook(HFAdapter):
    def forward(self, batch, *, logits):
        self.blocks()[0].register_forward_hook(lambda *_: None)
        return super().forward(batch, logits=logits)


class GivesEveryChoiceOneToken(HFAdapter):
    def choice_token_ids(self, prompt, choices):
        return [5] * len(choices)


class GivesNoLogits(HFAdapter):
    def forward(self, batch, *, logits):
        super().forward(batch, logits=logits)


@pytest.mark.parametrize(
    ("broken", "failing"),
    [
        (HFAdapter, set()),
        (MissesTheNewlines, {"labels agree with what the picture changes"}),
        (CallsSomeTextImage, {"labels agree with what the picture changes"}),
        (HasOneLabelTooFew, {"labels cover the sequence block 1 saw"}),
        (FindsNoPicture, {"the asked modalities are found", "labels agree with what the picture changes"}),
        (ListsBlocksBackwards, {"boundaries come once and in order"}),
        (ListsTheVisionTower, {"labels cover the sequence block 1 saw"}),
        (ForgetsTheFirstBlock, {"boundaries equal transformers' hidden states"}),
        (LetsRowsInfluenceEachOther, {"a batch equals its examples one by one"}),
        (DrawsAtRandom, {"two runs are equal"}),
        (LeavesAHook, {"hooks are removed after an exception"}),
        (GivesEveryChoiceOneToken, {"choices are one token each"}),
        (GivesNoLogits, {"examples can be encoded and run"}),
    ],
)
def test_a_broken_adapter_fails_its_check(broken, failing, tiny):
    report = check(broken.load({"pretrained": str(tiny("llava_next"))}, device="cpu"))
    failed = {c.name for c in report.checks if c.status == "failed"}
    assert failing <= failed if failing else not failed, str(report)
    assert report.passed == (not failing)
    assert all(c.hint for c in report.checks if c.status == "failed")


def test_the_report_reads_as_text(tiny_adapter):
    text = str(check(tiny_adapter("gpt2")))
    assert text.startswith("gpt2\n") and text.endswith("no check failed")
    assert "skipped  labels agree with what the picture changes" in text and "no example has a picture" in text


def test_default_examples_have_pictures_only_for_models_that_take_them():
    wide, tall = default_examples(frozenset({"text", "image"}))
    assert wide.images[0].size != tall.images[0].size and len(wide.text) != len(tall.text)
    assert not default_examples(frozenset({"text"}))[0].images
