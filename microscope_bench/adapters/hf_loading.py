"""Loads the parts of a transformers model that model args name: checkpoint, configuration, processor, weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from microscope_bench.adapters.model_args import boolean_arg, check_args, positive_int_arg
from microscope_bench.adapters.model_loading import is_multimodal, load_transformers_model, read_config
from microscope_bench.adapters.offloading import device_options
from microscope_bench.adapters.overrides import overrides_of
from microscope_bench.adapters.peft_adapters import base_and_adapter, with_adapter
from microscope_bench.adapters.pinned_checkpoint import resolve_checkpoint
from microscope_bench.adapters.processors import load_processor, load_tokenizer
from microscope_bench.adapters.quantization import quantization_config
from microscope_bench.errors import AdapterError
from microscope_bench.system.devices import pick_device


def load_parts(args: Mapping[str, str], device: str | None, *, measured_anyway: bool = False) -> dict[str, Any]:
    """Loads the arguments of the constructor of :class:`~microscope_bench.adapters.hf.HFAdapter`, by name.

    With ``measured_anyway`` also an architecture that its entry in the overrides calls unsupported.
    """
    check_args("hf", args)
    target = pick_device(device)
    template = boolean_arg(args, "use_chat_template", False) if "use_chat_template" in args else None
    max_length = positive_int_arg(args, "max_length")
    subfolder = args.get("subfolder", "")
    checkpoint = resolve_checkpoint(args["pretrained"], args.get("revision"), subfolder=subfolder)
    checkpoint, adapter = base_and_adapter(checkpoint, args.get("peft"))
    config = read_config(checkpoint)
    if not measured_anyway and (reason := overrides_of(config).unsupported):
        raise AdapterError(f"{checkpoint.repo} ({config.model_type}) cannot be measured: {reason}")
    options = device_options(args.get("device_map"), args.get("max_memory"), args.get("offload_folder"))
    if "attn_implementation" in args:
        options["attn_implementation"] = args["attn_implementation"]
    if "quantization" in args:
        options["quantization_config"] = quantization_config(args["quantization"])
    if device is not None and "device_map" in options:
        raise AdapterError(f"device_map spreads the model by itself; leave --device {device} out")
    processor = None
    if is_multimodal(config):
        processor = load_processor(checkpoint.path, config)
        if not hasattr(processor, "tokenizer"):  # the multimodal mapping holds a few text-only models
            processor = None
    tokenizer = load_tokenizer(checkpoint.path) if processor is None else processor.tokenizer
    # libraries that quantise choose what they compute in
    dtype = args.get("dtype", "auto" if "quantization" in args else None)
    options |= {"dtype": dtype, "trust_remote_code": False}
    model = load_transformers_model(checkpoint, config, target, options)
    if adapter is not None:
        model, checkpoint = with_adapter(model, checkpoint, adapter)
    return {
        "model": model,
        "tokenizer": tokenizer,
        "processor": processor,
        "checkpoint": checkpoint,
        "use_chat_template": template,
        "max_length": max_length,
    }
