"""The state in which a model is measured, whatever state its owner keeps it in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from microscope_bench.adapters.base import Adapter
from microscope_bench.adapters.held_modules import held_modules
from microscope_bench.errors import AdapterError


@contextmanager
def evaluation_mode(adapter: Adapter) -> Iterator[None]:
    """Inside, all modules of a model are in evaluation mode, gradients are off, and compiled code runs uncompiled.

    Afterwards each module is in the mode in which it was, also where something raises.
    """
    modes = {module: module.training for root in held_modules(adapter) for module in root.modules()}
    with ExitStack() as restored:
        restored.callback(_set, modes)
        _set(dict.fromkeys(modes, False))
        restored.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:  # else nothing has been compiled, and importing it takes seconds
            restored.enter_context(torch.compiler.set_stance("force_eager"))
        yield


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


def _set(modes: dict[nn.Module, bool]) -> None:
    """Sets the flag alone: ``train()`` of some modules does more, such as merging weights."""
    for module, training in modes.items():
        module.training = training
