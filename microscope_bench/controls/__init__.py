"""Controls: runs on something deliberately changed, to tell what a number owes to the weights, the picture or the text.

``docs/controls.md`` says what each is for. Imports no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from msgspec import structs

from microscope_bench.errors import unknown_name

if TYPE_CHECKING:
    from microscope_bench.adapters.base import Adapter
    from microscope_bench.example import ExampleSource


@dataclass(frozen=True)
class Run:
    """A run before its first forward pass: what a control changes."""

    adapter: Adapter
    source: ExampleSource  # the task's examples
    n_examples: int  # how many of them are measured, counted from the first
    seed: int  # the protocol's; it decides every random choice of a control


@dataclass(frozen=True)
class Control:
    """A control by its name; ``change`` is the ``"module:function"`` of a function from a run to the changed run."""

    name: str
    description: str
    change: str


CONTROLS: dict[str, Control] = {
    control.name: control
    for control in (
        Control(
            name="untrained",
            description="the same architecture with freshly initialised weights",
            change="microscope_bench.controls.changed_models:untrained",
        ),
        Control(
            name="noise_image",
            description="each picture replaced by uniform noise of the same size",
            change="microscope_bench.controls.pictures:noise_image",
        ),
        Control(
            name="shuffled_image",
            description="the pictures exchanged among the measured examples; none keeps its own",
            change="microscope_bench.controls.pictures:shuffled_image",
        ),
        Control(
            name="text_only",
            description="the pictures and their places in the prompt left out",
            change="microscope_bench.controls.pictures:text_only",
        ),
        Control(
            name="permuted_tokens",
            description="the text tokens of each example in random order; everything else in its place",
            change="microscope_bench.controls.changed_models:permuted_tokens",
        ),
    )
}


def named_control(name: str) -> Control:
    """The control of that name; raises UnknownNameError where there is none."""
    if name not in CONTROLS:
        raise unknown_name("control", name, sorted(CONTROLS), "List them with: microscope-bench ls controls")
    return CONTROLS[name]


def with_control(name: str | None, run: Run) -> Run:
    """The run as the control (None: no control) changes it; its adapter's ``info.control`` names the control."""
    if name is None:
        return run
    module, _, function = named_control(name).change.partition(":")
    change: Callable[[Run], Run] = getattr(importlib.import_module(module), function)
    changed = change(run)
    adapter = copy(changed.adapter)
    adapter.info = structs.replace(adapter.info, control=name)
    return replace(changed, adapter=adapter)
