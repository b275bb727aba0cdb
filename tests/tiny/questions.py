"""Examples for the tiny checkpoints: lettered questions with noise pictures of different sizes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from microscope_bench.example import IMAGE_PLACEHOLDER, Example


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def question(name: str, *pictures: Image.Image, text: str = "What is it?") -> Example:
    """A question with two lettered choices and its pictures in front."""
    prompt = f"{IMAGE_PLACEHOLDER * len(pictures)}{text}\nA. x\nB. y\nAnswer:"
    return Example(id=name, text=prompt, images=pictures, choices=("A", "B"), answer=0)


WIDE, TALL = picture(60, 40, seed=1), picture(40, 80, seed=2)
PICTURE_QUESTIONS = (question("wide", WIDE), question("tall", TALL, text="Which of the two is it?"))
TEXT_QUESTIONS = (question("short"), question("long", text="Which of the two is it?"))
