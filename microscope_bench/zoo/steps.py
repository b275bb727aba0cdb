"""Training by numbered steps: fixed schedule, checkpoints, resume; the same steps give the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from microscope_bench.errors import MicroscopeError
from microscope_bench.hub import first_line

N_THREADS = 1
"""Sums come out differently on another number of threads, and the weights with them."""

CHECKPOINT_EVERY = 100


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: in all.
        batch_size: lessons a step.
        learning_rate: the highest one of AdamW; it rises linearly and falls along a cosine.
        warm_up: steps until the highest learning rate.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warm_up: int

    def rate(self, step: int) -> float:
        """The learning rate of a step, 0 and up."""
        rising = min(1.0, (step + 1) / self.warm_up)
        falling = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * rising * (0.02 + 0.98 * falling)


def train(
    modules: Mapping[str, nn.Module],
    loss_of_step: Callable[[int], tuple[Tensor, Mapping[str, float]]],
    schedule: Schedule,
    checkpoint: Path,
    label: str,
    *,
    quiet: bool = False,
) -> None:
    """Trains the modules in place, going on from the checkpoint where there is one.

    Args:
        modules: name → module; parameters that need no gradient stay as they are.
        loss_of_step: the loss of step 0, 1, 2, ... and what the progress bar shows beside it.
        schedule: see :class:`Schedule`.
        checkpoint: file that is written every 100 steps and removed by nobody here.
        label: what the progress bar is called.
        quiet: no progress bar.

    Raises:
        MicroscopeError: the checkpoint is of another schedule or model, or cannot be read.
    """
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    first = _resume(checkpoint, modules, optimizer, schedule)
    bar = tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, desc=label, disable=quiet)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        loss, shown = loss_of_step(step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if not math.isfinite(value := float(loss.detach())):
            raise MicroscopeError(f"{label}: the loss of step {step} is {value}; training has diverged")
        bar.set_postfix({"loss": value, **shown}, refresh=False)
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == schedule.steps:
            _save(checkpoint, step + 1, modules, optimizer, schedule)


def _save(
    path: Path, step: int, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, schedule: Schedule
) -> None:
    state = {
        "step": step,
        "schedule": repr(schedule),
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimizer": optimizer.state_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    torch.save(state, temporary)
    temporary.replace(path)


def _resume(path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, schedule: Schedule) -> int:
    """Puts the checkpoint's state into modules and optimizer; returns the step to go on with."""
    if not path.is_file():
        return 0
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["schedule"] != repr(schedule):
            raise ValueError(f"it is of {state['schedule']}, this is {schedule}")
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:  # damaged bytes make the zip reader and the unpickler raise anything
        raise MicroscopeError(
            f"{path} cannot be resumed from ({first_line(error)}); remove it to begin anew"
        ) from error
    return int(state["step"])
