"""Each way of getting an adapter wrong is caught by the check that is about it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from msgspec import structs

from microscope_bench.adapters.base import IMAGE, STRUCTURE, TEXT
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.overrides import Overrides
from microscope_bench.check import check, default_examples
from microscope_bench.errors import AdapterError


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


class HasNaNWeightsInBlock3(HFAdapter):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        torch.nn.init.constant_(next(iter(self.blocks()[2].mlp.parameters())), torch.nan)


class GivesNaNInItsSecondPass(HFAdapter):
    passes = 0

    def forward(self, batch, *, logits):
        self.passes += 1
        for name in batch.media:
            batch.inputs[name] = batch.media[name] * (torch.nan if self.passes == 2 else 1)
        return super().forward(batch, logits=logits)


class GivesNaNForOneExampleAlone(HFAdapter):
    def encode(self, examples):
        batch = super().encode(examples)
        if len(examples) == 1:
            for name in batch.media:
                batch.inputs[name] = batch.media[name] * torch.nan
        return batch


class HasANaNFinalNorm(HFAdapter):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        torch.nn.init.constant_(self.model.model.language_model.norm.weight, torch.nan)


class SaysTheModelIsLarger(HFAdapter):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.info = structs.replace(self.info, n_layers=7, hidden_size=64)


@pytest.mark.parametrize(
    ("broken", "failing"),
    [
        (HFAdapter, set()),
        (MissesTheNewlines, {"labels agree with what the media change"}),
        (CallsSomeTextImage, {"labels agree with what the media change"}),
        (HasOneLabelTooFew, {"labels cover the sequence block 1 saw"}),
        (FindsNoPicture, {"the asked modalities are found", "labels agree with what the media change"}),
        (ListsBlocksBackwards, {"boundaries come once and in order"}),
        (ListsTheVisionTower, {"labels cover the sequence block 1 saw"}),
        (ForgetsTheFirstBlock, {"boundaries equal transformers' hidden states"}),
        (LetsRowsInfluenceEachOther, {"a batch equals its examples one by one"}),
        (DrawsAtRandom, {"two runs are equal"}),
        (HasNaNWeightsInBlock3, {"states are finite"}),
        (GivesNaNForOneExampleAlone, {"a batch equals its examples one by one"}),
        (HasANaNFinalNorm, {"boundaries equal transformers' hidden states", "choices are one token each"}),
        (SaysTheModelIsLarger, {"depth and width are those of the blocks"}),
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


def test_states_that_are_not_finite_are_counted_and_nothing_is_concluded_from_them(tiny):
    report = check(HasNaNWeightsInBlock3.load({"pretrained": str(tiny("llava_next"))}, device="cpu"))
    found = {c.name: c for c in report.checks}
    finite = found["states are finite"]
    real = int(finite.seen.split(" of ")[1].split()[0])
    assert finite.seen == f"NaN or infinity at [0, 0, 0, {real}, {real}] of {real} positions, by boundary"
    assert "block 3" in finite.hint
    meaningless = {
        "labels agree with what the media change",
        "layer 0 is the input of block 1",
        "a batch equals its examples one by one",
        "two runs are equal",
        "choices are one token each",
        "boundaries equal transformers' hidden states",
    }
    assert {c.name for c in report.checks if c.status == "skipped"} == meaningless
    assert {found[name].hint for name in meaningless} == {"states are not finite"}


def test_a_pass_that_gives_nan_once_is_not_called_a_change_of_the_picture(tiny):
    report = check(GivesNaNInItsSecondPass.load({"pretrained": str(tiny("llava_next"))}, device="cpu"))
    follows = next(c for c in report.checks if c.name == "labels agree with what the media change")
    assert follows.status == "failed" and "NaN or infinity at" in follows.seen


def test_a_forgotten_block_is_seen_where_transformers_states_cannot_tell(tiny):
    class ForgetsTheLastBlock(HFAdapter):
        def blocks(self):
            return super().blocks()[:-1]

    report = check(ForgetsTheLastBlock.load({"pretrained": str(tiny("qwen3_vl"))}, device="cpu"))
    (depth,) = (c for c in report.checks if c.name == "depth and width are those of the blocks")
    assert depth.status == "failed" and depth.seen.endswith("the list they are from has 4")


def test_an_overrides_field_that_names_nothing_is_an_error_that_says_so(tiny):
    class Lost(HFAdapter):
        overrides = Overrides(stack="nowhere")

    with pytest.raises(AdapterError, match=r"has no module 'nowhere', .* Block lists: .*language_model"):
        Lost.load({"pretrained": str(tiny("llava"))}, device="cpu")
    with pytest.raises(ValueError, match="fusion 'projektor' is none of projector"):
        Overrides("projektor")


def test_depth_and_width_that_do_not_fit_are_said_with_both_numbers(tiny):
    def check_of(adapter, name):
        report = check(adapter.load({"pretrained": str(tiny("llava_next"))}, device="cpu"))
        return next(c for c in report.checks if c.name == name)

    fits = check_of(SaysTheModelIsLarger, "depth and width are those of the blocks")
    assert fits.seen == "info says 7 layers of width 64, blocks() lists 4 blocks and block 1 saw width 32"
    other = check_of(ForgetsTheFirstBlock, "boundaries equal transformers' hidden states")
    assert (
        other.status == "failed" and other.seen == "4 boundaries here, 5 in transformers" and "blocks()" in other.hint
    )


def test_the_report_reads_as_text(tiny_adapter):
    text = str(check(tiny_adapter("gpt2")))
    assert text.startswith("gpt2\n") and text.endswith("no check failed")
    assert "skipped  labels agree with what the media change" in text and "no example has a picture" in text


def test_default_examples_have_pictures_only_for_models_that_take_them():
    wide, tall = default_examples(frozenset({"text", "image"}))
    assert wide.images[0].size != tall.images[0].size and len(wide.text) != len(tall.text)
    assert not default_examples(frozenset({"text"}))[0].images
