"""What a run is made of, as hashes: by them a store found on disk is continued, or refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from microscope_bench.adapters.base import Adapter
from microscope_bench.capture.failing_examples import encode_examples, render_example
from microscope_bench.errors import ExampleError
from microscope_bench.example import Example, ExampleSource
from microscope_bench.rgb_pictures import pixels


@dataclass(frozen=True)
class ProbedInputs:
    """Hashes of a few examples: as the task renders them, of all that the model is given, and of the media alone."""

    prompt_sha256: str
    inputs_sha256: str
    media_sha256: str | None


def probe_inputs(adapter: Adapter, source: ExampleSource, rows: Sequence[int]) -> ProbedInputs:
    """Encodes the first examples, each alone, because some processors pad a picture to its neighbours in the batch."""
    rendered, encoded, media = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    has_media = False
    for row in rows:
        try:
            example = render_example(source, row)
            rendered.update(f"{example_sha256(example)}\0".encode())
            batch = encode_examples(adapter, [example])
        except ExampleError as error:
            encoded.update(f"{error}\0".encode())
            continue
        encoded.update(f"{example.id}\0{example.text}\0{batch.prompts[0]}\0".encode())
        encoded.update(batch.labels.tobytes())
        encoded.update(np.ascontiguousarray(batch.tokens[0]).astype("<i8").tobytes())
        for name in sorted(batch.media):
            has_media = True
            tensor = batch.media[name].detach().cpu()
            media.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            media.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    encoded.update(media.digest())
    return ProbedInputs(rendered.hexdigest(), encoded.hexdigest(), media.hexdigest() if has_media else None)


def example_sha256(example: Example, media: str | None = None) -> str:
    """Of an example as the task renders it; ``media`` is its :func:`media_sha256`, where that is known already."""
    asked: tuple[object, ...] = (example.text, example.choices, example.answer, media or media_sha256(example))
    asked += (example.turns,) if example.turns else ()
    return hashlib.sha256(repr(asked).encode()).hexdigest()


def media_sha256(example: Example) -> str | None:
    """Of the pixels and samples, before any processor; None without media."""
    if not example.media:
        return None
    digest = hashlib.sha256()
    for number, pictures in enumerate((example.images, *example.videos)):
        digest.update(b"video\0" if number else b"")
        for image in pictures:
            digest.update(pixels(image))
    for audio in example.audios:
        digest.update(f"{audio.sampling_rate} {audio.samples.shape}\0".encode())
        digest.update(np.ascontiguousarray(audio.samples, dtype="<f4").tobytes())
    return digest.hexdigest()
