"""The state in which a model is measured, whatever state its owner keeps it in."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from microscope_bench.adapters.base import Adapter
from microscope_bench.adapters.held_modules import held_modules
from microscope_bench.errors import AdapterError

_RECORDING = "_output_capturing_hooks_installed"
"""Of a model in which transformers has its hooks that record hidden states."""


@contextmanager
def evaluation_mode(adapter: Adapter) -> Iterator[None]:
    """Inside, all modules of a model are in evaluation mode, gradients are off, and compiled code runs uncompiled.

    Every weight computes in its own dtype there, whatever autocast the caller, or accelerate for its Trainer, has
    asked for. Afterwards each module has the mode and the hooks that it had, also where something raises.
    """
    modes = {module: module.training for root in held_modules(adapter) for module in root.modules()}
    with ExitStack() as restored:
        restored.callback(_set, modes)
        restored.callback(
            _remove_recording_hooks,
            [m for m in modes if _RECORDING not in vars(m)],
            {m: set(m._forward_hooks) for m in modes},
        )
        _set(dict.fromkeys(modes, False))
        for module in modes:
            if "_original_forward" in vars(module):  # as accelerate keeps what it wraps in autocast
                restored.enter_context(mock.patch.object(module, "forward", module._original_forward))
        # no_grad, not inference_mode: what a model keeps of a pass must serve the next one in training too
        restored.enter_context(torch.inference_mode(False))
        restored.enter_context(torch.no_grad())
        restored.enter_context(torch.autocast(adapter.device.type, enabled=False))
        if "torch._dynamo" in sys.modules:  # else nothing has been compiled, and importing it takes seconds
            restored.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def random_states_kept() -> Iterator[None]:
    """All random states are afterwards what they were before."""
    python, of_numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(of_numpy)


def unwrapped(model: Any) -> Any:
    """The model inside the wrappers of ``torch.compile``, data parallelism and PEFT, with PEFT's layers in place."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        elif hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
            if any(getattr(config, "is_prompt_learning", False) for config in model.peft_config.values()):
                raise AdapterError(
                    f"{type(model).__name__} puts learned vectors in front of every prompt, which no token stands for, "
                    f"so it cannot be measured; measure its base model: model.get_base_model()"
                )
            inner = model.get_base_model()
        if inner is None:
            return model
        model = inner


def _remove_recording_hooks(unrecorded: Iterable[nn.Module], hooks: Mapping[nn.Module, set[int]]) -> None:
    """Takes out what transformers 5.23 puts into a model in its first pass."""
    for module in unrecorded:
        vars(module).pop(_RECORDING, None)
    for module, before in hooks.items():
        for number in module._forward_hooks.keys() - before:
            del module._forward_hooks[number]


def _set(modes: dict[nn.Module, bool]) -> None:
    """Sets the flag alone: ``train()`` of some modules does more, such as merging weights."""
    for module, training in modes.items():
        module.training = training
