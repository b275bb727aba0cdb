"""Big models: where their weights lie, and in how few bits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from microscope_bench.errors import AdapterError
from microscope_bench.system.hub import first_line
from microscope_bench.system.lazy_registry import unknown_name
from microscope_bench.system.processes import launched

QUANTIZATIONS = {
    "bnb-8bit": "bitsandbytes, LLM.int8()",
    "bnb-4bit": "bitsandbytes, NF4",
    "torchao-int8": "torchao, int8 weights",
}
"""Value of model arg ``quantization`` → what it is."""

SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")
"""Values of model arg ``device_map`` that use every GPU there is."""


def quantization_config(name: str) -> Any:
    """The configuration by which transformers quantises a model while it loads it.

    Raises:
        UnknownNameError: no such quantisation.
        AdapterError: its package is missing.
    """
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
    """What a quantisation is called in a result: method, and 8 digits of all settings that are not the default.

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


def device_options(device_map: str | None, max_memory: str | None, offload_folder: str | None) -> dict[str, Any]:
    """The arguments of ``from_pretrained`` that spread a model over devices.

    Args:
        device_map: "auto", "balanced", ..., or a device; None puts the model on one device.
        max_memory: ``device:size`` pairs separated by ``;``, for instance ``0:20GiB;cpu:60GiB``.
        offload_folder: where weights go that fit nowhere else.

    Raises:
        AdapterError: one of the latter two without the first, a pair that is none, or several processes on this
            machine that would each take all of its GPUs.
    """
    if device_map is None:
        if max_memory or offload_folder:
            raise AdapterError("max_memory and offload_folder say how to spread a model; they need device_map=auto")
        return {}
    if device_map in SPREADING and (n := launched().local_size) > 1:
        raise AdapterError(
            f"device_map={device_map} spreads the model over all GPUs of the machine, and each of the {n} processes "
            f"here would do so. Start one process on each machine, or leave device_map out: each process then has a "
            f"GPU, and a model, of its own"
        )
    options: dict[str, Any] = {"device_map": device_map}
    if max_memory is not None:
        pairs = [pair.partition(":") for pair in max_memory.split(";")]
        if not all(device and size for device, _, size in pairs):
            raise AdapterError(f"max_memory={max_memory} is not device:size;device:size, as in 0:20GiB;cpu:60GiB")
        options["max_memory"] = {int(d) if d.isdecimal() else d: size for d, _, size in pairs}
    if offload_folder is not None:
        options["offload_folder"] = offload_folder
    return options


def first_weight(model: Any) -> Tensor:
    """The weight whose rows enter the first block: the token embeddings, or the first of all where they are not found.

    Its dtype is that of the stream. The model's own says less: transformers keeps some parts in float32.
    """
    try:
        weight: Tensor = model.get_input_embeddings().weight
    except (AttributeError, NotImplementedError):  # transformers does not find them in every architecture
        weight = next(model.parameters())
    return weight


def input_device(model: Any) -> torch.device:
    """Where the model's inputs go: to its first weights, or where accelerate runs what is offloaded."""
    weight = first_weight(model)
    if weight.device.type != "meta":
        return torch.device(weight.device)
    places = [torch.device(d) for d in getattr(model, "hf_device_map", {}).values() if d not in ("cpu", "disk")]
    return places[0] if places else torch.device("cpu")


def real_parameter(model: Any, name: str) -> Tensor:
    """A parameter by its dotted name, read from where it was offloaded to if need be."""
    parent = model.get_submodule(name.rpartition(".")[0])
    aligned: Any = nullcontext()
    if model.get_parameter(name).device.type == "meta":
        from accelerate.utils import align_module_device

        aligned = align_module_device(parent)
    with aligned, torch.no_grad():
        value: Tensor = model.get_parameter(name).detach().clone()
        return value


def offloading_fails(name: str, model: Any, error: Exception) -> AdapterError | None:
    """What to say of an error in a pass of an offloaded model, or None where offloading is not to blame.

    accelerate brings back what lies directly in some modules only; an architecture that keeps weights elsewhere meets
    the empty tensor that stands for them.
    """
    if "meta" not in str(error) or not any(parameter.device.type == "meta" for parameter in model.parameters()):
        return None
    return AdapterError(
        f"{name}: {type(model).__name__} cannot be offloaded by accelerate as it is ({first_line(error)}); give it "
        f"more room (max_memory), or fewer bits (dtype, quantization)"
    )
