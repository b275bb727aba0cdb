"""A digest of what decides a model's numbers beside its weights, for models that no checkpoint stands for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from microscope_bench.adapters.model_loading import peft_layers

_CHANGES_NO_NUMBER = {
    *("_name_or_path", "transformers_version", "architectures", "use_cache"),
    *("base_model_name_or_path", "revision", "inference_mode", "lora_dropout", "peft_version"),
}
"""Fields of configurations, of models and of PEFT, that change no number of a pass that is no training."""


def settings_digest(modules: Iterable[nn.Module]) -> str:
    """16 hex digits over the configurations of all models of transformers, and over how PEFT's layers are set."""
    models = {one for module in modules for one in module.modules() if isinstance(one, PreTrainedModel)}
    texts = set()
    for model in models:
        adapters = {name: config.to_dict() for name, config in getattr(model, "peft_config", {}).items()}
        layers = [
            (name, layer.active_adapters, layer.disable_adapters, dict(getattr(layer, "scaling", {})))
            for name, layer, _ in peft_layers(model)
        ]
        settings = [_deciding(model.config.to_diff_dict()), _deciding(adapters), layers if adapters else []]
        texts.add(json.dumps(settings, sort_keys=True, default=str))
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:16]


def _deciding(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {str(key): _deciding(value) for key, value in tree.items() if key not in _CHANGES_NO_NUMBER}
    return sorted(map(str, tree)) if isinstance(tree, set) else tree
