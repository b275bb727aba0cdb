"""Where the residual stream can be watched. Imports no torch."""

from __future__ import annotations

from microscope_bench.errors import unknown_name

LANGUAGE, VISION, PROJECTOR = "language", "vision", "projector"
TAPS = {
    LANGUAGE: "the decoder blocks of the language model",
    VISION: "the blocks of the vision tower",
    PROJECTOR: "what leaves the projector for the language model; one boundary, no blocks",
}
"""Name → what is watched there."""


def check_tap(tap: str) -> None:
    """Raises UnknownNameError for what is no key of :data:`TAPS`."""
    if tap not in TAPS:
        raise unknown_name("tap", tap, list(TAPS))
