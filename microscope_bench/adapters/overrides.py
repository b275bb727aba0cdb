"""What single architectures do differently from the rest of transformers, by ``model_type``; data, no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Sees = Literal["before", "media", "sequence"]
"""What a state depends on besides its own token, see :attr:`~microscope_bench.adapters.base.Adapter.sees`."""


@dataclass(frozen=True)
class Overrides:
    """How one architecture differs from a decoder whose sequence holds a projector's output."""

    fusion: str = "projector"  # how media meet the text, in one of :data:`FUSIONS`
    part: str | None = None  # dotted path of the model to run inside the loaded one (the thinker of an omni model)
    # dotted path of the module that contains the blocks, where ``get_decoder()`` does not name it
    stack: str | None = None
    # modality → why no position of the stream holds it, though the model takes it
    unplaced: Mapping[str, str] = field(default_factory=dict)
    media_mask: str | None = None  # the processor's output that marks the image positions, where no token id does
    # whether the model itself puts the picture's positions before or after those of the text
    adds_image: Literal["before", "after"] | None = None
    # the configuration's key for the number of parallel residual streams, and their axis in a hidden state
    streams: tuple[str, int] | None = None
    states_differ: str | None = None  # why the hidden states that transformers returns are not the boundaries
    # tokens of the image vocabulary that the model itself puts into image positions (row ends)
    constant_tokens: tuple[str, ...] = ()
    # whether learned constants enter image positions through the projector, so that only a second pass with
    # other media tells them from content
    constants_inside: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)  # arguments of the model beside the processor's output
    passes: tuple[str, ...] = ()  # the processor's outputs that the model takes though its signature does not name them
    # modality → why it cannot be given, though the architecture has it
    lacks: Mapping[str, str] = field(default_factory=dict)
    filler: str | None = None  # dotted path of the embedder whose last vector fills up a medium's positions
    videos_as_images: bool = False  # whether the frames of a video stand in the sequence as pictures
    same_number: bool = False  # whether all examples of a batch must have the same number of pictures
    max_batch: int | None = None  # the most examples that one pass takes
    # whether the prompt goes to the decoder of an encoder-decoder, as ``decoder_input_ids``
    decoder_reads_prompt: bool = False
    answers_apart: bool = False  # whether the answer is a sequence of its own, in the decoder of an encoder-decoder
    # whether the prompt contains the processor's image token where a picture belongs; otherwise the processor
    # itself puts the image positions in front
    writes_image_token: bool = True
    needs: Literal["image", "video", "audio"] | None = None  # the modality that every prompt must come with
    videos_go_by: str = "videos"  # the argument by which the processor takes videos
    longest_sound: int | None = None  # the number of samples at which the processor cuts sound
    sound_window: str | None = None  # the attribute of its feature extractor that holds that number instead
    # replaces the tokenizer's special tokens before a raw prompt, where those would close the prompt with the
    # token that ends an answer
    prompt_start: str | None = None
    prompt_end: str = ""  # what the processor itself appends to a prompt
    # tokens that frame media, where no id of the configuration or the processor names them
    framing: tuple[str, ...] = ()
    # what the processor writes where a picture belongs, where it takes an example as one list of texts and
    # pictures
    image_mark: str | None = None
    # dotted paths; the first that exists is the list of the vision tower's blocks. None: the usual names
    # tell. NOWHERE: no stack of blocks keeps its positions and runs once in a pass.
    tower: tuple[str, ...] | None = None
    projector: tuple[str, ...] | None = None  # the same for the module whose output the language model reads
    prefix_attention: bool = False  # whether the prompt's positions attend to each other in both directions
    unsupported: str | None = None  # why the architecture cannot be measured

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion {self.fusion!r} is none of {', '.join(FUSIONS)}")

    @property
    def sees(self) -> Sees:
        if self.answers_apart or self.prefix_attention:
            return "sequence"
        return "media" if self.unplaced else "before"


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
    "text": "no media",
}
"""Fusion class → what it means."""

NOWHERE: tuple[str, ...] = ()

_CROSS_ATTENTION = {"image": "its decoder reads the picture by cross-attention"}

_BETWEEN = "it writes into the stream between blocks, where transformers does not look"
_NO_PROMPT = (
    "it transcribes what it hears: its processor takes no prompt, and every position is a sum of text and sound"
)

_PICTURE_ENCODER: dict[str, Any] = {  # and a text decoder that reads the prompt
    "fusion": "cross-attention",
    "unplaced": _CROSS_ATTENTION,
    "decoder_reads_prompt": True,
    "writes_image_token": False,
    "needs": "image",
}
_T5: dict[str, Any] = {"stack": "language_model.encoder", "answers_apart": True}

_GEMMA_SOUND = 480_000  # 30 seconds
_TILE_TAGS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 9) for column in range(1, 9))

OVERRIDES = {
    "aria": Overrides(fusion="resampler"),
    "blip": Overrides(
        fusion="cross-attention",
        unplaced=_CROSS_ATTENTION,
        writes_image_token=False,
        needs="image",
        prompt_start="[DEC]",
        projector=("vision_model",),
    ),
    "blip-2": Overrides(fusion="qformer", writes_image_token=False, needs="image"),
    "blip-2/t5": Overrides(fusion="qformer", writes_image_token=False, needs="image", **_T5),
    "chameleon": Overrides(fusion="discrete", prompt_end="<reserved08706>"),
    "cohere_compass": Overrides(fusion="deepstack", states_differ=_BETWEEN),
    "cosmos3_omni": Overrides(fusion="deepstack", states_differ=_BETWEEN),
    "deepseek_ocr2": Overrides(fusion="resampler", tower=("model.vision_tower.vision_encoder.layers",)),
    "deepseek_vl_hybrid": Overrides(tower=("model.vision_model.encoder.layers",)),
    "diffusion_gemma": Overrides(
        fusion="encoder-decoder",
        stack="model.encoder.language_model",
        answers_apart=True,
        passes=("pixel_values", "image_position_ids", "mm_token_type_ids"),
        states_differ="transformers returns those of the decoder, which reads a canvas and not the prompt",
        max_batch=1,  # the canvas of transformers 5.23 attends to padding
    ),
    "emu3": Overrides(fusion="discrete", constant_tokens=("<|extra_200|>",)),
    "evolla": Overrides(unsupported="it reads proteins, and transformers' own auto classes do not load it"),
    "florence2": Overrides(
        fusion="encoder-decoder",
        stack="model.language_model.encoder",
        answers_apart=True,
        writes_image_token=False,
        needs="image",  # without one its processor writes neither <s> nor </s>
        prompt_end="</s>",
        tower=NOWHERE,
    ),
    "fuyu": Overrides(fusion="encoder-free", writes_image_token=False, prompt_end="<0x04>"),
    "ernie4_5_vl_moe": Overrides(projector=("model.resampler_model",)),
    "gemma3n": Overrides(
        streams=("altup_num_inputs", 0),
        filler="model.embed_audio",
        longest_sound=_GEMMA_SOUND,
        projector=NOWHERE,
    ),
    "gemma4": Overrides(longest_sound=_GEMMA_SOUND),
    "gemma4_unified": Overrides(fusion="encoder-free"),
    "git": Overrides(fusion="prefix", adds_image="before", writes_image_token=False, prompt_start="[CLS]"),
    "glm5_next": Overrides(streams=("hc_mult", 2)),
    "granite4_vision": Overrides(fusion="deepstack", states_differ=_BETWEEN, projector=NOWHERE),
    "granite_docling": Overrides(fusion="deepstack", states_differ=_BETWEEN),
    "granite_speech": Overrides(fusion="qformer"),
    "granite_speech_plus": Overrides(fusion="qformer"),
    # transformers 5.23 numbers the pictures through the batch where it means within the example, so one at a time
    "hunyuan_vl": Overrides(constants_inside=True, max_batch=1, projector=("model.vision_tower.patch_merger",)),
    "idefics": Overrides(
        fusion="cross-attention",
        unplaced=_CROSS_ATTENTION,
        states_differ=_BETWEEN,
        framing=("<fake_token_around_image>",),
        image_mark="<fake_token_around_image><image><fake_token_around_image>",
        projector=("model.perceiver_resampler", "model.vision_model"),
    ),
    "idefics2": Overrides(fusion="resampler"),
    "inkling2": Overrides(states_differ="it attends to earlier blocks once more before its final norm"),
    "inkling_mm_model": Overrides(fusion="encoder-free", tower=NOWHERE, projector=NOWHERE),
    "instructblip": Overrides(fusion="qformer", writes_image_token=False, needs="image"),
    "instructblip/t5": Overrides(fusion="qformer", writes_image_token=False, needs="image", **_T5),
    "instructblipvideo": Overrides(fusion="qformer", writes_image_token=False, needs="video", videos_go_by="images"),
    "internvl": Overrides(videos_as_images=True),
    "kosmos-2": Overrides(
        fusion="resampler",
        media_mask="image_embeds_position_mask",
        writes_image_token=False,
        needs="image",
        framing=("<image>", "</image>"),
    ),
    "kosmos-2.5": Overrides(fusion="resampler", media_mask="image_embeds_position_mask"),
    "kyutai_speech_to_text": Overrides(unsupported=_NO_PROMPT),
    "minicpm_ocr": Overrides(tower=NOWHERE),
    "minicpmv4_6": Overrides(tower=NOWHERE),
    "minicpmv4_7": Overrides(tower=NOWHERE),
    "mistral4": Overrides(fusion="text"),
    "mllama": Overrides(
        fusion="cross-attention",
        unplaced=_CROSS_ATTENTION,
        same_number=True,  # text that may see no picture attends to all of them, those that fill up the batch too
    ),
    "molmo2": Overrides(videos_as_images=True),
    "muse_glimmer": Overrides(projector=("model.vision_projection",)),
    "muse_spark": Overrides(projector=("model.vision_projection",)),
    "nemotron_h_omni": Overrides(lacks={"video": "transformers 5.23 fails on its videos"}),
    "ovis2": Overrides(projector=NOWHERE),
    "paligemma": Overrides(needs="image", prompt_end="\n", prefix_attention=True),
    # transformers 5.23 adds the mask of its audio encoder as ones and zeros, so that sounds hear their padding
    "phi4_multimodal": Overrides(
        constants_inside=True,
        max_batch=1,
        projector=("model.embed_tokens_extend.image_embed.img_projection_down",),
    ),
    "pi0": Overrides(unsupported="it is a robot policy: its decoder gives actions, not next tokens"),
    "pix2struct": Overrides(
        **_PICTURE_ENCODER,
        prompt_start="<pad>",
        tower=("encoder.encoder.layer", "encoder.layers"),
        projector=("encoder.layernorm",),
    ),
    "pp_formulanet": Overrides(
        **_PICTURE_ENCODER,
        tower=("model.encoder.layers",),
    ),
    "qwen2_5_omni": Overrides(part="thinker", sound_window="n_samples"),
    "qwen2_5_omni_thinker": Overrides(sound_window="n_samples"),
    "qwen2_audio": Overrides(sound_window="n_samples"),
    "qwen3_omni_moe": Overrides(fusion="deepstack", states_differ=_BETWEEN, part="thinker"),
    "qwen3_omni_moe_thinker": Overrides(fusion="deepstack", states_differ=_BETWEEN),
    "qwen3_vl": Overrides(fusion="deepstack", states_differ=_BETWEEN),
    "qwen3_vl_moe": Overrides(fusion="deepstack", states_differ=_BETWEEN),
    "qwen4_exp": Overrides(streams=("hc_count", 2)),
    # its processor writes the number of frames of the batch's longest video into every prompt
    "smolvlm": Overrides(videos_as_images=True, max_batch=1, framing=_TILE_TAGS),
    "step3p7": Overrides(tower=NOWHERE, projector=NOWHERE),
    "t5gemma2": Overrides(fusion="encoder-decoder", stack="model.encoder.text_model", answers_apart=True),
    "udop": Overrides(
        unsupported="its processor needs the words of the page with their boxes, which no task here has; "
        "docs/adding_a_model.md shows an adapter for it"
    ),
    "unlimited_ocr": Overrides(tower=("model.vision_tower.vision_encoder.encoder.layers",)),
    "vibevoice_asr": Overrides(arguments={"sample": False}),  # else it adds noise to what it hears
    "vision-encoder-decoder": Overrides(
        **_PICTURE_ENCODER,
        tower=("encoder.encoder.layer", "encoder.layers"),
        projector=("enc_to_dec_proj", "encoder.layernorm", "encoder"),
    ),
    "voxtral": Overrides(framing=("[BEGIN_AUDIO]",)),
    "voxtral_realtime": Overrides(unsupported=_NO_PROMPT),
}
"""``model_type``, or ``model_type/model_type of its language model`` where that decides → overrides."""


def overrides_for(model_type: str, language_model: str = "") -> Overrides:
    """The overrides of the architecture with this ``model_type``, and of its language model where that is known."""
    return OVERRIDES.get(f"{model_type}/{language_model}", OVERRIDES.get(model_type, Overrides()))


def overrides_of(config: Any) -> Overrides:
    return overrides_for(config.model_type, getattr(getattr(config, "text_config", None), "model_type", ""))
