"""Examples for the tiny checkpoints: lettered questions with noise of different sizes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from microscope_bench.example import PLACEHOLDERS, Audio, Example


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def question(
    name: str,
    *pictures: Image.Image,
    videos: tuple[tuple[Image.Image, ...], ...] = (),
    audios: tuple[Audio, ...] = (),
    text: str = "What is it?",
) -> Example:
    """A question with two lettered choices, its media in front."""
    marks = [PLACEHOLDERS["image"] * len(pictures), PLACEHOLDERS["video"] * len(videos)]
    marks.append(PLACEHOLDERS["audio"] * len(audios))
    return Example(
        id=name,
        text=f"{''.join(marks)}{text}\nA. x\nB. y\nAnswer:",
        images=pictures,
        videos=videos,
        audios=audios,
        choices=("A", "B"),
        answer=0,
    )


WIDE, TALL = picture(60, 40, seed=1), picture(40, 80, seed=2)
PICTURE_QUESTIONS = (question("wide", WIDE), question("tall", TALL, text="Which of the two is it?"))
TEXT_QUESTIONS = (question("short"), question("long", text="Which of the two is it?"))
