"""Quantised models: how transformers is asked for one, and what a result calls it."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from microscope_bench.errors import AdapterError, first_line

# where weights lie is not what they are, and what was to be left out is not what was
_NO_SETTINGS = ("llm_int8_enable_fp32_cpu_offload", "llm_int8_skip_modules", "modules_to_not_convert", "ignore")

_SCALE = re.compile(r"scale|absmax|SCB|quant_state")
"""In the names of tensors that a library keeps beside a quantised weight of the same module."""


def quantization_config(name: str) -> Any:
    """The configuration by which transformers quantises a model; an AdapterError where its package is missing."""
    package = "torchao" if name.startswith("torchao") else "bitsandbytes"
    try:
        if package == "torchao":
            from torchao.quantization import Int8WeightOnlyConfig
            from transformers import TorchAoConfig

            return TorchAoConfig(Int8WeightOnlyConfig())
        import bitsandbytes  # noqa: F401
        from transformers import BitsAndBytesConfig

        if name == "bnb-8bit":
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    except ImportError as error:
        raise AdapterError(
            f"quantization={name} needs {package} ({first_line(error)}): pip install {package}"
        ) from error


def quantised_modules(model: nn.Module) -> dict[str, str]:
    """Modules whose weights are quantised: integers, eight-bit floats, or tensors made of tensors.

    Their names → the class of the module or, where that is an ordinary one, of its weights.
    """
    found = {}
    for name, module in model.named_modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and tensor.dim() > 1 and _is_quantised(tensor):
                found[name] = type(tensor if hasattr(tensor, "__tensor_flatten__") else module).__name__
    return found


def _is_quantised(tensor: Tensor) -> bool:
    small = tensor.dtype.itemsize == 1 and tensor.dtype != torch.bool
    return small or tensor.dtype in (torch.int16, torch.int32) or hasattr(tensor, "__tensor_flatten__")


def quantization_name(config: Any, modules: Mapping[str, str]) -> str:
    """The name of a quantisation in a result: its method, a hash, and how many modules of each part and class it met.

    The hash, 8 hex digits, is of all settings that are not the default and of ``modules`` (name → class). Lists of
    modules to leave out are no settings: what a library makes of them is what was quantised.

    >>> quantization_name({"quant_method": "gptq", "bits": 4}, {"model.tower.0": "QLinear", "model.tower.1": "QLinear"})
    'gptq-4bit@7e9c50c2,tower:QLinear:2'
    """
    if isinstance(config, Mapping):
        fields = dict(config)
    else:
        fields = {**config.to_diff_dict(), "quant_method": config.quant_method}
    for name in _NO_SETTINGS:
        fields.pop(name, None)
    fields = {key: sorted(map(str, value)) if isinstance(value, list) else value for key, value in fields.items()}
    method = fields.get("quant_method")
    detail = next((f"-{bits}bit" for bits in (4, 8) if fields.get(f"load_in_{bits}bit")), "")
    if not detail and isinstance(fields.get("bits"), int):
        detail = f"-{fields['bits']}bit"
    content = json.dumps([fields, dict(modules)], sort_keys=True, default=str)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    parts = Counter((name.removeprefix("model.").partition(".")[0], kind) for name, kind in modules.items())
    counted = [f"{part}:{kind}:{n}" for (part, kind), n in sorted(parts.items())]
    return ",".join([f"{getattr(method, 'value', method) or 'quantised'}{detail}@{digest}", *counted])[:500]


def refuse_unscaled(repo: str, config: Any, stored: Mapping[str, str]) -> None:
    """Raises an AdapterError where config.json says that weights are quantised, and their files have others.

    ``stored``: names of the weights in their files → dtypes as safetensors calls them. Plain ones are refused where
    bitsandbytes is named, eight-bit ones without scales beside them whatever is named.
    """
    settings = getattr(config, "quantization_config", None)
    if not settings:
        return
    method = settings.get("quant_method") if isinstance(settings, Mapping) else getattr(settings, "quant_method", None)
    method = getattr(method, "value", method)
    small = [name for name, dtype in stored.items() if dtype in ("I8", "U8") or dtype.startswith("F8")]
    if not small and method == "bitsandbytes":
        raise AdapterError(
            f"config.json of {repo} says that bitsandbytes has quantised the weights, but they are plain; take "
            f"quantization_config out of it, and quantise while loading with quantization=bnb-8bit or bnb-4bit"
        )
    above = {_above(name[: found.start()]) for name in stored if (found := _SCALE.search(name))}
    scaled = above | {_above(name) for name in above}
    if bare := sorted(name for name in small if name.endswith(".weight") and _above(name) not in scaled):
        raise AdapterError(
            f"config.json of {repo} says that {method} has quantised the weights, but {len(bare)} of them have no "
            f"scale beside them ({bare[0]} of {stored[bare[0]]}), so they would be read as they lie; fetch the "
            f"checkpoint again, or take the weights of before the quantisation"
        )


def _above(name: str) -> str:
    return name.rpartition(".")[0]
