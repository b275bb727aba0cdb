"""What the controls of pictures do to a task's examples."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from microscope_bench.adapters.base import LABELS
from microscope_bench.capture.fingerprints import media_sha256
from microscope_bench.controls import CONTROLS, Run, named_control, with_control
from microscope_bench.errors import ExampleError, MicroscopeError, UnknownNameError
from microscope_bench.example import Example
from tests.toy import ToyAdapter, ToyTask


class Album:
    """Examples that show pictures of one colour each; None in place of the colours is an example that does not open."""

    name, version, dataset = "album", "1", None

    def __init__(self, *colours, text=None):
        self.colours = colours
        self.text = text
        self.ids = [f"a{index}" for index in range(len(colours))]

    def example(self, index):
        colours = self.colours[index]
        if colours is None:
            raise ExampleError(self.ids[index], "it does not open")
        images = tuple(Image.new("RGB", (2, 3), (colour, 0, 0)) for colour in colours)
        return Example(self.ids[index], self.text or "<image>" * len(colours) + "What?", images, converted_from=("P",))


def controlled(name, source, n_examples=None, seed=0, adapter=None):
    n_examples = len(source.ids) if n_examples is None else n_examples
    return with_control(name, Run(adapter or ToyAdapter(), source, n_examples, seed)).source


def shown(source, index):
    return [image.getpixel((0, 0))[0] for image in source.example(index).images]


def text_with(text, pictures=1):
    return controlled("text_only", Album([1] * pictures, text=text)).example(0).text


class TestNames:
    def test_an_unknown_name_is_answered_with_the_nearest(self):
        with pytest.raises(UnknownNameError, match="Did you mean text_only"):
            named_control("text-only")

    def test_no_control_changes_nothing(self):
        run = Run(ToyAdapter(), ToyTask(3), 3, 0)
        assert with_control(None, run) is run

    @pytest.mark.parametrize("name", ["noise_image", "shuffled_image", "text_only"])
    def test_a_task_without_pictures_is_refused(self, name):
        with pytest.raises(MicroscopeError, match=rf"{name}: none of the 3 measured examples of album has a picture"):
            controlled(name, Album([], None, []))
        with pytest.raises(MicroscopeError, match="none of the 2 measured"):
            controlled(name, Album([], [], [7]), n_examples=2)

    @pytest.mark.parametrize("name", ["noise_image", "shuffled_image", "text_only"])
    def test_the_rest_of_the_task_is_its_own(self, name):
        task = ToyTask(6, broken={2: "picture"})
        changed = controlled(name, task)
        assert (changed.name, changed.version, changed.dataset) == (task.name, task.version, task.dataset)
        assert list(changed.ids) == task.ids
        for index in (0, 5):
            before, after = task.example(index), changed.example(index)
            assert (after.id, after.choices, after.answer) == (before.id, before.choices, before.answer)
            assert after.text == (before.text.removeprefix("<image>") if name == "text_only" else before.text)
        with pytest.raises(ExampleError, match="its picture does not open"):
            changed.example(2)

    def test_every_control_is_described_in_one_line(self):
        assert all(control.description and "\n" not in control.description for control in CONTROLS.values())


class TestNoise:
    def test_pictures_are_uniform_noise_of_the_same_size(self):
        source = Album([1, 2])
        first, second = controlled("noise_image", source).example(0).images
        assert (first.size, first.mode) == ((2, 3), "RGB")
        assert first.tobytes() != second.tobytes()
        assert controlled("noise_image", source).example(0).converted_from == (), "noise was never anything but RGB"
        large = replace(source.example(0), images=(Image.new("L", (301, 203)), Image.new("RGB", (1, 1))))
        source.example = lambda index: large
        noise = controlled("noise_image", source).example(0).images[0]
        assert (noise.size, noise.mode) == ((301, 203), "RGB")
        counts = np.bincount(np.asarray(noise).ravel(), minlength=256)
        expected = 301 * 203 * 3 / 256
        assert ((counts - expected) ** 2 / expected).sum() < 350, "chi-square of 255 degrees of freedom: p < 1e-4"

    def test_a_picture_has_one_noise_wherever_it_stands(self):
        changed = controlled("noise_image", Album([5, 6], [6]))
        (first, second), (again,) = changed.example(0).images, changed.example(1).images
        assert first.tobytes() != second.tobytes() == again.tobytes()

    def test_it_hangs_on_seed_and_picture_alone(self):
        def noise(source, index, seed=0):
            return controlled("noise_image", source, seed=seed).example(index).images[0].tobytes()

        task, backwards = ToyTask(4), ToyTask(order=[3, 2, 1, 0])
        assert noise(task, 0) == noise(backwards, 3)
        assert len({noise(task, 0), noise(task, 0, seed=1), noise(task, 1)}) == 3

    def test_text_tokens_and_labels_stay(self, tiny_adapter):
        adapter, task = tiny_adapter("llava_next"), ToyTask(3)
        changed = controlled("noise_image", task, adapter=adapter)
        before, after = (adapter.encode([source.example(i) for i in range(3)]) for source in (task, changed))
        assert all(np.array_equal(a, b) for a, b in zip(before.tokens, after.tokens, strict=True))
        assert np.array_equal(before.labels, after.labels)
        assert before.prompts == after.prompts
        assert not before.media["pixel_values"].equal(after.media["pixel_values"])


class TestShuffling:
    @given(st.lists(st.integers(0, 6), min_size=2, max_size=30), st.integers(0, 9))
    def test_none_keeps_its_own_and_as_few_as_possible_one_that_looks_the_same(self, colours, seed):
        source = Album(*([colour] for colour in colours))
        most = max(Counter(colours).values())
        if most == len(colours):
            with pytest.raises(MicroscopeError, match="keep its own"):
                controlled("shuffled_image", source)
            return
        changed = controlled("shuffled_image", source, seed=seed)
        after = [shown(changed, index)[0] for index in range(len(colours))]
        assert Counter(after) == Counter(colours), "a permutation"
        assert sum(a == b for a, b in zip(after, colours, strict=True)) == max(0, 2 * most - len(colours))

    @given(st.lists(st.lists(st.integers(0, 200), max_size=3, unique=True), min_size=6, max_size=12))
    def test_examples_may_have_any_number_of_pictures(self, albums):
        source = Album(*albums)
        try:
            changed = controlled("shuffled_image", source)
        except MicroscopeError:
            return  # too many are linked with each other
        before, after = Counter(), Counter()
        for index, own in enumerate(albums):
            assert len(shown(changed, index)) == len(own)
            before.update(own)
            after.update(shown(changed, index))
        assert before == after

    def test_examples_that_share_a_picture_exchange_none(self):
        albums = [[1, 2], [2, 3], [3], [7], [8], [9], [10], [11]]
        for seed in range(20):
            changed = controlled("shuffled_image", Album(*albums), seed=seed)
            for index in range(3):
                assert not {1, 2, 3} & set(shown(changed, index))

    def test_one_example_alone_has_nobody_to_exchange_with(self):
        with pytest.raises(MicroscopeError, match="keep its own; measure more examples"):
            controlled("shuffled_image", Album([1, 2], []))

    def test_only_measured_examples_that_open_take_part(self):
        source = Album([1], [2], None, [], [3], [99])
        changed = controlled("shuffled_image", source, n_examples=5)
        assert {shown(changed, index)[0] for index in (0, 1, 4)} == {1, 2, 3}
        assert shown(changed, 3) == []
        with pytest.raises(ExampleError, match="does not open"):
            changed.example(2)
        source.colours = ([1], [2], [5], [], [3], [99])
        with pytest.raises(ExampleError, match="could not be read when"):
            changed.example(2)

    def test_it_hangs_on_the_seed(self):
        source = Album(*([colour] for colour in range(30)))
        orders = [
            [shown(controlled("shuffled_image", source, seed=seed), i)[0] for i in range(30)] for seed in (0, 0, 1)
        ]
        assert orders[0] == orders[1] != orders[2]

    def test_those_that_look_the_same_are_counted_aloud(self, caplog):
        controlled("shuffled_image", Album([1], [1], [1], [2]))
        assert "2 of 4 pictures are replaced by one that looks the same" in caplog.text

    def test_pixels_are_compared_not_files(self):
        task = ToyTask(order=[0, 1, 2, 3, 4, 0])
        changed = controlled("shuffled_image", task)
        for index in range(6):
            assert media_sha256(changed.example(index)) != media_sha256(task.example(index))


class TestTextOnly:
    @pytest.mark.parametrize(
        ("text", "left"),
        [
            ("<image>What?", "What?"),
            ("<image>\nWhat?", "What?"),
            ("What?\n<image>", "What?"),
            ("What?\n<image>\n", "What?\n"),
            ("See <image> and say.", "See and say."),
            ("First.\n\n<image>\nThen.", "First.\n\nThen."),
            ("First. <image>\nThen.", "First.\nThen."),
            ("  indented <image> text  with its own  blanks", "  indented text  with its own  blanks"),
        ],
    )
    def test_placeholders_go_without_a_trace(self, text, left):
        assert text_with(text) == left

    def test_several_in_a_row_go_at_once(self):
        assert text_with("A\n<image>\n<image> <image>\nB", pictures=3) == "A\nB"

    def test_no_picture_and_no_image_position_is_left(self, tiny_adapter):
        adapter = tiny_adapter("llava_next")
        changed = controlled("text_only", ToyTask(2), adapter=adapter).example(0)
        assert (changed.images, changed.converted_from) == ((), ())
        batch = adapter.encode([changed])
        assert not (batch.labels == LABELS.index("image")).any()
        assert "<image>" not in batch.prompts[0] and not batch.media

    def test_a_model_that_needs_a_picture_is_refused(self, tiny_adapter):
        with pytest.raises(MicroscopeError, match="takes no prompt without a picture; use noise_image"):
            controlled("text_only", ToyTask(2), adapter=tiny_adapter("paligemma"))

    def test_turns_lose_their_placeholders_too(self):
        class Talk(Album):
            def example(self, index):
                return replace(super().example(index), turns=(("system", "Look."), ("user", "<image>What?")))

        changed = controlled("text_only", Talk([1])).example(0)
        assert changed.turns == (("system", "Look."), ("user", "What?"))
