"""A few encoded examples, with what every token position is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

LABELS = ("padding", "special", "structure", "text", "image", "video", "audio")
"""What a token position can be; a label array holds indices into this tuple.

``special`` are the tokenizer's own marks (BOS, role and turn marks), ``structure`` the constant marks that frame media
(row separators such as ``image_newline``, start and end of image). Only the modalities are measured.
"""
PADDING, SPECIAL, STRUCTURE, TEXT, IMAGE, VIDEO, AUDIO = range(len(LABELS))
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
        other: of the shape of boundary 0, what enters block 1 when the media are others, where labels hang on it; media
            positions that do not differ hold no content.
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
