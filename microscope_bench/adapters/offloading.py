"""Models spread over several devices, or partly held in memory and on disk by accelerate."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from microscope_bench.errors import AdapterError, first_line
from microscope_bench.system.processes import launched

SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")
"""Values of model arg ``device_map`` that use every GPU there is."""


def device_options(device_map: str | None, max_memory: str | None, offload_folder: str | None) -> dict[str, Any]:
    """The arguments of ``from_pretrained`` that spread a model over devices; ``max_memory``: ``0:20GiB;cpu:60GiB``."""
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
    """The token embeddings, or the first weight of all where transformers does not find them.

    Their dtype is that of the stream; the model's own dtype is not, since transformers keeps some parts in float32.
    """
    try:
        weight: Tensor = model.get_input_embeddings().weight
    except (AttributeError, NotImplementedError):
        weight = next(model.parameters())
    return weight


def input_device(model: Any) -> torch.device:
    """Where the model's inputs go: the device of its first weight, or where accelerate runs an offloaded one."""
    weight = first_weight(model)
    if weight.device.type != "meta":
        return torch.device(weight.device)
    places = [torch.device(d) for d in getattr(model, "hf_device_map", {}).values() if d not in ("cpu", "disk")]
    return places[0] if places else torch.device("cpu")


def unusable_weights(model: nn.Module) -> str | None:
    """Why the weights of a model, as they lie in this process, cannot be read or run; None where they can.

    What accelerate has offloaded can: it brings the weights back.
    """
    sharded = (hasattr(parameter, name) for parameter in model.parameters() for name in ("device_mesh", "ds_id"))
    if any(sharded) or any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        return (
            "each process holds a part of its weights (FSDP, DeepSpeed ZeRO-3 or tensor parallelism). Save the whole "
            "model and measure that: trainer.save_model(DIR), then pretrained=DIR"
        )
    hooks = [(module, module._hf_hook) for module in model.modules() if hasattr(module, "_hf_hook")]
    offloaded = {id(p) for module, hook in hooks if getattr(hook, "offload", False) for p in module.parameters()}
    meta = [name for name, weight in model.named_parameters() if weight.is_meta and id(weight) not in offloaded]
    if meta:
        return (
            f"{len(meta)} of its weights are on the device meta and have no values ({meta[0]}). Load them: "
            f"from_pretrained, or to_empty(device=...) and load_state_dict"
        )
    devices = {str(parameter.device) for parameter in model.parameters()} - {"meta"}
    if len(devices) > 1 and not hooks:
        return f"its weights lie on {' and '.join(sorted(devices))}, and nothing moves what it computes between them"
    return None


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
    """The error to raise for one in a pass of an offloaded model, or None where offloading is not to blame.

    accelerate brings back the weights of some modules only; an architecture that keeps weights elsewhere meets the
    empty tensor in their place.
    """
    if "meta" not in str(error) or not any(parameter.device.type == "meta" for parameter in model.parameters()):
        return None
    return AdapterError(
        f"{name}: {type(model).__name__} cannot be offloaded by accelerate as it is ({first_line(error)}); give it "
        f"more room (max_memory), or fewer bits (dtype, quantization)"
    )
