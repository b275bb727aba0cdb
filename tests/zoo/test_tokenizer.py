from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from microscope_bench.zoo.tokenizer import build_byte_tokenizer
from microscope_bench.zoo.vocabulary import WORDS

TOKENIZER = build_byte_tokenizer(["<image>"])


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@given(st.text().filter(lambda text: not any(mark in text for mark in TOKENIZER.all_special_tokens)))
def test_any_text_is_at_most_one_token_per_byte_and_comes_back(text):
    assert len(ids(text)) <= len(text.encode())
    assert TOKENIZER.unk_token_id not in ids(text)
    assert TOKENIZER.decode(ids(text)) == text


def test_a_letter_is_the_same_single_token_alone_and_after_a_prompt():
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        assert len(ids(letter)) == 1
        for prompt in ("Answer:", "Answer: ", "[/INST]", "\n"):
            assert ids(prompt + letter) == ids(prompt) + ids(letter)


def test_marks_are_single_tokens_and_bos_is_put_in_front_once():
    assert TOKENIZER("A<image>")["input_ids"] == [TOKENIZER.bos_token_id, *ids("A"), len(TOKENIZER) - 1]
    assert [TOKENIZER.bos_token_id, TOKENIZER.eos_token_id, TOKENIZER.pad_token_id] == [0, 1, 2]


def test_the_words_of_shapesqa_are_single_tokens():
    assert len(ids("Which shape is at the top left?\nA. red\nB. triangle\n")) == 8 + 1 + 8
    for word in (*WORDS, *(f" {digit}" for digit in "01234")):
        assert len(ids(f" {word.strip()}")) == 1


def test_it_survives_being_saved(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Ünï 日本\n\t<image> A."
    assert loaded(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert loaded.padding_side == "right"
