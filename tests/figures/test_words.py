from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from microscope_bench.figures.example_pictures import laid_out, wide
from microscope_bench.figures.words import pieces
from tests.figures.toys import Characters
from tests.tiny.tokenizer import byte_tokenizer

BYTES = byte_tokenizer(bos=False)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=60))
def test_the_pieces_of_a_text_are_the_text(text):
    found = pieces(Characters(), list(text.encode()))
    assert "".join(found) == text
    assert len(found) == len(text.encode())


def test_blanks_stand_where_they_belong():
    text = "Which colour?\nA. Grün"
    ids = BYTES(text, add_special_tokens=False)["input_ids"]
    found = pieces(BYTES, ids)
    assert "".join(found) == text
    assert "ü" in found and "" in found, "a character of two tokens stands with the last"


def test_a_long_text_is_decoded_piece_by_piece():
    longest = []

    class Counting(Characters):
        def decode(self, ids, **options):
            longest.append(len(ids))
            return super().decode(ids)

    text = "abc " * 500
    assert "".join(pieces(Counting(), list(text.encode()))) == text
    assert max(longest) < 30


@given(st.lists(st.text(max_size=8), max_size=30), st.integers(4, 40))
def test_every_word_lies_on_the_page_and_none_over_another(words, columns):
    lines = laid_out(words, columns)
    assert lines.keys() == {k for k, word in enumerate(words) if word}
    taken = set()
    for line, column, text in lines.values():
        assert column + wide(text) <= columns or wide(text) == 1
        here = {(line, c) for c in range(column, column + wide(text))}
        assert not here & taken
        taken |= here
        assert text.isprintable()
