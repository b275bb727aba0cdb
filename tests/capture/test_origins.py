"""Keys of where tokens come from: equal exactly where the same went into the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from microscope_bench.adapters.base import IMAGE, SPECIAL, TEXT
from microscope_bench.capture.loop import Capture
from microscope_bench.capture.origins import token_origins
from microscope_bench.capture.store import TokenStore
from microscope_bench.protocol import named_protocol
from tests.toy import ToyAdapter, ToyTask

WORDS = np.array([SPECIAL, TEXT, TEXT, IMAGE, IMAGE, TEXT])
IDS = np.array([1, 50, 51, 9, 9, 50])


def origins(labels=WORDS, ids=IDS, media="picture", example="q1", sees="before"):
    return token_origins(labels, ids, media=media, example_id=example, sees=sees)


def test_the_same_input_has_the_same_keys_in_any_example():
    assert all(np.array_equal(a, b) for a, b in zip(origins(), origins(example="q2"), strict=True))


def test_what_sees_a_picture_elsewhere_is_another_token_for_every_other_picture():
    words, ids = WORDS[:3], IDS[:3]
    one, other, none = (origins(words, ids, media=media, sees="media")[1] for media in ("one", "other", None))
    assert not {*one.tolist()} & {*other.tolist()} and not {*one.tolist()} & {*none.tolist()}
    again = origins(words, ids, media="one", example="q2", sees="media")[1]
    assert np.array_equal(one, again), "the same question about the same picture"
    blind = (origins(words, ids, media=media)[1] for media in ("one", "other"))
    assert np.array_equal(*blind), "without cross-attention nothing after the words reaches them"


def test_what_sees_the_whole_sequence_is_another_token_when_anything_in_it_changes():
    changed = IDS.copy()
    changed[5] = 77
    here, there = (origins(ids=ids, sees="sequence")[1] for ids in (IDS, changed))
    assert not {*here.tolist()} & {*there.tolist()}
    assert np.array_equal(here, origins(example="q2", sees="sequence")[1])
    assert np.array_equal(origins()[1][:5], origins(ids=changed)[1][:5]), "a causal decoder does not look ahead"


def test_the_token_decides_the_origin_and_all_before_it_the_prefix():
    origin, prefix = origins()
    assert origin[1] == origin[5], "the same word, wherever it stands"
    assert len(set(prefix.tolist())) == 6
    assert len(set(origin[[0, 1, 2, 3, 4]].tolist())) == 5, "two places of one picture are not the same"
    ids = IDS.copy()
    ids[2] = 52
    other_origin, other_prefix = origins(ids=ids)
    assert (other_origin == origin).tolist() == [True, True, False, True, True, True]
    assert (other_prefix == prefix).tolist() == [True, True, False, False, False, False]


def test_the_order_of_a_prefix_counts():
    swapped = np.array([1, 51, 50, 9, 9, 50])
    assert origins(ids=swapped)[1][-1] != origins()[1][-1]


def test_another_picture_is_another_origin_from_its_place_on():
    origin, prefix = origins()
    other_origin, other_prefix = origins(media="another")
    assert (other_origin == origin).tolist() == [True, True, True, False, False, True]
    assert (other_prefix == prefix).tolist() == [True, True, True, False, False, False]


@pytest.mark.parametrize("unknown", [{"media": None}, {"ids": IDS[:3]}])
def test_what_is_not_known_is_the_same_as_nothing(unknown):
    first, second = origins(**unknown), origins(**unknown, example="q2")
    assert not set(first[0][3:5].tolist()) & set(second[0].tolist())
    assert first[1][-1] != second[1][-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, origins(**unknown), strict=True)), "but always the same"


def test_a_store_knows_which_of_its_tokens_are_the_same(tmp_path):
    """Two questions about one picture that begin alike, in batches of different shape."""

    class Alike(ToyTask):
        def example(self, index):
            question = super().example(index)
            first = super().example(0)
            return replace(question, images=first.images, text=f"<image>abcd{index}" if index < 2 else question.text)

    store = TokenStore.open_or_create(tmp_path / "s", {}, n_examples=5, part_examples=8)
    protocol = named_protocol("geometry/1")
    Capture(ToyAdapter(), Alike(5), protocol, batch_size=4).fill(store, [0], lambda n: None)
    file = safe_open(store.tensor_file(0), framework="pt")
    example, position, modality = (file.get_tensor(name) for name in ("example", "position", "modality"))
    keys = file.get_tensor("prefix")

    def of(index):
        text = (example == index) & (modality == TEXT)
        return dict(zip(position[text].tolist(), keys[text].tolist(), strict=True))

    first, second, third = of(0), of(1), of(2)
    assert [position for position in first if first[position] == second.get(position)] == [1, 2, 3, 4]
    assert not set(first.values()) & set(third.values())
    assert len(torch.unique(file.get_tensor("origin")[modality == IMAGE])) == 6, "one picture of six places"


def test_the_capture_asks_the_adapter_what_a_state_sees(tmp_path):
    """Same words, two pictures: one token twice for a causal decoder, two tokens where the text sees them."""

    class SameWords(ToyTask):
        def example(self, index):
            return replace(super().example(index), text="abcd<image>")

    shared = {}
    for sees in ("before", "media", "sequence"):
        adapter = ToyAdapter()
        adapter.sees = sees
        store = TokenStore.open_or_create(tmp_path / sees, {}, n_examples=2, part_examples=8)
        Capture(adapter, SameWords(2), named_protocol("geometry/1"), batch_size=2).fill(store, [0], lambda n: None)
        file = safe_open(store.tensor_file(0), framework="pt")
        text = file.get_tensor("modality") == TEXT
        example, keys = file.get_tensor("example")[text], file.get_tensor("prefix")[text]
        shared[sees] = len({*keys[example == 0].tolist()} & {*keys[example == 1].tolist()})
    assert shared == {"before": 4, "media": 0, "sequence": 0}
