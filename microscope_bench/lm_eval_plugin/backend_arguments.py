"""``--model_args`` of the backend: which are its own, which lm-eval's, which the adapter's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from microscope_bench.config import RunConfig
from microscope_bench.errors import AdapterError
from microscope_bench.system.key_values import flag, whole

CONFIG_ARGUMENTS = (
    "protocol",
    "tokens_per_example",
    "id_tokens",
    "max_skipped",
    "metrics",
    "split_by",
    "measure_memory",
)
"""Fields of the config that are given as model args; lm-eval has options of its own for others."""

LM_EVAL_ARGUMENTS = ("batch_size", "max_batch_size", "add_bos_token", "prefix_token_id", "logits_cache")

LM_EVAL_OPTIONS = ("batch_size", "max_batch_size", "device")
"""What lm-eval adds to the model args from options of its own."""

LM_EVAL_DEVICE = "cuda:0"
"""What lm-eval's command line asks for where the user names no device."""


@dataclass(frozen=True)
class BackendArguments:
    """The model args, sorted by who reads them."""

    config: RunConfig | None  # None where nothing is measured
    model: str
    adapter: Mapping[str, str]
    device: str | None
    lm_eval: Mapping[str, Any]


def sort_arguments(given: Mapping[str, Any], named_models: Mapping[str, Any]) -> BackendArguments:
    """Sorts what lm-eval hands over."""
    rest = {key: value for key, value in given.items() if value is not None}
    asked = {key: rest.pop(key) for key in CONFIG_ARGUMENTS if key in rest}
    if "metrics" in asked:  # lm-eval's command line splits model args at commas
        asked["metrics"] = str(asked["metrics"]).replace("+", ",")
    named = {key: value for key, value in given.items() if value is not None and key not in LM_EVAL_OPTIONS}
    config = RunConfig(**asked, model_args=named, progress=False)
    geometry = flag("microscope: model arg geometry", rest.pop("geometry", True))
    if "seed" in rest:
        raise AdapterError(
            "microscope: model args have no seed; give lm-eval's --seed, which decides on the selection too"
        )
    if "use_chat_template" in rest:
        raise AdapterError("microscope: lm-eval decides on the chat template; use --apply_chat_template")
    if not rest.get("pretrained"):
        raise AdapterError("microscope needs a model: --model_args pretrained=<hub id, directory or named model>")
    lm_eval = {key: rest.pop(key) for key in LM_EVAL_ARGUMENTS if key in rest}
    for key, read in (("add_bos_token", flag), ("logits_cache", flag), ("prefix_token_id", whole)):
        if key in lm_eval:
            lm_eval[key] = read(f"microscope: model arg {key}", lm_eval[key])
    if "model_revision" in rest:  # lm-eval hands model args on to the tasks, where ``revision`` is that of the data
        rest["revision"] = rest.pop("model_revision")
    if str(given.get("batch_size")).startswith("auto"):
        raise AdapterError(
            "microscope: --batch_size auto tries sizes on prompts of its own, and what is measured must not hang on "
            "what fits; give a number, such as --batch_size 8"
        )
    device = rest.pop("device", None)
    if device == LM_EVAL_DEVICE and not torch.cuda.is_available():
        device = None
    adapter = {key: str(value) for key, value in rest.items()}
    model = "hf"
    if adapter["pretrained"] in named_models:
        model = adapter.pop("pretrained")
    return BackendArguments(
        config if geometry else None, model, adapter, None if device is None else str(device), lm_eval
    )
