"""Where image tokens lie: only where it is known, and then row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from microscope_bench.adapters.base import IMAGE, STRUCTURE, TEXT
from microscope_bench.figures.example_pictures import DARKEST, coloured
from microscope_bench.figures.patches import View, views


def picture(width=40, height=40):
    return Image.fromarray(np.arange(width * height * 3, dtype=np.uint32).astype(np.uint8).reshape(height, width, 3))


def labels(*runs):
    return np.concatenate([np.full(n, label, dtype=np.int8) for label, n in runs])


def test_a_square_of_patches_and_the_picture_as_the_model_is_given_it():
    shown = labels((TEXT, 2), (IMAGE, 16), (TEXT, 3))
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1

    class Scale:
        image_mean, image_std = (0.5,) * 3, (0.5,) * 3

    (view,) = views("LlavaForConditionalGeneration", shown, {"pixel_values": pixels}, [picture()], Scale)
    assert view.grid == (4, 4) and view.positions.tolist() == list(range(2, 18))
    np.testing.assert_allclose(view.picture, pixels[0].movedim(0, -1).numpy() / 2 + 0.5, atol=1e-6)
    (view,) = views("LlavaForConditionalGeneration", shown, {"pixel_values": pixels}, [picture()])
    assert view.picture.min() == 0 and view.picture.max() == 1


def test_queries_have_no_place():
    (view,) = views("Blip2ForConditionalGeneration", labels((IMAGE, 16), (TEXT, 3)), {}, [picture()])
    assert view.grid is None and "not known" in view.title and len(view.positions) == 16


@pytest.mark.parametrize("n", [15, 17, 2])
def test_what_is_no_square_is_a_strip(n):
    (view,) = views("LlavaForConditionalGeneration", labels((IMAGE, n)), {}, [picture()])
    assert view.grid is None


def test_two_pictures_are_two_squares():
    shown = labels((IMAGE, 9), (TEXT, 1), (IMAGE, 9))
    first, second = views("LlavaForConditionalGeneration", shown, {}, [picture(), picture()])
    assert first.positions.tolist() == list(range(9)) and second.positions.tolist() == list(range(10, 19))


def test_the_whole_and_its_tiles():
    shown = labels((IMAGE, 9 + 5), (STRUCTURE, 1), (IMAGE, 5), (STRUCTURE, 1), (IMAGE, 5), (STRUCTURE, 1), (TEXT, 2))
    whole, tiles = views("LlavaNextForConditionalGeneration", shown, {}, [picture(50, 30)])
    assert whole.grid == (3, 3) and whole.positions.tolist() == list(range(9))
    assert tiles.grid == (3, 5) and tiles.positions[5] == 15 and tiles.picture.shape == (30, 50, 3)


def test_rows_by_newlines():
    shown = labels((IMAGE, 3), (STRUCTURE, 1), (IMAGE, 3), (STRUCTURE, 1), (TEXT, 2))
    (view,) = views("FuyuForCausalLM", shown, {}, [picture(30, 20)])
    assert view.grid == (2, 3) and view.picture is not None
    (view,) = views("FuyuForCausalLM", shown, {}, [picture(30, 15)])
    assert view.grid == (2, 3) and view.picture is None, "filled up at the edge: the picture ends before the grid does"


def test_the_processors_own_grid():
    inputs = {"image_grid_thw": torch.tensor([[1, 4, 6], [1, 2, 4]])}
    first, second = views("Qwen2VLForConditionalGeneration", labels((IMAGE, 8)), inputs, [picture(), picture()])
    assert first.grid == (2, 3) and second.grid == (1, 2) and second.positions.tolist() == [6, 7]
    (view,) = views("Qwen2VLForConditionalGeneration", labels((IMAGE, 7)), inputs, [picture(), picture()])
    assert view.grid is None


def test_nothing_without_pictures():
    assert views("LlavaForConditionalGeneration", labels((TEXT, 3)), {}, []) == []


def test_a_patch_has_its_colour_where_the_picture_is_lightest():
    lit = np.ones((4, 6, 3))
    lit[0, 0] = 0
    view = View("", np.arange(6), (2, 3), lit)
    colours = np.linspace(0.1, 0.9, 18).reshape(6, 3)
    pixels = coloured(view, colours)
    assert pixels.shape == (4, 6, 3)
    np.testing.assert_allclose(pixels[0, 0], colours[0] * DARKEST)
    np.testing.assert_allclose(pixels[3, 5], colours[5])
    np.testing.assert_allclose(pixels[1::2, ::2].reshape(6, 3), colours)
    assert coloured(View("", np.arange(6), (2, 3), lit * 0.5), colours).shape[:2] == (4, 6), "an even picture"
