"""What single architectures do differently from the rest of transformers, by ``model_type``; data, no code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Overrides:
    """How one architecture's raw prompt and decoder differ.

    Attributes:
        writes_image_token: whether the prompt carries the processor's image token where a picture belongs; where not,
            the processor itself puts the image positions in front.
        needs_image: whether every prompt must come with a picture.
        prompt_end: what the processor appends to a prompt on its own.
        decoder: dotted path of the decoder inside the model, where ``get_decoder()`` does not name it.
    """

    writes_image_token: bool = True
    needs_image: bool = False
    prompt_end: str = ""
    decoder: str | None = None


OVERRIDES = {
    "blip-2": Overrides(writes_image_token=False, needs_image=True),
    "fuyu": Overrides(writes_image_token=False, prompt_end="<0x04>"),
    "instructblip": Overrides(writes_image_token=False, needs_image=True),
    "paligemma": Overrides(needs_image=True, prompt_end="\n"),
    "pi0": Overrides(decoder="model.vlm"),
    "qwen2_5_omni": Overrides(decoder="thinker"),
}

_CROSS_ATTENTION = "its decoder reads the picture by cross-attention, so no residual-stream position is an image token"
_ENCODER = "its image tokens live in an encoder, not in the decoder's residual stream"
_PREFIX = "it puts the picture's positions in front of the text inside the model, where nothing labels them"

WITHOUT_IMAGE_TOKENS = {
    "mllama": _CROSS_ATTENTION,
    "idefics": _CROSS_ATTENTION,
    "evolla": _CROSS_ATTENTION,
    "blip": _CROSS_ATTENTION,
    "pix2struct": _CROSS_ATTENTION,
    "vision-encoder-decoder": _CROSS_ATTENTION,
    "florence2": _ENCODER,
    "t5gemma2": _ENCODER,
    "udop": _ENCODER,
    "pp_formulanet": _ENCODER,
    "git": _PREFIX,
}
"""Architectures whose decoder has no image positions to measure, with the reason."""


def overrides_for(model_type: str) -> Overrides:
    """The overrides of an architecture; the defaults where it has none."""
    return OVERRIDES.get(model_type, Overrides())
