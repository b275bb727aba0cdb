"""Text is what the task wrote; what the chat template wrote around it is label template."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from microscope_bench.adapters.base import PADDING, TEMPLATE, TEXT
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.pinned_checkpoint import Checkpoint
from microscope_bench.adapters.template_words import aligned, own_characters, own_tokens
from microscope_bench.check import check, default_examples
from microscope_bench.errors import MicroscopeError
from microscope_bench.example import Example
from tests.tiny.models import tiny_model

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BARE = "{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}assistant"
TURNS = (("system", "Be brief."), ("user", "One? "), ("assistant", "Yes"), ("user", "user and\nassistant:"))


def tokenizer_of(template, *, merged=()):
    """A byte-level BPE that has merges inside words and, where ``merged`` asks for them, over borders too."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not merged)
    bpe.decoder = decoders.ByteLevel()
    words = [*merged] * 50 or ["system user assistant You are kind. Which of them is it? brief Answer: One Yes"] * 5
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(words, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=template, pad_token="<pad>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return fast


def adapter_of(tokenizer):
    model = tiny_model("llama", tokenizer)
    return HFAdapter(model, tokenizer, None, Checkpoint(Path(), "tiny", "sha256-" + "0" * 16))


def labelled(adapter, example):
    """What is labelled text and what template, decoded token by token."""
    batch = adapter.encode([example])
    return [
        [adapter.tokenizer.decode([int(i)]) for i in batch.tokens[0][batch.labels[0] == label]]
        for label in (TEXT, TEMPLATE)
    ]


def test_every_token_of_the_task_is_text_and_no_other():
    text, template = labelled(adapter_of(tokenizer_of(CHATML)), Example("x", "Which of them is it?\nA. user\nAnswer:"))
    assert "".join(text) == "Which of them is it?\nA. user\nAnswer:"
    assert "".join(template) == "system\nYou are kind.\nuser\n\nassistant\n"


def test_turns_are_the_tasks_own_a_system_instruction_too():
    text, template = labelled(adapter_of(tokenizer_of(CHATML)), Example("x", "plain", turns=TURNS))
    assert "".join(text) == "".join(content for _, content in TURNS)
    assert "".join(template) == "system\n\nuser\n\nassistant\n\nuser\n\nassistant\n"


@pytest.mark.parametrize("kept", [True, False])
def test_a_token_on_the_border_is_the_tasks_if_it_holds_a_letter_of_it(kept):
    """One token spans the role and the first word, another one the last blank and the role that follows."""
    fast = tokenizer_of(BARE, merged=["userWh", "Qx assis"])
    own = own_characters(lambda mark: "user" + mark("Which Qx ") + "assistant", "userWhich Qx assistant")
    assert "".join(c for c, mine in zip("userWhich Qx assistant", own, strict=True) if mine) == "Which Qx "
    ids, mine = own_tokens(fast, "userWhich Qx assistant", own)
    pieces = [fast.decode([i]) for i in ids]
    first = next(i for i, piece in enumerate(pieces) if "W" in piece)
    assert pieces[first] == "userWh" and mine[first]
    last = pieces.index("Qx assis")
    assert mine[: last + 1].all() and not mine[last + 1 :].any(), pieces
    text, _ = labelled(adapter_of(fast), Example("x", "Which Qx " if kept else "Which Qx"))
    assert text[0] == "userWh" and "".join(text).startswith("userWhich Qx")


def test_marks_are_inside_where_the_template_strips():
    fast = tokenizer_of(CHATML.replace("m.content", "m.content | trim"))
    text, template = labelled(adapter_of(fast), Example("x", "\n Which of them? \n\n"))
    assert "".join(text) == "Which of them?"
    assert "".join(template) == "system\nYou are kind.\nuser\n\nassistant\n"


def test_own_characters_of_words_that_the_template_has_too():
    def render(mark):
        return f"user {mark('user')} user{mark('')} {mark(' user ')}"

    own = own_characters(render, render(str))
    assert np.flatnonzero(own).tolist() == [5, 6, 7, 8, *range(15, 21)]


@pytest.mark.parametrize(
    "content",
    ["m.content[:6]", "m.content | upper", "'Why?'", "m.content * 2", "m.content[:6] ~ m.content"],
)
@pytest.mark.parametrize("slow", [False, True])
def test_a_question_that_does_not_stand_whole_and_once_is_refused(content, slow):
    template = CHATML.replace("m.content", content)
    adapter = adapter_of(ByT5Tokenizer(chat_template=template) if slow else tokenizer_of(template))
    with pytest.raises(MicroscopeError, match=r"changes the question.*use_chat_template=false"):
        adapter.encode([Example("x", "Which one? user")])
    assert adapter.with_template(False).encode([Example("x", "Which one? user")]).prompts == ("Which one? user",)


def test_a_slow_tokenizer_cannot_tell_and_says_so():
    slow = ByT5Tokenizer(chat_template=BARE)
    adapter = adapter_of(slow)
    assert adapter.info.template == "not_told_apart" and "ByT5Tokenizer, does not say" in adapter.template_untold
    batch = adapter.encode(default_examples(frozenset()))
    assert set(np.unique(batch.labels)) <= {PADDING, TEXT, TEXT - 3, TEXT - 2} and TEMPLATE not in batch.labels
    report = check(adapter, [Example("a", "One?"), Example("b", "Which one of them?")])
    (found,) = [c for c in report.checks if c.name == "text is the task's own words"]
    assert found.status == "skipped" and found.hint == adapter.template_untold
    assert "whose words count as text (its tokenizer" in report.found["processor"]
    assert adapter.with_template(False).info.template is None and adapter.with_template(False).template_untold is None


class WithoutOffsets(PreTrainedTokenizerFast):
    """Offsets that are all (0, 0), as some conversions of tokenizers give."""

    def __call__(self, *args, **options):
        encoded = super().__call__(*args, **options)
        if options.get("return_offsets_mapping"):
            encoded["offset_mapping"] = [(0, 0)] * len(encoded["offset_mapping"])
        return encoded


def test_a_tokenizer_whose_offsets_are_wrong_is_found_out():
    fast = WithoutOffsets(tokenizer_object=tokenizer_of(CHATML)._tokenizer, chat_template=CHATML, pad_token="<pad>")
    adapter = adapter_of(fast)
    assert adapter.template_untold == "its tokenizer's offsets leave out some of the words"


def test_without_a_template_there_is_nothing_to_tell():
    adapter = adapter_of(tokenizer_of(CHATML)).with_template(False)
    assert adapter.info.template is None and adapter.template_untold is None
    text, template = labelled(adapter, Example("x", "user and assistant"))
    assert "".join(text) == "user and assistant" and not template


def test_check_finds_template_words_that_are_labelled_text_and_task_words_that_are_not():
    adapter = adapter_of(tokenizer_of(CHATML))
    name = "text is the task's own words"
    assert next(c for c in check(adapter).checks if c.name == name).status == "passed"
    encode = adapter.encode

    def relabelled(change):
        def wrong(examples):
            batch = encode(examples)
            change(batch.labels)
            return batch

        return wrong

    def as_text(labels):
        labels[labels == TEMPLATE] = TEXT

    def first_word_lost(labels):
        for row in labels:
            row[np.flatnonzero(row == TEXT)[0]] = TEMPLATE

    def last_word_lost(labels):
        for row in labels:
            row[np.flatnonzero(row == TEXT)[-1]] = TEMPLATE

    for change in (as_text, first_word_lost, last_word_lost):
        adapter.encode = relabelled(change)
        assert next(c for c in check(adapter).checks if c.name == name).status == "failed", change


def test_what_a_processor_writes_between_is_template():
    plain, own = np.array([1, 2, 7, 8, 3, 7, 9, 4]), np.array([0, 0, 1, 1, 0, 1, 1, 0], dtype=bool)
    assert aligned(plain, plain, own).tolist() == own.tolist()
    between = np.array([1, 2, 5, 5, 7, 8, 5, 3, 7, 9, 5, 4])
    assert aligned(between, plain, own).tolist() == [i in (4, 5, 8, 9) for i in range(12)]
    assert aligned(plain[1:], plain, own).tolist() == own[1:].tolist()
    with pytest.raises(ValueError, match="other tokens of the task's words"):
        aligned(np.array([1, 2, 7, 6, 3, 7, 9, 4]), plain, own)
