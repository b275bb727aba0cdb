"""The contract between a model and the capture: load, encode, name the blocks, label every token.

``docs/adding_a_model.md`` walks through an adapter; ``microscope-bench check NAME`` proves one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from microscope_bench.errors import AdapterError
from microscope_bench.example import Example
from microscope_bench.identity import ModelInfo, Processing

LABELS = ("padding", "special", "structure", "template", "text", "image", "video", "audio")
"""What a token position can be; a label array holds indices into this tuple.

``special`` are the tokenizer's own marks (BOS, role and turn marks), ``structure`` the constants that frame media (row
separators such as ``image_newline``, start and end of image), ``template`` the words that a chat template, or else the
model's own layout, writes around those of the task: role names, a system prompt of its own. ``text`` are the words that
the task wrote. Only the modalities are measured.
"""
PADDING, SPECIAL, STRUCTURE, TEMPLATE, TEXT, IMAGE, VIDEO, AUDIO = range(len(LABELS))
MODALITIES = LABELS[TEXT:]


@dataclass
class Batch:
    """A few examples, encoded.

    Attributes:
        inputs: keyword arguments of the forward pass, tensors on the model's device.
        labels: int8 (B, S), an index into :data:`LABELS` for every position that block 1 will see.
        ids: example ids, B of them.
        prompts: the text each example was turned into, template included.
        tokens: per example the token ids without padding (int64), to tell a changed tokenizer from a changed model.
        media: the tensors among ``inputs`` that hold pictures, sound or video, by name.
        other: boundary 0 of the same prompts with other media, where the labels depend on it: media positions that do
            not differ hold no content.
    """

    inputs: dict[str, Any]
    labels: np.ndarray
    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    tokens: tuple[np.ndarray, ...]
    media: dict[str, Tensor] = field(default_factory=dict)
    other: Tensor | None = None

    def last_positions(self) -> np.ndarray:
        """int64 (B,): index of each row's last position that is not padding."""
        real = self.labels != PADDING
        return np.asarray(real.shape[1] - 1 - np.argmax(real[:, ::-1], axis=1), dtype=np.int64)

    def lengths(self) -> np.ndarray:
        """int64 (B,): positions of each row that are not padding."""
        return np.asarray((self.labels != PADDING).sum(axis=1), dtype=np.int64)


class Adapter(ABC):
    """One loaded model.

    Attributes:
        info: the model's identity.
        processing: what makes its inputs of examples.
        modalities: the modalities this model can be given ("text", "image", ...).
        device: where inputs go.
        needs_image: whether every prompt must have a picture.
        lacks: modality → why the model cannot be given it, though its processor prepares it.
        unplaced: modality → why no position of the residual stream holds it, though the model takes it
            (cross-attention); the labels need not contain it.
        states_differ: why the hidden states that transformers returns are not the boundaries, or None. Where a model
            adds something to the stream between two blocks (deepstack, gated cross-attention), the boundary is what
            enters the next block, after the addition.
        codes_repeat: whether two media may give the same vector at a position, as the codes of a vocabulary do.
        template_untold: why the words of the chat template are labelled text too, or None where they are not.
        sees: what a state depends on besides its own token: the tokens "before" it, these and the "media" that reach it
            by cross-attention, or the whole "sequence". This tells equal tokens from copies of one token.
        answers_apart: whether the answer is a sequence of its own, in the decoder of an encoder-decoder.
        max_batch: the most examples that :meth:`encode` takes, or None.
        encodes_on_host: whether :meth:`encode` and :meth:`choice_token_ids` leave the model alone, so that the next
            batch can be encoded in a thread while the model runs.
        loaded_weights: digest of the weights that ``info.revision`` stands for, or None where it stands for none:
            weights with another digest are told from them in the identity.
    """

    info: ModelInfo
    processing: Processing = Processing()
    modalities: frozenset[str]
    device: torch.device
    needs_image: bool = False
    lacks: Mapping[str, str] = MappingProxyType({})
    unplaced: Mapping[str, str] = MappingProxyType({})
    states_differ: str | None = None
    codes_repeat: bool = False
    template_untold: str | None = None
    sees: str = "before"
    answers_apart: bool = False
    max_batch: int | None = None
    encodes_on_host: bool = False
    loaded_weights: str | None = None

    @classmethod
    @abstractmethod
    def load(cls, args: Mapping[str, str], *, device: str | None = None) -> Adapter:
        """Loads the model that ``args``, the pairs of ``--model_args``, name, or raises an AdapterError.

        The device is "cpu", "cuda", "cuda:1", ...; None means a GPU where there is one.
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
        """As :meth:`encode`, but without a pass: labels that only a pass tells may be missing."""
        return self.encode(examples)

    @abstractmethod
    def forward(self, batch: Batch, *, logits: bool) -> Tensor | None:
        """One forward pass without gradient and without KV cache.

        Args:
            batch: from :meth:`encode`.
            logits: whether next-token logits are needed; without them the pass may end after the last block.

        Returns:
            float32 (B, vocabulary), the logits after each example's last token, or None when ``logits`` is False.
        """

    def residual(self, hidden: Tensor) -> Tensor:
        """The residual stream (B, S, d), from the hidden state as a block sees it; the default returns it unchanged.

        Several parallel residual streams are laid side by side: d is then their number times the width of one.
        """
        return hidden

    def last_module(self) -> nn.Module:
        """The module whose output is boundary L."""
        return self.blocks()[-1]

    def tapped(self, tap: str) -> Adapter:
        """The same model with its residual stream watched elsewhere: ``--tap`` language, vision or projector.

        Raises:
            AdapterError: this adapter, or this model, has no such place.
        """
        if tap == "language":
            return self
        raise AdapterError(f"{self.info.name}: {type(self).__name__} watches the language model only; leave --tap out")

    def optional_blocks(self) -> frozenset[int]:
        """Indices of the blocks that a pass may leave out, such as cross-attention without a picture to read."""
        return frozenset()

    def refine_labels(self, batch: Batch, boundary0: Tensor) -> np.ndarray:
        """Labels corrected by what block 1 receives (``boundary0``, (B, S, d)), once per batch.

        The default returns ``batch.labels``. The generic adapter turns constant placeholder positions
        (``image_newline``) into ``structure`` here.
        """
        return batch.labels

    def choice_token_ids(self, prompt: str, choices: Sequence[str]) -> list[int]:
        """For each choice the one token that continues the prompt (of :attr:`Batch.prompts`) with it.

        Raises:
            AdapterError: a choice is not exactly one token after this prompt, so one forward pass cannot score it.
        """
        raise AdapterError(f"{type(self).__name__} does not say which token continues a prompt with a choice")

    def fresh_weights(self, seed: int) -> Adapter:
        """Another adapter of the same model with freshly initialised weights, for the control ``untrained``.

        Equal seeds give equal weights. This adapter keeps its own, so memory holds both.

        Raises:
            AdapterError: this adapter, or this model, does not support it.
        """
        raise AdapterError(
            f"{self.info.name}: {type(self).__name__} cannot make untrained weights; override fresh_weights() in it"
        )

    def check_labels(self, batch: Batch, boundary0: Tensor) -> None:
        """Raises an AdapterError unless labels and the sequence that block 1 saw have the same shape."""
        if tuple(boundary0.shape[:2]) != batch.labels.shape:
            raise AdapterError(
                f"{self.info.name}: labels are {batch.labels.shape[0]} × {batch.labels.shape[1]} but block 1 saw "
                f"{tuple(boundary0.shape[:2])} positions. Usual cause: the processor does not expand the image token "
                f"into one placeholder per image position. Override encode() or refine_labels() in an adapter of your "
                f"own; see docs/adding_a_model.md."
            )
