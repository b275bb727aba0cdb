"""What single architectures do differently from the rest of transformers, by ``model_type``; data, no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Overrides:
    """How one architecture differs from a decoder whose sequence holds a projector's output.

    Attributes:
        fusion: how media meet the text, in one of :data:`FUSIONS`.
        part: dotted path of the model to run inside the loaded one (the thinker of an omni model), or None.
        stack: dotted path of the module below which the blocks lie, where ``get_decoder()`` does not name it.
        unplaced: modality → why no position of the stream is one of it, though the model takes it.
        media_mask: the processor's output that marks the image positions, where no token id does.
        adds_image: whether the model itself puts the picture's positions in front of those of the text.
        streams: the configuration's key for the number of parallel residual streams, or None for one.
        streams_first: whether the streams are the first axis of the hidden state, not the third.
        writes_between_blocks: whether something is added to the stream between two blocks.
        optional_blocks: the configuration's key for the blocks that a pass without media leaves out.
        decoder_reads_prompt: whether the prompt goes to the decoder of an encoder-decoder, as ``decoder_input_ids``.
        answers_apart: whether the answer is a sequence of its own, in the decoder of an encoder-decoder.
        writes_image_token: whether the prompt carries the processor's image token where a picture belongs; where not,
            the processor itself puts the image positions in front.
        needs_image: whether every prompt must come with a picture.
        prompt_end: what the processor appends to a prompt on its own.
        tower: dotted path of the list of the vision tower's blocks, where its name does not tell.
        projector: dotted path of the projector, where its name does not tell.
        unsupported: why the architecture cannot be measured; "" for all that can.
    """

    fusion: str = "projector"
    part: str | None = None
    stack: str | None = None
    unplaced: Mapping[str, str] = field(default_factory=dict)
    media_mask: str | None = None
    adds_image: bool = False
    streams: str | None = None
    streams_first: bool = False
    writes_between_blocks: bool = False
    optional_blocks: str | None = None
    decoder_reads_prompt: bool = False
    answers_apart: bool = False
    writes_image_token: bool = True
    needs_image: bool = False
    prompt_end: str = ""
    tower: str | None = None
    projector: str | None = None
    unsupported: str = ""


FUSIONS = {
    "projector": "an encoder's output, projected, stands in the sequence",
    "deepstack": "as projector, and several encoder layers are added to the same positions in the first blocks",
    "resampler": "a fixed number of learned queries that attended to the encoder's output stand in the sequence",
    "qformer": "the queries of a Q-Former stand in the sequence",
    "encoder-free": "projected pixels or samples stand in the sequence, no encoder before them",
    "discrete": "codes of a learned vocabulary stand in the sequence, like words",
    "cross-attention": "the text's blocks attend to the encoder's output; the sequence holds text alone",
    "encoder-decoder": "an encoder over media and text together, read by a decoder",
    "prefix": "the model puts the encoder's output in front of the sequence",
    "summed": "each position is the sum of a text token and a frame of sound",
    "text": "no media",
}
"""Fusion class → what it means."""

_CROSS_ATTENTION = {"image": "its decoder reads the picture by cross-attention"}

OVERRIDES = {
    "blip": Overrides(
        fusion="cross-attention", unplaced=_CROSS_ATTENTION, writes_image_token=False, needs_image=True
    ),
    "blip-2": Overrides(fusion="qformer", writes_image_token=False, needs_image=True),
    "cohere_compass": Overrides(fusion="deepstack", writes_between_blocks=True),
    "cosmos3_omni": Overrides(fusion="deepstack", writes_between_blocks=True),
    "evolla": Overrides(unsupported="it reads proteins, and transformers' own auto classes do not load it"),
    "florence2": Overrides(fusion="encoder-decoder", stack="model.language_model.encoder", answers_apart=True),
    "fuyu": Overrides(fusion="encoder-free", writes_image_token=False, prompt_end="<0x04>"),
    "gemma3n": Overrides(streams="altup_num_inputs", streams_first=True),
    "git": Overrides(fusion="prefix", adds_image=True, writes_image_token=False),
    "glm5_next": Overrides(streams="hc_mult"),
    "idefics": Overrides(
        fusion="cross-attention", unplaced=_CROSS_ATTENTION, needs_image=True, writes_between_blocks=True
    ),
    "instructblip": Overrides(fusion="qformer", writes_image_token=False, needs_image=True),
    "instructblipvideo": Overrides(fusion="qformer", writes_image_token=False, needs_image=True),
    "kosmos-2": Overrides(fusion="resampler", media_mask="image_embeds_position_mask"),
    "kosmos-2.5": Overrides(fusion="resampler", media_mask="image_embeds_position_mask"),
    "mllama": Overrides(
        fusion="cross-attention", unplaced=_CROSS_ATTENTION, optional_blocks="text_config.cross_attention_layers"
    ),
    "paligemma": Overrides(needs_image=True, prompt_end="\n"),
    "pi0": Overrides(unsupported="it is a robot policy: its decoder gives actions, not next tokens"),
    "pix2struct": Overrides(
        fusion="cross-attention",
        unplaced=_CROSS_ATTENTION,
        decoder_reads_prompt=True,
        writes_image_token=False,
        needs_image=True,
    ),
    "pp_formulanet": Overrides(
        fusion="cross-attention",
        unplaced=_CROSS_ATTENTION,
        decoder_reads_prompt=True,
        writes_image_token=False,
        needs_image=True,
    ),
    "qwen2_5_omni": Overrides(part="thinker"),
    "qwen3_omni_moe": Overrides(fusion="deepstack", writes_between_blocks=True, part="thinker"),
    "qwen3_omni_moe_thinker": Overrides(fusion="deepstack", writes_between_blocks=True),
    "qwen3_vl": Overrides(fusion="deepstack", writes_between_blocks=True),
    "qwen3_vl_moe": Overrides(fusion="deepstack", writes_between_blocks=True),
    "qwen4_exp": Overrides(streams="hc_count"),
    "t5gemma2": Overrides(fusion="encoder-decoder", stack="model.encoder.text_model", answers_apart=True),
    "udop": Overrides(
        unsupported="its processor needs the words of the page with their boxes, which no task here has, and its "
        "positions shift with the padding of the batch"
    ),
    "vision-encoder-decoder": Overrides(
        fusion="cross-attention",
        unplaced=_CROSS_ATTENTION,
        decoder_reads_prompt=True,
        writes_image_token=False,
        needs_image=True,
    ),
}


def overrides_for(model_type: str) -> Overrides:
    """The overrides of an architecture; the defaults where it has none."""
    return OVERRIDES.get(model_type, Overrides())
