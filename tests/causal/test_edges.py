"""What an edge's ends are, by the labels of a prompt."""

from __future__ import annotations

import numpy as np
import pytest

from microscope_bench.adapters.base import IMAGE, PADDING, SPECIAL, STRUCTURE, TEMPLATE, TEXT
from microscope_bench.causal.edges import Edge, cut_of
from microscope_bench.errors import MicroscopeError

ROW = [SPECIAL, TEMPLATE, TEXT, STRUCTURE, IMAGE, STRUCTURE, IMAGE, STRUCTURE, TEXT, TEXT, TEMPLATE]


def cut(name, *rows, seed=0):
    return cut_of(Edge.read(name), np.array(rows, dtype=np.int8), [f"q{n}" for n in range(len(rows))], seed)


def ends(name, row=ROW, seed=0):
    pairs = cut(name, row, seed=seed).pairs[0]
    return np.flatnonzero(pairs.any(axis=1)).tolist(), np.flatnonzero(pairs.any(axis=0)).tolist()


def test_groups():
    assert ends("image->question") == ([8, 9], [4, 5, 6])  # with the row's end inside the picture
    assert ends("question->last") == ([10], [8, 9])
    assert ends("text->last") == ([10], [2, 8, 9])
    assert ends("last->last") == ([10], [10])
    assert ends("image->rest") == ([0, 1, 2, 3, 7, 8, 9, 10], [4, 5, 6])


def test_the_last_position_is_no_part_of_the_question_and_padding_of_nothing():
    assert ends("question->last", [PADDING, *ROW[:10], PADDING]) == ([10], [9])
    assert ends("question->rest", [PADDING, SPECIAL, TEXT, TEXT, TEXT, PADDING]) == ([1, 4], [2, 3])


def test_random_keys_are_as_many_as_the_picture_has_and_none_of_it():
    long = [*ROW, *[TEMPLATE] * 10]
    queries, keys = ends("random->last", long)
    assert (queries, len(keys)) == ([20], 3) and not {4, 5, 6} & set(keys)
    assert ends("random->last", long, seed=1)[1] != keys
    assert ends("random->last", [PADDING, PADDING, *long])[1] == [key + 2 for key in keys]


def test_an_edge_applies_where_both_ends_hold_positions():
    text = [SPECIAL, *[TEXT] * 9, TEMPLATE]
    found = cut("image->question", ROW, text)
    assert found.applies.tolist() == [True, False] and found.n_keys.tolist() == [3, 0]
    assert cut("none->question", ROW, text).applies.tolist() == [True, True]
    assert not cut("none->question", ROW).pairs.any()


@pytest.mark.parametrize(
    "name, said",
    [
        ("imgae->question", "unknown keys of edge imgae->question: 'imgae'. Did you mean image"),
        ("image->qestion", "Did you mean question"),
        ("image->random", "unknown queries"),
        ("image question", "not of the form keys->queries"),
    ],
)
def test_an_edge_that_names_nothing_is_told_with_the_nearest_names(name, said):
    with pytest.raises(MicroscopeError, match=said):
        Edge.read(name)
