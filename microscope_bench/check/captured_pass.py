"""A captured pass, which the checks look at, and ways to compare states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from microscope_bench.adapters.base import PADDING, Adapter, Batch
from microscope_bench.capture.hooks import run_pass
from microscope_bench.errors import AdapterError
from microscope_bench.example import Example


@dataclass(frozen=True)
class CapturedPass:
    """One pass of a model, with all L + 1 boundaries (B, S, d) and the logits (B, vocabulary)."""

    adapter: Adapter
    examples: tuple[Example, ...]
    batch: Batch
    boundaries: tuple[Tensor, ...]
    logits: Tensor

    @property
    def labels(self) -> np.ndarray:
        return self.adapter.refine_labels(self.batch, self.boundaries[0])

    @cached_property
    def real(self) -> np.ndarray:
        """The positions that are not padding, bool (B, S); all of them where the labels do not fit the sequence."""
        real, shape = self.batch.labels != PADDING, tuple(self.boundaries[0].shape[:2])
        return real if real.shape == shape else np.ones(shape, dtype=bool)

    @cached_property
    def non_finite(self) -> list[int]:
        """At each boundary the number of real positions with NaN or infinity."""
        return [int((~rows(hidden, self.real).isfinite()).any(dim=-1).sum()) for hidden in self.boundaries]

    @property
    def finite(self) -> bool:
        return not any(self.non_finite)


def capture(adapter: Adapter, examples: tuple[Example, ...]) -> CapturedPass:
    """Runs the examples as one batch; a CaptureError where boundaries are missing or come out of order."""
    batch = adapter.encode(examples)
    boundaries: list[Tensor] = []
    logits = run_pass(adapter, batch, lambda layer, hidden: boundaries.append(hidden.clone()), logits=True)
    if logits is None:
        raise AdapterError("forward(logits=True) returned None; it must return the next-token logits")
    return CapturedPass(adapter, examples, batch, tuple(boundaries), logits)


def hook_count(adapter: Adapter) -> int:
    return sum(len(block._forward_hooks) + len(block._forward_pre_hooks) for block in adapter.blocks())


def install_recording_hooks(adapter: Adapter) -> None:
    """Lets transformers 5.23 install its recording hooks in the whole model before any pass.

    Otherwise it would install the vision tower's twice, which breaks Phi-4-multimodal.
    """
    model = getattr(adapter, "model", None)
    if isinstance(model, PreTrainedModel) and not any(
        getattr(module, "_output_capturing_hooks_installed", False) for module in model.modules()
    ):
        maybe_install_capturing_hooks(model)


def length_of_their_list(adapter: Adapter) -> int | None:
    """The length of the model's own list from which the adapter's blocks come, or None."""
    model, blocks = getattr(adapter, "model", None), adapter.blocks()
    if not isinstance(model, nn.Module) or not blocks:
        return None
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return next((len(module) for module in lists if any(block is blocks[0] for block in module)), None)


def library_hidden_states(model: Any, captured: CapturedPass) -> Sequence[Tensor] | None:
    """The states that ``output_hidden_states=True`` gives for the same batch and the same stack, or None."""
    outputs: list[Any] = []
    original = model.forward

    def with_states(*args: Any, **kwargs: Any) -> Any:
        outputs.append(original(*args, **{**kwargs, "output_hidden_states": True}))
        return outputs[0]

    with mock.patch.object(model, "forward", with_states):
        captured.adapter.forward(captured.batch, logits=True)
    found = []
    for holder in (outputs[0], getattr(outputs[0], "language_model_outputs", None)):
        for name in ("hidden_states", "encoder_hidden_states", "decoder_hidden_states"):
            states = getattr(holder, name, None)
            if states is not None and all(isinstance(state, Tensor) for state in states):
                found.append(tuple(states))
    shape = captured.boundaries[0].shape
    fitting = next((states for states in found if states[0].shape == shape), None)
    # the first found of a stream without media would be the encoder's
    return fitting or (found[0] if found and not captured.adapter.unplaced else None)


def rows(hidden: Tensor, mask: np.ndarray) -> Tensor:
    """The states at the positions of a bool (B, S) or (S,) mask, (N, d)."""
    return hidden[torch.from_numpy(mask).to(hidden.device)]


def distance(a: Tensor, b: Tensor) -> float:
    """The norm of the difference relative to the norm of ``b``, in float64; NaN where either has one."""
    a, b = a.double(), b.to(a.device).double()
    return float((a - b).norm() / b.norm().clamp_min(torch.finfo(torch.float64).tiny))


def largest(distances: Iterable[float]) -> float:
    """The largest, or NaN if one of them is NaN (``max`` would drop it)."""
    return float(np.max(list(distances)))
