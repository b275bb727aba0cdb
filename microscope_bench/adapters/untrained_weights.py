"""Models with the weights that they have before training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from microscope_bench.errors import AdapterError


@contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Modules made inside get the same weights for the same seed; the caller's random state does not change.

    Memory that a module leaves uninitialised is filled with NaN, by which :func:`untrained_twin` notices it.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def untrained_twin(model: Any, *, left_out: bool = False) -> Any:
    """A copy of a transformers model, freshly initialised on the CPU; call it inside :func:`seeded_initialisation`.

    Class, configuration, dtypes, attention implementation and device are those of the model. ``left_out`` says that
    the model may lack weights that its configuration asks for, as it does without its pooling layer.
    """
    name = type(model).__name__
    if getattr(model.config, "quantization_config", None) is not None:
        raise AdapterError(f"{name} is quantised and cannot be initialised anew; load it without quantisation")
    devices = {parameter.device.type for parameter in model.parameters()}
    if "meta" in devices or len({parameter.device for parameter in model.parameters()}) > 1:
        raise AdapterError(
            f"{name} is spread over several devices and cannot be initialised anew; load it without device_map"
        )
    twin = type(model)._from_config(deepcopy(model.config), dtype=model.dtype)
    fresh, loaded = dict(twin.named_parameters()), dict(model.named_parameters())
    expected = loaded.keys() if left_out else fresh.keys() | loaded.keys()
    if other := sorted({k for k in expected if _shape(fresh, k) != _shape(loaded, k)}):
        raise AdapterError(
            f"{name}: {len(other)} weights are missing or of another shape when it is made from its configuration: "
            f"{', '.join(other[:5])}. The loaded model is not the one that its config.json describes."
        )
    if unset := sorted(key for key, parameter in fresh.items() if not bool(parameter.isfinite().all())):
        raise AdapterError(f"{name} does not initialise {len(unset)} of its weights: {', '.join(unset[:5])}")
    for key in fresh.keys() & loaded.keys():
        fresh[key].data = fresh[key].data.to(loaded[key].dtype)  # some parts stay in float32 whatever the model's dtype
    return twin.to(model.device).eval()


def initialise_anew(module: nn.Module) -> None:
    """Gives a module and all in it fresh weights, in place; call it inside :func:`seeded_initialisation`.

    Models of transformers get those of their :func:`untrained_twin`, other modules what ``reset_parameters()`` draws.
    """
    if isinstance(module, PreTrainedModel):
        fresh = untrained_twin(module, left_out=True).state_dict()
        module.load_state_dict({name: fresh[name] for name in module.state_dict()})
        return
    for child in module.children():
        initialise_anew(child)
    own = {name: value for name, value in (module._parameters | module._buffers).items() if value is not None}
    if not own:
        return
    # modules of torch that are used by others alone have it under the second name
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if reset is None:
        raise AdapterError(
            f"{type(module).__name__} cannot be initialised anew: it holds {', '.join(sorted(own)[:5])} and has no "
            f"reset_parameters(), by which they begin as before training; write one"
        )
    device = next(iter(own.values())).device
    module.to("cpu")  # the seed is that of its generator
    reset()
    module.to(device)


def _shape(parameters: dict[str, Any], key: str) -> tuple[int, ...] | None:
    return tuple(parameters[key].shape) if key in parameters else None
