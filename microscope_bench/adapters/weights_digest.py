"""A fast digest of the weights that a model has in memory, to tell them from those that its checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from microscope_bench.adapters.base import Adapter
from microscope_bench.adapters.held_modules import held_modules

_CHUNK = 1 << 26  # elements that are copied from a GPU at once


def weights_digest(adapter: Adapter) -> str:
    """16 hex digits over names, dtypes, shapes and bytes of all parameters and buffers that an adapter holds.

    Equal weights have one digest on any device. Weights that accelerate has offloaded are read from where they lie.
    """
    digest = xxhash.xxh3_64()
    seen: set[int] = set()
    for root in held_modules(adapter):
        for path, module in root.named_modules():
            if id(module) in seen:
                continue
            seen.add(id(module))
            for name, tensor in _own_tensors(module):
                _add(digest, f"{path}.{name}", tensor)
    return digest.hexdigest()


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A module's own parameters and buffers, and what quantisation keeps beside them."""
    plain = module._parameters | module._buffers
    if any(tensor is not None and tensor.is_meta for tensor in plain.values()):
        yield from _offloaded(module)
        return
    state: dict[str, Any] = {}
    module._save_to_state_dict(state, "", True)  # names what a quantised module keeps outside its parameters, too
    state |= {} if _moved_by_passes(module) else module._buffers
    yield from ((name, tensor) for name, tensor in sorted(state.items()) if isinstance(tensor, Tensor))


def _offloaded(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    from accelerate.utils import align_module_device, has_offloaded_params

    if has_offloaded_params(module):
        with align_module_device(module, torch.device("cpu")):
            tensors = module._parameters | module._buffers
            yield from ((name, tensor) for name, tensor in sorted(tensors.items()) if tensor is not None)


def _moved_by_passes(module: nn.Module) -> bool:
    """Whether a pass over a long prompt replaces the buffers, and one over a short prompt brings them back."""
    kind = str(getattr(module, "rope_type", ""))
    return "dynamic" in kind or "longrope" in kind


def _add(digest: xxhash.xxh3_64, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
    if hasattr(tensor, "__tensor_flatten__"):  # a subclass whose values are in other tensors
        for part in tensor.__tensor_flatten__()[0]:
            _add(digest, part, getattr(tensor, part))
        return
    tensor = tensor.detach()
    tensor = tensor if tensor.layout == torch.strided else tensor.to_dense()
    for chunk in torch.split(tensor.contiguous().flatten(), _CHUNK):
        digest.update(chunk.cpu().view(torch.uint8).numpy().data)
