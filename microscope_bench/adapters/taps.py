"""Where the residual stream is watched elsewhere than in the language model: in the vision tower, behind the projector.

A tapped adapter is an adapter: blocks, labels and boundaries are those of the tower, or the one output of the
projector. Towers see pictures as tiles, as packed patches, with a class token or with padding, each architecture in its
own way. Two conventions make them one: an example is encoded alone, so that all that the tower sees belongs to it, in
the order the tower has it; and a position is ``image`` where it changes with the picture's content, else ``structure``
(class tokens, registers, padding).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from microscope_bench.adapters.base import LABELS, STRUCTURE, Adapter, Batch
from microscope_bench.adapters.decoder import describe_module_lists, first_tensor_at, module_lists
from microscope_bench.errors import AdapterError
from microscope_bench.examples import IMAGE_PLACEHOLDER, Example
from microscope_bench.registry import unknown_name

LANGUAGE, VISION, PROJECTOR = "language", "vision", "projector"
TAPS = {
    LANGUAGE: "the decoder blocks of the language model",
    VISION: "the blocks of the vision tower",
    PROJECTOR: "what leaves the projector for the language model; one boundary, no blocks",
}
"""Name → what is watched there."""

_TOWER = re.compile(r"(^|[._])(vision|visual|image|img|vit|siglip|clip|dino\w*)")
_NO_TOWER = re.compile(r"projector|connector|merger|qformer|resampler|perceiver|audio|language_model|deepstack")
_BLOCKS = {"layers", "blocks", "layer", "block", "resblocks", "transformer_layers"}
_PROJECTORS = (
    "multi_modal_projector",
    "mm_projector",
    "projector",
    "connector",
    "modality_projection",
    "aligner",
    "embed_vision",
    "vision_embed_tokens",
    "language_projection",
    "image_to_text_projection",
    "visual_projection",
    "merger",
    "resampler",
)
_PICTURES = {"image", "video"}


@dataclass
class TappedBatch(Batch):
    """A batch of one example at a tap.

    Attributes:
        whole: the same example, as the model itself takes it.
        other: (1, S, d): what enters the tap when the picture is another one.
    """

    whole: Batch | None = None
    other: Tensor | None = None


class TappedAdapter(Adapter):
    """A transformers model, watched at another place.

    Args:
        whole: the adapter of the model; it has the model as ``.model``.
        tap: one of :data:`TAPS`.
        path: dotted path of the tower's block list or of the projector, where its name does not tell.

    Raises:
        UnknownNameError: no such tap.
        AdapterError: the model has no such place, or none that could be found.
    """

    max_batch = 1

    def __init__(self, whole: Any, tap: str, path: str | None = None) -> None:
        self.whole, self.tap, self._path = whole, tap, path
        self.model, self.device = whole.model, whole.device
        self.modalities = frozenset({"text", *(whole.modalities & _PICTURES)})
        self.needs_image = True
        self.unplaced = {"text": f"the {tap} tap sees pictures alone"}
        self._blocks, self._last = _places(whole.model, tap, path)
        example = Example("tap", IMAGE_PLACEHOLDER, (Image.fromarray(_NOISE),))
        self.info = replace(whole.info, hidden_size=0, options={**whole.info.options, "tap": tap})
        seen = self._entering(whole.encode([example]))
        self.info = replace(self.info, n_layers=len(self._blocks), hidden_size=seen.shape[-1])

    @classmethod
    def load(cls, args: Mapping[str, str], *, device: str | None = None) -> Adapter:
        """Not to be called: a tap is set on a loaded model."""
        raise AdapterError("load the model and call tapped() on it")

    def blocks(self) -> Sequence[nn.Module]:
        """The blocks of the tower in order; none for the projector."""
        return list(self._blocks)

    def last_module(self) -> nn.Module:
        """The last block, or the projector."""
        return self._last

    def residual(self, hidden: Tensor) -> Tensor:
        """(1, S, d): tiles and patches one after the other."""
        return hidden.reshape(1, -1, hidden.shape[-1])

    def encode(self, examples: Sequence[Example]) -> Batch:
        """One example; see :meth:`Adapter.encode`.

        Raises:
            AdapterError: several examples, or one without a picture.
        """
        (example,) = examples
        seen = sorted(example.media.keys() & _PICTURES)
        if len(seen) != 1:
            what = "no picture" if not seen else "pictures and videos"
            raise AdapterError(
                f"{self.info.name}: example {example.id} has {what}, so the {self.tap} tap has nothing to label; "
                f"choose a task whose examples all have pictures (scienceqa_img)"
            )
        whole, inverted = self.whole.encode([example]), self.whole.encode([_with_inverted_pictures(example)])
        other = self._entering(inverted)
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
        """Positions that hold the same whatever the picture become structure."""
        assert isinstance(batch, TappedBatch) and batch.other is not None
        same = (boundary0 == batch.other.to(boundary0.device)).all(dim=-1).cpu().numpy()
        return np.where(same, STRUCTURE, batch.labels).astype(np.int8)

    def forward(self, batch: Batch, *, logits: bool) -> Tensor | None:
        """See :meth:`Adapter.forward`."""
        assert isinstance(batch, TappedBatch)
        result: Tensor | None = self.whole.forward(batch.whole, logits=logits)
        return result

    def choice_token_ids(self, prompt: str, choices: Sequence[str]) -> list[int]:
        """As the whole model has them."""
        ids: list[int] = self.whole.choice_token_ids(prompt, choices)
        return ids

    def fresh_weights(self, seed: int) -> TappedAdapter:
        """The same place in the same model before training."""
        fresh = copy(self)
        fresh.whole = self.whole.fresh_weights(seed)
        fresh.model = fresh.whole.model
        fresh._blocks, fresh._last = _places(fresh.model, self.tap, self._path)
        fresh.info = replace(self.info, trained=False)
        return fresh

    def _entering(self, batch: Batch) -> Tensor:
        """Boundary 0 of a batch of the whole model, as (1, S, d)."""
        watched = self._blocks[0] if self._blocks else self._last
        seen = first_tensor_at(
            watched, lambda: self.whole.forward(batch, logits=False), output=not self._blocks
        )
        if seen is None:
            raise AdapterError(
                f"{self.info.name}: a pass with a picture does not run {type(watched).__name__}, where the {self.tap} "
                f"tap was set. Block lists of the model: {describe_module_lists(self.model)}"
            )
        return self.residual(seen)


_NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def _places(model: nn.Module, tap: str, path: str | None) -> tuple[Sequence[nn.Module], nn.Module]:
    """The blocks to watch and the module whose output is the last boundary."""
    if tap == PROJECTOR:
        return (), find_projector(model) if path is None else model.get_submodule(path)
    if tap != VISION:
        raise unknown_name("tap", tap, list(TAPS))
    blocks: Any = find_tower_blocks(model) if path is None else model.get_submodule(path)
    return list(blocks), blocks[-1]


def find_tower_blocks(model: nn.Module) -> nn.ModuleList:
    """The longest list of blocks on a path that speaks of vision.

    Raises:
        AdapterError: there is none.
    """
    found = [
        (-len(module), name.count("."), name, module)
        for name, module in module_lists(model).items()
        if name.rpartition(".")[2] in _BLOCKS and _TOWER.search(name) and not _NO_TOWER.search(name)
    ]
    if not found:
        raise AdapterError(
            f"{type(model).__name__} has no vision tower made of blocks; its block lists are "
            f"{describe_module_lists(model)}. Leave --tap out, or use --tap projector."
        )
    return min(found, key=lambda candidate: candidate[:3])[3]


def find_projector(model: nn.Module) -> nn.Module:
    """The module between tower and language model, by the names that transformers gives it.

    Raises:
        AdapterError: there is none.
    """
    named = dict(model.named_modules())
    for wanted in _PROJECTORS:
        paths = [name for name in named if name.rpartition(".")[2] == wanted and "audio" not in name]
        if paths:
            found: nn.Module = named[min(paths, key=lambda name: (name.count("."), name))]
            return found
    raise AdapterError(
        f"{type(model).__name__} has no projector under the usual names ({', '.join(_PROJECTORS)}), so there is nothing "
        f"to tap between vision tower and language model. Leave --tap out."
    )


def _with_inverted_pictures(example: Example) -> Example:
    return replace(
        example,
        images=tuple(ImageOps.invert(image) for image in example.images),
        videos=tuple(tuple(ImageOps.invert(frame) for frame in video) for video in example.videos),
    )
