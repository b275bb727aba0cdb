"""Quantised models: how transformers is asked for one, and what a result calls it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from microscope_bench.errors import AdapterError, first_line, unknown_name

QUANTIZATIONS = {
    "bnb-8bit": "bitsandbytes, LLM.int8()",
    "bnb-4bit": "bitsandbytes, NF4",
    "torchao-int8": "torchao, int8 weights",
}
"""Value of model arg ``quantization`` → what it is."""


def quantization_config(name: str) -> Any:
    """The configuration by which transformers quantises a model; an AdapterError where its package is missing."""
    if name not in QUANTIZATIONS:
        raise unknown_name("quantization", name, list(QUANTIZATIONS))
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


def quantization_name(config: Any) -> str:
    """The name of a quantisation in a result: its method, and 8 hex digits of all settings that are not the default.

    >>> quantization_name({"quant_method": "gptq", "bits": 4})
    'gptq-4bit@5b693cfa'
    """
    if isinstance(config, Mapping):
        fields = dict(config)
    else:
        fields = {**config.to_diff_dict(), "quant_method": config.quant_method}
    fields.pop("llm_int8_enable_fp32_cpu_offload", None)  # says where weights lie, not what they are
    fields = {key: sorted(map(str, value)) if isinstance(value, list) else value for key, value in fields.items()}
    method = fields.get("quant_method")
    detail = next((f"-{bits}bit" for bits in (4, 8) if fields.get(f"load_in_{bits}bit")), "")
    if not detail and isinstance(fields.get("bits"), int):
        detail = f"-{fields['bits']}bit"
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"{getattr(method, 'value', method) or type(config).__name__}{detail}@{digest}"
