"""A transformers model that is in memory already, in a notebook or a training loop, as an adapter."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import structs
from PIL import Image
from torch import nn

from microscope_bench.adapters.base import IMAGE
from microscope_bench.adapters.evaluation_mode import evaluation_mode, unwrapped
from microscope_bench.adapters.foreign_errors import loading
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.model_args import (
    boolean_arg,
    positive_int_arg,
    recorded_options,
    refuse_unknown_args,
    title_arg,
)
from microscope_bench.adapters.offloading import unusable_weights
from microscope_bench.adapters.overrides import overrides_of
from microscope_bench.adapters.pinned_checkpoint import Checkpoint
from microscope_bench.adapters.processor_repairs import repaired
from microscope_bench.adapters.settings_digest import settings_digest
from microscope_bench.errors import AdapterError, said
from microscope_bench.example import PLACEHOLDERS, Example
from microscope_bench.system.local_code import local_code_digest

ARGS = ("use_chat_template", "max_length")
"""The model args that mean something for a model that is loaded, beside ``name``."""


def in_memory(model: nn.Module, processor: Any, args: Mapping[str, str] = MappingProxyType({})) -> HFAdapter:
    """A transformers model as an adapter; the model and its processor are looked at and stay as they are.

    Its identity is its class, its configuration, that of its processor, its weights when they are measured and the code
    of those of its modules that are no library's.

    Args:
        model: as it is: on whatever devices, trained or in training, with adapters of PEFT, wrapped for data
            parallelism, compiled (it is measured uncompiled).
        processor: that of the model, or its tokenizer where it takes text alone.
        args: model args, of :data:`ARGS`, and ``name``.

    Raises:
        AdapterError: the model cannot be measured as it is, or the processor is not that of the model.
    """
    title = title_arg(args.get("name"))
    args = {key: value for key, value in args.items() if key != "name"}
    refuse_unknown_args(args, ARGS)
    inner = _measurable(model)
    kind = type(inner)
    name = f"in-memory/{kind.__name__}"
    tokenizer, processor = _parts(name, inner, processor)
    with loading(name, "Its configuration, tokenizer or template is not what its class expects"):
        adapter = HFAdapter(
            inner,
            tokenizer,
            processor,
            Checkpoint(Path(), name, f"config-{settings_digest([inner], [processor or tokenizer])}"),
            use_chat_template=boolean_arg(args, "use_chat_template", False) if "use_chat_template" in args else None,
            max_length=positive_int_arg(args, "max_length"),
        )
    kinds = {type(module) for module in inner.modules()}
    code = "+".join(sorted({digest for one in kinds if (digest := _code_of(one))}))
    adapter.info = structs.replace(
        adapter.info,
        name=title or name,
        adapter=f"hf@{code}" if code else "hf",
        options=recorded_options(args),
    )
    _try_a_question(adapter)
    return adapter


def _measurable(model: nn.Module) -> Any:
    """The transformers model inside whatever wraps it, or an AdapterError that says why it cannot be measured."""
    from transformers import PreTrainedModel

    inner = unwrapped(model)
    kind = type(inner).__name__
    if cause := unusable_weights(inner):
        raise AdapterError(f"{kind} cannot be measured as it is: {cause}")
    if not isinstance(inner, PreTrainedModel):
        raise AdapterError(
            f"{kind} is no model of transformers, so nothing here knows its decoder; give the model that it wraps, or "
            f"write an adapter as docs/adding_a_model.md shows"
        )
    if reason := overrides_of(inner.config).unsupported:
        raise AdapterError(f"{kind} ({inner.config.model_type}) cannot be measured: {reason}")
    return inner


def _code_of(kind: type) -> str | None:
    """A digest of the local code of a class of modules; None where an installed package has it."""
    module = sys.modules.get(kind.__module__)  # None of a class that is made while the model is wrapped
    return None if module is None else local_code_digest(module, made=kind)


def _parts(name: str, model: Any, processor: Any) -> tuple[Any, Any | None]:
    """Copies of the tokenizer and, where there is one, of the processor: what is set in them is not the caller's."""
    from transformers import PreTrainedTokenizerBase

    of_text = isinstance(processor, PreTrainedTokenizerBase)
    if not (of_text or isinstance(getattr(processor, "tokenizer", None), PreTrainedTokenizerBase)):
        given = "none is given" if processor is None else f"{type(processor).__name__} is none"
        raise AdapterError(
            f"{name} needs its processor, and {given}: processor=AutoProcessor.from_pretrained(...) of its checkpoint, "
            f"or the tokenizer of a model that takes text alone"
        )
    if of_text and "pixel_values" in inspect.signature(model.forward).parameters:
        raise AdapterError(
            f"{name} takes pictures, which {type(processor).__name__} alone cannot prepare; give its processor"
        )
    processor = deepcopy(processor) if of_text else repaired(deepcopy(processor))
    tokenizer = processor if of_text else processor.tokenizer
    text = model.config.get_text_config(decoder=True)
    n_ids = getattr(text, "vocab_size", sys.maxsize) + getattr(text, "additional_vocab_size", 0)
    if (largest := max(tokenizer.get_vocab().values())) >= n_ids:
        raise AdapterError(
            f"{type(processor).__name__} is not the processor of {name}: it has token ids up to {largest}, and the "
            f"model has {n_ids}"
        )
    return tokenizer, None if of_text else processor


def _try_a_question(adapter: HFAdapter) -> None:
    """Raises an AdapterError unless a question, with a picture where the model takes one, goes through the model."""
    has_image = "image" in adapter.modalities
    images = (Image.new("RGB", (64, 48), (90, 120, 30)),) if has_image else ()
    text = f"{PLACEHOLDERS['image'] * has_image}Which colour is it?\nA. red\nB. green\nAnswer:"
    fits_not = (
        f"{type(adapter.processor or adapter.tokenizer).__name__} does not fit {adapter.info.name}: a question"
        f"{' with a picture' * has_image} does not go through it ({{}}). Give the processor of the very checkpoint"
    )
    try:
        with evaluation_mode(adapter):
            batch = adapter.encode([Example("trial", text, images)])
            adapter.forward(batch, logits=True)
    except Exception as error:  # whatever a model says of inputs that are not its own
        raise AdapterError(fits_not.format(said(error).rstrip("."))) from error
    if has_image and not adapter.unplaced and not (batch.labels == IMAGE).any():
        raise AdapterError(fits_not.format("no position of its prompt is one of the picture"))
