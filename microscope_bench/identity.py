"""Which model it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelInfo:
    """Which model it is, as far as that decides whether two results may be compared.

    Attributes:
        name: what a leaderboard row shows: the hub repository, or the last part of a local path.
        repo: hub repository ("org/name") or, for a local directory, its name without the path to it.
        revision: 40-hex commit of the hub repository, or ``"sha256-"`` + 16 hex digits of a local directory's content.
        adapter: the adapter's registered name.
        architecture: the model class, for instance ``LlavaNextForConditionalGeneration``.
        dtype: of the hidden states, without the ``torch.`` prefix.
        quantization: the method ("bitsandbytes", ...), or None.
        attention: the attention implementation of the decoder ("sdpa", "eager", ...).
        n_layers: L, the number of decoder blocks; there are L + 1 boundaries.
        hidden_size: d, the width of the residual stream.
        n_parameters: of the whole model, encoders included.
        trained: False for freshly initialised weights; such a row says so everywhere.
        processor: class name of the processor or tokenizer that made the inputs.
        image_processor: class name of the image processor, or None; its PIL and torchvision variants differ slightly.
        chat_template_sha256: of the template that framed the prompt, or None where there is none.
        context_length: the longest sequence the model accepts, or None where the configuration does not say.
        options: model args that can change a number and stand in no other field, as the user gave them.
        control: the control under which it is measured, or None.
    """

    name: str
    repo: str
    revision: str
    adapter: str
    architecture: str
    dtype: str
    quantization: str | None
    attention: str | None
    n_layers: int
    hidden_size: int
    n_parameters: int
    trained: bool
    processor: str
    image_processor: str | None
    chat_template_sha256: str | None
    context_length: int | None
    options: Mapping[str, str] = field(default_factory=dict)
    control: str | None = None
