"""What a processor would make of pictures, videos and sound, without the processor: tensors of the right form."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from microscope_bench.example import PLACEHOLDERS

Tensors = dict[str, Any]


@dataclass(frozen=True)
class Medium:
    """How one modality enters an architecture.

    Attributes:
        tokens: placeholders per medium.
        tensors: the media of a batch, example by example, to what the model is called with.
        frame: names of the configuration's ids of the marks before and after, or None.
        prepended: whether the processor puts the placeholders in front of the text on its own.
    """

    tokens: int
    tensors: Callable[[Sequence[Sequence[Any]]], Tensors]
    frame: tuple[str | None, str | None] = (None, None)
    prepended: bool = False


def pixels(image: Any, height: int, width: int) -> Tensor:
    """float32 (3, height, width) in [-1, 1]."""
    resized = Image.fromarray(np.asarray(image)).resize((width, height))
    array = np.asarray(resized, dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(array).permute(2, 0, 1)


def pictures(
    tokens: int,
    size: int = 32,
    *,
    name: str = "pixel_values",
    per_example: bool = False,
    n: int = 1,
    frame: Any = (None, None),
    **more: Any,
) -> Medium:
    """Square pictures: (pictures × n, 3, size, size), or (B, pictures × n, 3, size, size) with ``per_example``."""

    def tensors(batch: Sequence[Sequence[Any]]) -> Tensors:
        rows = [[pixels(image, size, size)] * n for images in batch for image in images]
        stacked = torch.stack([torch.stack(row) for row in rows])
        value = stacked if per_example else stacked.flatten(0, 1)
        return {name: value, **{k: v(batch) if callable(v) else v for k, v in more.items()}}

    return Medium(tokens, tensors, frame)


def patches(
    grid: tuple[int, int, int] = (1, 4, 4),
    dim: int = 3 * 2 * 8 * 8,
    merge: int = 2,
    *,
    names: Any = ("pixel_values", "image_grid_thw"),
    grid_columns: slice = slice(0, 3),
    frame: Any = (None, None),
    **more: Any,
) -> Medium:
    """Packed patches (N, dim) and their grids (pictures, 3): Qwen2-VL and its kin."""
    t, h, w = grid

    def tensors(batch: Sequence[Sequence[Any]]) -> Tensors:
        media = [medium for one in batch for medium in one]
        packed = [_values(medium, t * h * w * dim).reshape(t * h * w, dim) for medium in media]
        grids = torch.tensor([grid] * len(media))[:, grid_columns]
        extra = {k: v(batch) if callable(v) else v for k, v in more.items()}
        return {names[0]: torch.cat(packed), names[1]: grids, **extra}

    return Medium(t * h * w // merge**2, tensors, frame)


def frames(
    tokens: int,
    n: int = 2,
    size: int = 32,
    *,
    name: str = "pixel_values_videos",
    frame: Any = (None, None),
    **more: Any,
) -> Medium:
    """Videos as (videos, frames, 3, size, size)."""

    def tensors(batch: Sequence[Sequence[Any]]) -> Tensors:
        videos = [torch.stack([pixels(f, size, size) for f in list(video)[:n]]) for one in batch for video in one]
        return {name: torch.stack(videos), **{k: v(batch) if callable(v) else v for k, v in more.items()}}

    return Medium(tokens, tensors, frame)


def sound(
    tokens: int, shape: tuple[int, ...], *, name: str = "input_features", frame: Any = (None, None), **more: Any
) -> Medium:
    """Sounds as (sounds, *shape), for instance (mel bins, frames)."""

    def tensors(batch: Sequence[Sequence[Any]]) -> Tensors:
        size = int(np.prod(shape))
        stacked = torch.stack([_values(medium, size).reshape(shape) for one in batch for medium in one])
        return {name: stacked, **{k: v(batch) if callable(v) else v for k, v in more.items()}}

    return Medium(tokens, tensors, frame)


def count(batch: Sequence[Sequence[Any]]) -> int:
    """The number of media in a batch."""
    return sum(len(one) for one in batch)


def ones(*shape: int, dtype: torch.dtype = torch.long) -> Callable[[Sequence[Sequence[Any]]], Tensor]:
    """Makes a mask (media, *shape) that hides nothing."""
    return lambda batch: torch.ones(count(batch), *shape, dtype=dtype)


def each(*values: Any) -> Callable[[Sequence[Sequence[Any]]], Tensor]:
    """Makes one row of the given numbers per medium."""
    return lambda batch: torch.tensor([list(values)] * count(batch))


def _values(medium: Any, n: int) -> Tensor:
    """n numbers in [-1, 1] that depend on the whole medium: a picture, a video's frames, a recording's samples."""
    if np.ndim(medium) == 1:
        flat = np.asarray(medium, dtype=np.float32)
    else:
        one = [medium] if isinstance(medium, Image.Image) else medium
        flat = np.concatenate([pixels(image, 32, 32).flatten().numpy() for image in one])
    return torch.from_numpy(np.resize(flat, n)).float()


@dataclass
class StandInProcessor:
    """Stands in for an architecture's processor: expands placeholders and makes tensors as :class:`Medium` says.

    Attributes:
        tokenizer: from :func:`tests.tiny.shrink.stand_in_tokenizer`.
        config: the model's configuration, for the ids of frames.
        media: modality → how it enters.
        more: further tensors, by name, from (input_ids, attention_mask).
    """

    tokenizer: Any
    config: Any
    media: dict[str, Medium]
    more: dict[str, Callable[[Tensor, Tensor], Any]] = field(default_factory=dict)

    image_token, video_token, audio_token = PLACEHOLDERS["image"], PLACEHOLDERS["video"], PLACEHOLDERS["audio"]

    def __post_init__(self) -> None:
        if "image" in self.media:
            self.image_processor = object()
        if "video" in self.media:
            self.video_processor = object()
        if "audio" in self.media:
            self.feature_extractor = object()

    def __call__(
        self, text: list[str], images: Any = None, videos: Any = None, audio: Any = None, **options: Any
    ) -> dict[str, Any]:
        given = {
            "image": images,
            "video": videos and [videos],
            "audio": audio and [audio],
        }  # videos, sound: a flat list
        options.pop("return_mm_token_type_ids", None)
        if any(isinstance(one, list) for one in text):  # texts and pictures as one list per example: Idefics
            images = [[part for part in one if not isinstance(part, str)] for one in text]
            text = ["".join(part for part in one if isinstance(part, str)) for one in text]
        if "image" not in self.media and "video" in self.media and images is not None:  # videos by another name
            images, videos = None, images
        given = {"image": images, "video": videos and [videos], "audio": audio and [audio]}  # the latter come flat
        expanded = [re.sub("<(image|video|audio)>", self._expand, one) for one in text]
        for modality, medium in self.media.items():
            if medium.prepended and given[modality] is not None:
                expanded = [PLACEHOLDERS[modality] * medium.tokens + one for one in expanded]
        encoded = dict(self.tokenizer(expanded, **options))
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        types = torch.zeros_like(ids)
        for code, (modality, token) in enumerate(PLACEHOLDERS.items(), start=1):
            types[ids == self.tokenizer.convert_tokens_to_ids(token)] = code
            if given[modality] is not None and modality in self.media:
                encoded |= self.media[modality].tensors(given[modality])
        encoded["mm_token_type_ids"] = types
        for name, make in self.more.items():
            encoded[name] = make(ids, mask)
        return encoded

    def _expand(self, found: re.Match[str]) -> str:
        medium = self.media.get(found[1])
        if medium is None:
            return found[0]
        marks = ["" if key is None else self._mark(key) for key in medium.frame]
        return marks[0] + found[0] * medium.tokens + marks[1]

    def _mark(self, key: str) -> str:
        tree = [self.config.to_dict()]
        while tree:
            node = tree.pop(0)
            if isinstance(node.get(key), int):
                return str(self.tokenizer.convert_ids_to_tokens(node[key]))
            tree += [value for value in node.values() if isinstance(value, dict)]
        raise KeyError(key)
