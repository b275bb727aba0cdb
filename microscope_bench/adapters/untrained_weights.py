"""Models with the weights that they have before training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch

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


def untrained_twin(model: Any) -> Any:
    """A copy of a transformers model, freshly initialised on the CPU; call it inside :func:`seeded_initialisation`.

    Class, configuration, dtypes, attention implementation and device are those of the model.
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
    if other := sorted({k for k in fresh.keys() | loaded.keys() if _shape(fresh, k) != _shape(loaded, k)}):
        raise AdapterError(
            f"{name}: {len(other)} weights are missing or of another shape when it is made from its configuration: "
            f"{', '.join(other[:5])}. The loaded model is not the one that its config.json describes."
        )
    if unset := sorted(key for key, parameter in fresh.items() if not bool(parameter.isfinite().all())):
        raise AdapterError(f"{name} does not initialise {len(unset)} of its weights: {', '.join(unset[:5])}")
    for key, parameter in fresh.items():
        parameter.data = parameter.data.to(loaded[key].dtype)  # some parts stay in float32 whatever the model's dtype
    return twin.to(model.device).eval()


def _shape(parameters: dict[str, Any], key: str) -> tuple[int, ...] | None:
    return tuple(parameters[key].shape) if key in parameters else None
