"""The questions that a check asks: lettered, and about media of noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from microscope_bench.example import PLACEHOLDERS, Audio, Example

_N_FRAMES, _SAMPLING_RATE = 4, 16000
_QUESTIONS = ("Which?\nA. one\nB. two\nAnswer:", "Which of the two is it?\nA. the first\nB. the second one\nAnswer:")
_SIZES, _SECONDS = ((96, 64), (60, 120)), (1.5, 1.0)


def default_examples(modalities: frozenset[str]) -> tuple[Example, Example]:
    """Two lettered questions of different length about noise of different size, one medium of every given modality."""
    marks = "".join(mark for modality, mark in PLACEHOLDERS.items() if modality in modalities)
    examples = []
    for index, (question, size, seconds) in enumerate(zip(_QUESTIONS, _SIZES, _SECONDS, strict=True)):
        draw = np.random.default_rng(index)
        examples.append(
            Example(
                id=f"check-{index}",
                text=marks + question,
                images=(_noise(draw, size),) if "image" in modalities else (),
                videos=(tuple(_noise(draw, size) for _ in range(_N_FRAMES)),) if "video" in modalities else (),
                audios=(_hiss(draw, seconds),) if "audio" in modalities else (),
                choices=("A", "B"),
                answer=0,
            )
        )
    return examples[0], examples[1]


def with_other_media(example: Example) -> Example:
    """The same question about other noise of the same size."""
    draw = np.random.default_rng(1000 + len(example.text))
    return replace(
        example,
        images=tuple(_noise(draw, image.size[::-1]) for image in example.images),
        videos=tuple(tuple(_noise(draw, frame.size[::-1]) for frame in video) for video in example.videos),
        audios=tuple(_hiss(draw, len(a.samples) / a.sampling_rate, a.sampling_rate) for a in example.audios),
    )


def _noise(draw: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8))


def _hiss(draw: np.random.Generator, seconds: float, rate: int = _SAMPLING_RATE) -> Audio:
    return Audio(draw.uniform(-1, 1, round(seconds * rate)).astype(np.float32), rate)
