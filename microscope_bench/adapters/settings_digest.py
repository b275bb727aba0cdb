"""A digest of what decides a model's numbers beside weights and code, for models that no checkpoint stands for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import PushToHubMixin

from microscope_bench.adapters.model_loading import peft_layers

_CHANGES_NO_NUMBER = {
    *("_name_or_path", "transformers_version", "architectures", "use_cache"),
    *("base_model_name_or_path", "revision", "inference_mode", "lora_dropout", "peft_version"),
}
"""Fields of configurations, of models and of PEFT, that change no number of a pass that is no training."""


def settings_digest(modules: Iterable[nn.Module], processors: Iterable[Any]) -> str:
    """16 hex digits over the configurations of all models of transformers, and over how PEFT's layers are set.

    Also over the settings of those of the ``processors`` that are tokenizers or processors of transformers.
    """
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
    for one in processors:
        if isinstance(one, PushToHubMixin) and not isinstance(one, nn.Module):
            texts.add(json.dumps(_processor_settings(one), sort_keys=True, default=str))
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:16]


def _deciding(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {str(key): _deciding(value) for key, value in tree.items() if key not in _CHANGES_NO_NUMBER}
    return sorted(map(str, tree)) if isinstance(tree, set) else tree


def _processor_settings(processor: Any) -> list[Any]:
    """All that decides what it makes of an example; not how it pads and cuts, which no prompt is subject to."""
    settings: list[Any] = [type(processor).__name__, getattr(processor, "chat_template", None)]
    if not isinstance(processor, PreTrainedTokenizerBase):
        tokenizers = [part for part in vars(processor).values() if isinstance(part, PreTrainedTokenizerBase)]
        return [*settings, _deciding(processor.to_dict()), *map(_processor_settings, tokenizers)]
    special = {name: token for name, token in processor.special_tokens_map.items() if name != "pad_token"}
    if not processor.is_fast:
        return [*settings, special, processor.get_vocab()]
    of_backend = processor.backend_tokenizer.to_str()
    decides = of_backend[of_backend.index('"added_tokens"') :]  # behind how it pads and cuts
    return [*settings, special, hashlib.sha256(decides.encode("utf-8", "surrogatepass")).hexdigest()]
