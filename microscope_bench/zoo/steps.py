"""Training by numbered steps with checkpoints; a resumed training gives the same weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn
from tqdm import tqdm

from microscope_bench.errors import MicroscopeError, first_line

N_THREADS = 1
"""With another number of threads sums, and so weights, come out differently."""
RECIPE_VERSION = 1
"""Raise it whenever lessons, losses or initial weights change: older checkpoints are then refused."""
CHECKPOINT_EVERY = 100

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: the rate of AdamW rises for ``warm_up`` steps and falls along a cosine."""

    steps: int
    batch_size: int
    learning_rate: float
    warm_up: int

    def rate(self, step: int) -> float:
        rising = min(1.0, (step + 1) / self.warm_up)
        falling = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * rising * (0.02 + 0.98 * falling)


@dataclass(frozen=True)
class Training:
    """One training, identified by what is trained, its seed, its schedule and its device ("cpu", "cuda")."""

    name: str
    seed: int
    schedule: Schedule
    device: str = "cpu"

    def recipe(self) -> dict[str, str]:
        """Everything that decides the weights; a checkpoint is resumed from only if its recipe is equal."""
        return {
            "name": self.name,
            "seed": str(self.seed),
            "schedule": repr(self.schedule),
            "device": self.device,
            "torch": str(torch.__version__),
            "recipe": str(RECIPE_VERSION),
        }

    def checkpoint(self, work: Path) -> Path:
        return work / f"{self.name}-seed{self.seed}-{self.device}.pt"


def train(
    training: Training,
    modules: Mapping[str, nn.Module],
    loss_of_step: Callable[[int], tuple[Tensor, Mapping[str, float]]],
    work: Path,
    *,
    quiet: bool = False,
) -> None:
    """Trains the modules in place, from the checkpoint in the directory ``work`` where there is one.

    Two processes may be given the same training: the second waits, and finds it done. ``loss_of_step`` gives the loss
    of a step and what the progress bar shows. The checkpoint is written every 100 steps and never removed here.
    """
    schedule, checkpoint = training.schedule, training.checkpoint(work)
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    try:
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(checkpoint.with_name(f".{checkpoint.name}.lock")):
            first = _resume(checkpoint, modules, optimizer, training)
            bar = tqdm(
                range(first, schedule.steps),
                initial=first,
                total=schedule.steps,
                desc=training.name,
                disable=quiet or first == schedule.steps,
            )
            for step in bar:
                for group in optimizer.param_groups:
                    group["lr"] = schedule.rate(step)
                loss, shown = loss_of_step(step)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                if not math.isfinite(value := float(loss.detach())):
                    raise MicroscopeError(f"{training.name}: the loss of step {step} is {value}; training has diverged")
                bar.set_postfix({"loss": value, **shown}, refresh=False)
                if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == schedule.steps:
                    _save(checkpoint, step + 1, modules, optimizer, training)
    except OSError as error:
        raise MicroscopeError(
            f"{work} cannot hold checkpoints ({error.strerror or error}); name another directory with --work"
        ) from error


def _save(
    path: Path, step: int, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, training: Training
) -> None:
    state = {
        "step": step,
        "recipe": training.recipe(),
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimizer": optimizer.state_dict(),
    }
    temporary = path.with_name(f".{path.name}.part")
    torch.save(state, temporary)
    temporary.replace(path)


def _resume(path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, training: Training) -> int:
    if not path.is_file():
        return 0
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        ours, theirs = training.recipe(), state["recipe"]
        if other := sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key)):
            raise ValueError(", ".join(f"its {key} is {theirs.get(key)}, not {ours.get(key)}" for key in other))
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:  # damaged bytes make the zip reader and the unpickler raise anything
        raise MicroscopeError(
            f"{path} cannot be resumed from ({first_line(error)}); remove it to begin anew"
        ) from error
    step = int(state["step"])
    done = "done before" if step == training.schedule.steps else f"going on from step {step}"
    _log.info("%s: %s (%s)", training.name, done, path)
    return step
