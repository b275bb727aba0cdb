"""One line of the table: how an architecture is made tiny, how media enter it, and what is expected of the check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.matrix.media import Medium

VERIFIED, WITHOUT_MEDIA, UNSUPPORTED = "verified", "verified without media", "unsupported"


@dataclass(frozen=True)
class Row:
    """One architecture.

    Attributes:
        model_type: its key in transformers' mapping of multimodal language models.
        media: modality → how it enters; every modality is checked.
        config: what shrinking by name gets wrong, see :func:`tests.tiny.shrink.tiny_config`; the checkpoints of
            ``tests/tiny``, whose processors are real, are built from it too.
        more: name → further tensors that its processor makes, from (input_ids, attention_mask).
        skips: names of checks that do not apply, as ``check`` itself says.
        needs: packages without which the architecture cannot be built.
        without_taps: the places where it cannot be tapped though it takes pictures, as the error says.
        unsupported: why it cannot be measured, as the error says it; "" where it can.
    """

    model_type: str
    media: Mapping[str, Medium] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    skips: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    without_taps: tuple[str, ...] = ()
    unsupported: str = ""

    @property
    def status(self) -> str:
        """What the architecture ends as when everything in its row holds."""
        return UNSUPPORTED if self.unsupported else VERIFIED if self.media else WITHOUT_MEDIA
