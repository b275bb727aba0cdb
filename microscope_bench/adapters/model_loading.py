"""Loads a transformers model from a pinned checkpoint; every weight must come from the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from microscope_bench.adapters.foreign_errors import loading
from microscope_bench.adapters.offloading import first_weight
from microscope_bench.adapters.overrides import Overrides, overrides_of
from microscope_bench.adapters.pinned_checkpoint import Checkpoint
from microscope_bench.adapters.prompting import chat_template, template_sha256
from microscope_bench.adapters.quantization import quantised_modules, quantization_name, refuse_unscaled
from microscope_bench.adapters.weight_files import checked_weight_files, json_object
from microscope_bench.adapters.weight_headers import holding, no_larger_than
from microscope_bench.adapters.weight_places import check_places, loading_dtype, stored_dtypes
from microscope_bench.errors import AdapterError
from microscope_bench.identity import ModelInfo, Processing

UNTRAINED_KEY = "microscope_bench_untrained"
"""Top-level key of ``config.json`` that marks freshly initialised weights."""


def read_config(checkpoint: Checkpoint) -> Any:
    """The model configuration of a checkpoint; raises an AdapterError where transformers cannot read it."""
    from transformers import AutoConfig

    if not (checkpoint.path / "config.json").is_file():
        raise AdapterError(f"{checkpoint.repo} has no config.json; pretrained must name a checkpoint of transformers")
    if json_object(checkpoint.path / "config.json") is None:
        raise AdapterError(f"config.json of {checkpoint.repo} is not JSON; fetch the checkpoint again")
    advice = (
        "A newer architecture needs a newer transformers (pip install -U transformers); code that ships with a "
        "checkpoint is never run: write an adapter for it, as docs/adding_a_model.md shows"
    )
    with loading(f"the configuration of {checkpoint.repo}", advice):
        return AutoConfig.from_pretrained(checkpoint.path, trust_remote_code=False)


def is_multimodal(config: Any) -> bool:
    from transformers import AutoModelForMultimodalLM

    return type(config) in AutoModelForMultimodalLM._model_mapping


def load_transformers_model(
    checkpoint: Checkpoint, config: Any, device: torch.device, options: Mapping[str, Any]
) -> Any:
    """The model in evaluation mode, every weight from a safetensors file of the checkpoint; else an AdapterError.

    ``options`` are those of ``from_pretrained``, but for ``dtype``, which is the model arg or None.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    if part := overrides_of(config).part:
        config = _config_of_part(checkpoint, config, part)
    family = AutoModelForMultimodalLM if is_multimodal(config) else AutoModelForCausalLM
    files = checked_weight_files(checkpoint.path)
    held = holding(checkpoint.path, files)
    stored = stored_dtypes(checkpoint.path / name for name in files)
    refuse_unscaled(checkpoint.repo, config, stored)
    options = {**options, "dtype": loading_dtype(options["dtype"], config, stored, device)}
    advice = (
        "If memory is what is missing, see dtype and device_map in docs/adding_a_model.md; if a file is damaged, fetch "
        "the checkpoint again."
    )
    with loading(f"the model of {checkpoint.repo}", advice), no_larger_than(held, checkpoint.repo):
        model, report = family.from_pretrained(
            checkpoint.path, config=config, use_safetensors=True, output_loading_info=True, **options
        )
        model = model if "device_map" in options else model.to(device)
    unplaced = () if part else report["unexpected_keys"]  # of a model that is read in part, the rest has no place
    check_places(model, checkpoint.repo, checkpoint.path, stored=stored, unplaced=unplaced)
    if missing := sorted(report["missing_keys"]):
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise AdapterError(
            f"{checkpoint.repo} lacks {len(missing)} weights of {type(model).__name__}, which would be random: {shown}"
            f". The checkpoint is incomplete or of another architecture than its config.json says."
        )
    return model.eval()


def _config_of_part(checkpoint: Checkpoint, config: Any, part: str) -> Any:
    """Of an omni model the configuration of the part that reads the prompt; the part that speaks is not loaded."""
    if getattr(config, "quantization_config", None) is not None:
        raise AdapterError(
            f"{checkpoint.repo} is a quantised omni model, of which the part that reads cannot be loaded alone; load "
            f"an unquantised one and give quantization=..."
        )
    part_config = getattr(config, f"{part}_config")
    setattr(part_config, UNTRAINED_KEY, getattr(config, UNTRAINED_KEY, False))
    return part_config


def start_tokens(model: Any) -> list[int]:
    """The tokens with which the decoder of an encoder-decoder begins an answer."""
    decoder = model.config.get_text_config(decoder=True)
    places = ((model.config, "decoder_start_token_id"), (decoder, "decoder_start_token_id"), (decoder, "bos_token_id"))
    found = next((token for place, key in places if (token := getattr(place, key, None)) is not None), None)
    if found is None:
        raise AdapterError(f"{type(model).__name__}: its configuration names no decoder_start_token_id")
    forced = getattr(getattr(model, "generation_config", None), "forced_bos_token_id", None)
    return [int(found)] if forced is None else [int(found), int(forced)]


def model_info(model: Any, checkpoint: Checkpoint, overrides: Overrides, n_layers: int) -> ModelInfo:
    """The identity of a loaded model, from its configuration, its checkpoint and its weights."""
    text_config = model.config.get_text_config(decoder=True)
    n_streams = 1 if overrides.streams is None else getattr(text_config, overrides.streams[0])
    quantization, quantised = getattr(model.config, "quantization_config", None), quantised_modules(model)
    return ModelInfo(
        name=checkpoint.repo,
        repo=checkpoint.repo,
        revision=checkpoint.revision,
        adapter="hf",
        architecture=type(model).__name__,
        dtype=str(first_weight(model).dtype).removeprefix("torch."),
        quantization=quantization_name(quantization or {}, quantised) if quantization or quantised else None,
        attention=getattr(text_config, "_attn_implementation", None),
        n_layers=n_layers,
        hidden_size=int(text_config.hidden_size) * n_streams,
        n_parameters=int(model.num_parameters()),
        trained=not getattr(model.config, UNTRAINED_KEY, False),
        control=None,
        options={},
        peft=peft_of(model),
    )


def peft_layers(model: Any) -> Iterator[tuple[str, Any, str]]:
    """The layers that PEFT has put into a model: name, module, and the method, such as ``LORA``."""
    for name, module in model.named_modules():
        _, _, method = type(module).__module__.partition("peft.tuners.")
        if method and hasattr(module, "disable_adapters"):
            yield name, module, method.partition(".")[0].upper()


def peft_of(model: Any) -> str | None:
    """The PEFT adapters that act in a model, by method and rank: ``LORA-r8``; their weights, its revision tells."""
    found = set()
    for _, module, method in peft_layers(model):
        ranks = getattr(module, "r", None)
        if module.disable_adapters:
            continue
        if isinstance(ranks, Mapping):
            found |= {f"{method}-r{ranks[name]}" for name in module.active_adapters if name in ranks}
        else:
            found.add(method)
    return "+".join(sorted(found)) or None


def processing_of(model: Any, processor: Any, templated: bool, max_length: int | None) -> Processing:
    """A processor or tokenizer and, if ``templated``, its template; ``max_length`` replaces the configured length."""
    image_processor = getattr(processor, "image_processor", None)
    configured = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return Processing(
        processor=type(processor).__name__,
        image_processor=None if image_processor is None else type(image_processor).__name__,
        chat_template_sha256=template_sha256(chat_template(processor)) if templated else None,
        context_length=max_length or configured,
    )
