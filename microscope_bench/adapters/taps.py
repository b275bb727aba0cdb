"""Watches the stream of the vision tower, or what leaves the projector, instead of the language model's.

A tapped adapter is an adapter: blocks, labels and boundaries are those of the tower, or the one output of the
projector. Towers see pictures as tiles, as packed patches, with a class token or with padding. Two conventions cover
all of them: an example is encoded alone, so that all that the tower sees belongs to it, in the tower's own order; and a
position is ``image`` where it changes with the picture's content, else ``structure`` (class tokens, padding).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from msgspec import structs
from PIL import Image, ImageOps
from torch import Tensor, nn

from microscope_bench.adapters.base import LABELS, MODALITIES, STRUCTURE, Adapter, Batch
from microscope_bench.adapters.decoder import describe_module_lists, first_tensor_at
from microscope_bench.adapters.tap_names import check_tap
from microscope_bench.adapters.tap_places import find_places
from microscope_bench.errors import AdapterError, ExampleError
from microscope_bench.example import PLACEHOLDERS, Example

_PICTURES = {"image", "video"}


@dataclass
class TappedBatch(Batch):
    """A batch of one example at a tap; ``whole`` is the same example as the model itself takes it."""

    whole: Batch | None = None


class TappedAdapter(Adapter):
    """A transformers model, the ``model`` of the adapter ``whole``, watched at another place."""

    max_batch = 1
    sees = "media"

    def __init__(self, whole: Any, tap: str, paths: Sequence[str] | None = None) -> None:
        self.whole, self.tap, self._paths = whole, tap, paths
        self.model, self.device = whole.model, whole.device
        self.needs_image, self.loaded_weights = True, whole.loaded_weights
        check_tap(tap)
        if not whole.modalities & _PICTURES:
            raise AdapterError(f"{whole.info.name} takes no pictures, so there is no {tap} tap; leave --tap out")
        self._blocks, self._last = find_places(whole.model, tap, paths)
        self.info = structs.replace(whole.info, options={**whole.info.options, "tap": tap})
        widths = {modality: self._width(modality) for modality in sorted(whole.modalities & _PICTURES)}
        seen = {modality: width for modality, width in widths.items() if width is not None}
        if not seen:
            raise AdapterError(
                f"{whole.info.name}: no pass with a picture runs {type(self._last).__name__}, where the {tap} tap was "
                f"set. Block lists of the model: {describe_module_lists(self.model)}"
            )
        self.modalities = frozenset({"text", *seen})
        self.unplaced = {m: f"the {tap} tap sees no {m}" for m in MODALITIES if m not in seen}
        width = next(iter(seen.values()))
        self.info = structs.replace(self.info, n_layers=len(self._blocks), hidden_size=width)
        # the context length is of the prompt, which encode() looks at, not of what the tower sees
        self.processing = structs.replace(whole.processing, context_length=None)

    @classmethod
    def load(cls, args: Mapping[str, str], *, device: str | None = None) -> Adapter:
        """Always raises: a tap is set on a loaded model."""
        raise AdapterError("load the model and call tapped() on it")

    def blocks(self) -> Sequence[nn.Module]:
        return list(self._blocks)

    def last_module(self) -> nn.Module:
        return self._last

    def residual(self, hidden: Tensor) -> Tensor:
        return hidden.reshape(1, -1, hidden.shape[-1])

    def encode(self, examples: Sequence[Example]) -> Batch:
        """Encodes one example, which must have a picture or a video; see :meth:`Adapter.encode`."""
        if len(examples) != 1:
            raise AdapterError(f"{self.info.name}: the {self.tap} tap takes one example at a time, not {len(examples)}")
        (example,) = examples
        seen = sorted(example.media.keys() & _PICTURES)
        if len(seen) != 1:
            what = "no picture" if not seen else "pictures and videos"
            raise AdapterError(
                f"{self.info.name}: example {example.id} has {what}, so the {self.tap} tap has nothing to label; "
                f"choose a task whose examples all have pictures (scienceqa_img)"
            )
        whole, inverted = self.whole.prepare([example]), self.whole.prepare([_with_inverted_pictures(example)])
        length, longest = int(whole.lengths()[0]), self.whole.processing.context_length
        if longest is not None and length > longest:
            raise ExampleError(example.id, f"{length} tokens exceed the model's context of {longest}")
        other = self._entering(inverted)
        if other is None:
            raise AdapterError(
                f"{self.info.name}: the pass of example {example.id} does not come by the {self.tap} tap"
            )
        labels = np.full(tuple(other.shape[:2]), LABELS.index(seen[0]), dtype=np.int8)
        return TappedBatch(
            inputs=whole.inputs,
            labels=labels,
            ids=whole.ids,
            prompts=whole.prompts,
            tokens=(np.zeros(labels.shape[1], dtype=np.int64),),
            media=whole.media,
            whole=whole,
            other=other,
        )

    def refine_labels(self, batch: Batch, boundary0: Tensor) -> np.ndarray:
        """Positions that do not change with the picture become structure."""
        assert batch.other is not None
        same = (boundary0 == batch.other.to(boundary0.device)).all(dim=-1).cpu().numpy()
        return np.where(same, STRUCTURE, batch.labels).astype(np.int8)

    def forward(self, batch: Batch, *, logits: bool) -> Tensor | None:
        assert isinstance(batch, TappedBatch)
        result: Tensor | None = self.whole.forward(batch.whole, logits=logits)
        return result

    def choice_token_ids(self, prompt: str, choices: Sequence[str]) -> list[int]:
        ids: list[int] = self.whole.choice_token_ids(prompt, choices)
        return ids

    def fresh_weights(self, seed: int) -> TappedAdapter:
        fresh = copy(self)
        fresh.whole = self.whole.fresh_weights(seed)
        fresh.model = fresh.whole.model
        fresh._blocks, fresh._last = find_places(fresh.model, self.tap, self._paths)
        fresh.info = structs.replace(self.info, trained=False)
        return fresh

    def tapped(self, tap: str) -> Adapter:
        return self if tap == self.tap else self.whole.tapped(tap)

    def _width(self, modality: str) -> int | None:
        """The width of the stream here, or None where a pass with a picture, or a video, does not come by."""
        noise = Image.fromarray(_NOISE)
        media: dict[str, Any] = {"images": (noise,)} if modality == "image" else {"videos": ((noise,) * N_FRAMES,)}
        try:
            batch = self.whole.prepare([Example("tap", f"{PLACEHOLDERS[modality]}What?", **media)])
        except ExampleError:  # its processor wants other pictures, or longer videos
            return None
        seen = self._entering(batch)
        return None if seen is None else seen.shape[-1]

    def _entering(self, batch: Batch) -> Tensor | None:
        """Boundary 0 of a batch of the whole model, as (1, S, d)."""
        watched = self._blocks[0] if self._blocks else self._last
        seen = first_tensor_at(watched, lambda: self.whole.forward(batch, logits=False), output=not self._blocks)
        return None if seen is None else self.residual(seen)


N_FRAMES = 4
_NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def _with_inverted_pictures(example: Example) -> Example:
    return replace(
        example,
        images=tuple(ImageOps.invert(image) for image in example.images),
        videos=tuple(tuple(ImageOps.invert(frame) for frame in video) for video in example.videos),
    )
