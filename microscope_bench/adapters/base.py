"""The contract between a model and the capture: load, encode, name the blocks, label every token.

``docs/adding_a_model.md`` walks through an adapter; ``microscope-bench check NAME`` proves one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from microscope_bench.adapters.batch import (
    AUDIO,
    IMAGE,
    LABELS,
    MODALITIES,
    PADDING,
    SPECIAL,
    STRUCTURE,
    TEXT,
    VIDEO,
    Batch,
)
from microscope_bench.errors import AdapterError
from microscope_bench.example import Example
from microscope_bench.identity import ModelInfo, Processing

__all__ = [
    "AUDIO",
    "IMAGE",
    "LABELS",
    "MODALITIES",
    "PADDING",
    "SPECIAL",
    "STRUCTURE",
    "TEXT",
    "VIDEO",
    "Adapter",
    "Batch",
    "ModelInfo",
    "Processing",
]


class Adapter(ABC):
    """One loaded model. Subclasses load in :meth:`load`; everything else works on the loaded model.

    Attributes:
        info: the model's identity.
        processing: what makes its inputs of examples.
        modalities: the modalities this model can be given ("text", "image", ...).
        device: where inputs go.
        needs_image: whether the model takes no prompt without a picture.
        lacks: modality → why the model cannot be given it, though its processor prepares it.
        unplaced: modality → why no position of the residual stream is one of it, though the model takes it
            (cross-attention); such a modality is not asked of the labels.
        states_differ: why the hidden states that transformers returns are not the boundaries, or "". Where a model adds
            something to the stream between two blocks, as deepstack and gated cross-attention do, the boundary is what
            enters the next block, after the addition.
        codes_repeat: whether two media may give the same vector at a position, as the codes of a vocabulary do.
        sees: what a state is a function of besides its own token: those "before" it, these and the "media" that reach
            it by cross-attention, or the whole "sequence". By this, equal tokens are told from copies of one token.
        max_batch: the most examples that :meth:`encode` takes, or None.
    """

    info: ModelInfo
    processing: Processing = Processing()
    modalities: frozenset[str]
    device: torch.device
    needs_image: bool = False
    lacks: Mapping[str, str] = MappingProxyType({})
    unplaced: Mapping[str, str] = MappingProxyType({})
    states_differ: str = ""
    codes_repeat: bool = False
    sees: str = "before"
    max_batch: int | None = None

    @classmethod
    @abstractmethod
    def load(cls, args: Mapping[str, str], *, device: str | None = None) -> Adapter:
        """Loads the model.

        Args:
            args: the ``key=value`` pairs of ``--model_args``; an unknown key is an error with the nearest names.
            device: "cpu", "cuda", "cuda:1", ...; None means a GPU where there is one.

        Raises:
            AdapterError: anything that keeps the model from being loaded, with what to do next.
        """

    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The decoder blocks in the order the residual stream passes them."""

    @abstractmethod
    def encode(self, examples: Sequence[Example]) -> Batch:
        """Turns examples into one batch.

        Rows are padded on the right where the model allows it: causal attention then leaves every real position
        untouched by its neighbours in the batch.

        Raises:
            AdapterError: the model lacks a modality the examples need.
            ExampleError: one example cannot be encoded.
        """

    def prepare(self, examples: Sequence[Example]) -> Batch:
        """As :meth:`encode`, but labels that only a pass could tell may be missing; the default is :meth:`encode`."""
        return self.encode(examples)

    @abstractmethod
    def forward(self, batch: Batch, *, logits: bool) -> Tensor | None:
        """One forward pass without gradient and without KV cache.

        Args:
            batch: from :meth:`encode`.
            logits: whether next-token logits are needed. Without them the pass may end as early as it likes after the
                last block, and the capture ends it there itself.

        Returns:
            float32 (B, vocabulary), the logits after each example's last token, or None when ``logits`` is False.
        """

    def residual(self, hidden: Tensor) -> Tensor:
        """The residual stream as (B, S, d), from the hidden state as a block sees it; the default returns it as it is.

        A model with several parallel residual streams lays them side by side here: d is then their number times the
        width of one, because a block may read and write each of them.
        """
        return hidden

    def last_module(self) -> nn.Module:
        """The module whose output is boundary L: the last block, or what is watched where there are no blocks."""
        return self.blocks()[-1]

    def tapped(self, tap: str) -> Adapter:
        """The same model with its residual stream watched elsewhere (``--tap``).

        Args:
            tap: "language", "vision" or "projector".

        Raises:
            AdapterError: this adapter, or this model, has no such place.
        """
        if tap == "language":
            return self
        raise AdapterError(f"{self.info.name}: {type(self).__name__} watches the language model only; leave --tap out")

    def optional_blocks(self) -> frozenset[int]:
        """Indices of the blocks that a pass may leave out, as cross-attention is that has no picture to read.

        The residual stream passes such a block unchanged, and so its boundaries are equal.
        """
        return frozenset()

    def refine_labels(self, batch: Batch, boundary0: Tensor) -> np.ndarray:
        """Labels corrected by what block 1 really receives; called once per batch, before tokens are selected.

        The default returns ``batch.labels``. The generic adapter turns constant placeholder positions
        (``image_newline``) into ``structure`` here.

        Args:
            batch: from :meth:`encode`.
            boundary0: (B, S, d), the input of block 1.
        """
        return batch.labels

    def choice_token_ids(self, prompt: str, choices: Sequence[str]) -> list[int]:
        """For each choice the one token that continues the prompt with it.

        Args:
            prompt: one of :attr:`Batch.prompts`.
            choices: single letters, or short words such as Yes and No.

        Raises:
            AdapterError: a choice is not exactly one token after this prompt, so one forward pass cannot score it.
        """
        raise AdapterError(f"{type(self).__name__} does not say which token continues a prompt with a choice")

    def fresh_weights(self, seed: int) -> Adapter:
        """The same model with the weights it has before training, for the control ``untrained``.

        Every parameter is drawn anew, as the architecture initialises it; equal seeds give equal weights. This adapter
        keeps its own, so memory holds both.

        Args:
            seed: of the random numbers.

        Returns:
            Another adapter, with ``trained=False`` in its ``info``.

        Raises:
            AdapterError: this adapter, or this model, does not support it.
        """
        raise AdapterError(
            f"{self.info.name}: {type(self).__name__} cannot make untrained weights; override fresh_weights() in it"
        )

    def check_labels(self, batch: Batch, boundary0: Tensor) -> None:
        """Raises unless labels and the sequence that block 1 saw have the same shape.

        Raises:
            AdapterError: with both shapes and the usual causes.
        """
        if tuple(boundary0.shape[:2]) != batch.labels.shape:
            raise AdapterError(
                f"{self.info.name}: labels are {batch.labels.shape[0]} × {batch.labels.shape[1]} but block 1 saw "
                f"{tuple(boundary0.shape[:2])} positions. Usual cause: the processor does not expand the image token "
                f"into one placeholder per image position. Override encode() or refine_labels() in an adapter of your "
                f"own; see docs/adding_a_model.md."
            )
