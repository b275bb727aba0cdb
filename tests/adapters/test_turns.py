"""Turns of a conversation reach the model through its chat template, or are refused."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from microscope_bench.adapters.prompting import chat
from microscope_bench.capture.fingerprints import example_sha256
from microscope_bench.example import Example

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WITHOUT_SYSTEM = TEMPLATE.replace("messages %}", "messages if m.role != 'system' %}", 1)
TURNS = (("system", "Be brief. "), ("user", "One?"), ("assistant", "Yes"), ("user", "Two?"))


def tokenizer(template):
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, "a")), chat_template=template)


def test_each_turn_goes_through_the_template():
    example = Example("x", "plain text", turns=TURNS)
    prompt = chat(tokenizer(TEMPLATE), example.conversation, (), in_parts=False)
    assert prompt.startswith("<system>Be brief. </system><user>One?</user><assistant>Yes</assistant><user>Two?</user>")
    assert prompt.endswith("</user><assistant>")


def test_an_answer_that_is_begun_goes_on():
    example = Example("x", "plain text", turns=(*TURNS, ("assistant", "I say")))
    assert chat(tokenizer(TEMPLATE), example.conversation, (), in_parts=False).endswith(
        "<user>Two?</user><assistant>I say"
    )


def test_a_template_that_leaves_a_turn_out_is_refused():
    with pytest.raises(ValueError, match="leaves out, cuts or changes the system turn"):
        chat(tokenizer(WITHOUT_SYSTEM), Example("x", "plain text", turns=TURNS).conversation, (), in_parts=False)


def test_without_turns_the_text_is_the_users_and_the_hash_is_what_it_was():
    example = Example("x", "One?")
    assert chat(tokenizer(TEMPLATE), example.conversation, (), in_parts=False) == "<user>One?</user><assistant>"
    # of results that were published before there were turns
    assert example_sha256(example) == "07f48ff315f8b1de40111610d74594576abaa8734a61be961608502d745a76af"
    assert example_sha256(Example("x", "One?", turns=TURNS)) != example_sha256(example)
