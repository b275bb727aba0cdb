"""What the checks look at: example questions, captured passes, and ways to watch and compare them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from microscope_bench.adapters.base import PADDING, Adapter, Batch
from microscope_bench.capture.hooks import run_pass
from microscope_bench.errors import AdapterError
from microscope_bench.examples import IMAGE_PLACEHOLDER, Example


@dataclass(frozen=True)
class Probe:
    """One captured pass.

    Attributes:
        adapter: whose model ran.
        examples: what it ran on.
        batch: the same, encoded.
        boundaries: all L + 1 of them, each (B, S, d).
        logits: (B, vocabulary).
    """

    adapter: Adapter
    examples: tuple[Example, ...]
    batch: Batch
    boundaries: tuple[Tensor, ...]
    logits: Tensor

    @property
    def labels(self) -> np.ndarray:
        """The final labels, (B, S)."""
        return self.adapter.refine_labels(self.batch, self.boundaries[0])

    @cached_property
    def real(self) -> np.ndarray:
        """The positions that are not padding, bool (B, S); all of them where the labels do not fit the sequence."""
        real, shape = self.batch.labels != PADDING, tuple(self.boundaries[0].shape[:2])
        return real if real.shape == shape else np.ones(shape, dtype=bool)

    @cached_property
    def non_finite(self) -> list[int]:
        """At each boundary the number of real positions with NaN or infinity; padding is never measured."""
        return [int((~rows(hidden, self.real).isfinite()).any(dim=-1).sum()) for hidden in self.boundaries]

    @property
    def finite(self) -> bool:
        """Whether every state of every real position is a number."""
        return not any(self.non_finite)


def capture(adapter: Adapter, examples: tuple[Example, ...]) -> Probe:
    """Runs the examples as one batch and keeps every boundary.

    Raises:
        AdapterError: the adapter gives no logits.
        CaptureError: boundaries are missing or come out of order.
    """
    batch = adapter.encode(examples)
    boundaries: list[Tensor] = []
    logits = run_pass(adapter, batch, lambda layer, hidden: boundaries.append(hidden.clone()), logits=True)
    if logits is None:
        raise AdapterError("forward(logits=True) returned None; it must return the next-token logits")
    return Probe(adapter, examples, batch, tuple(boundaries), logits)


def default_examples(modalities: frozenset[str]) -> tuple[Example, Example]:
    """Two lettered questions of different length, with noise pictures of different sizes where the model takes any."""
    sizes = ((96, 64), (60, 120))
    texts = ("Which?\nA. one\nB. two\nAnswer:", "Which of the two is it?\nA. the first\nB. the second one\nAnswer:")
    examples = []
    for index, (text, (height, width)) in enumerate(zip(texts, sizes, strict=True)):
        noise = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        images = (Image.fromarray(noise),) if "image" in modalities else ()
        prompt = IMAGE_PLACEHOLDER * len(images) + text
        examples.append(Example(id=f"check-{index}", text=prompt, images=images, choices=("A", "B"), answer=0))
    return examples[0], examples[1]


@contextmanager
def first_argument_of(block: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what a block is called with by standing in for its ``forward``, independently of hooks."""
    seen: list[Tensor] = []
    original = block.forward
    own = "forward" in vars(block)

    def forward(*args: Any, **kwargs: Any) -> Any:
        seen.append((args[0] if args else kwargs["hidden_states"]).clone())
        return original(*args, **kwargs)

    block.forward = forward
    try:
        yield seen
    finally:
        if own:
            block.forward = original
        else:
            del block.forward


def hook_count(adapter: Adapter) -> int:
    """The forward hooks and forward pre-hooks on all blocks."""
    return sum(len(block._forward_hooks) + len(block._forward_pre_hooks) for block in adapter.blocks())


def library_hidden_states(model: Any, batch: Batch) -> Sequence[Tensor] | None:
    """What ``output_hidden_states=True`` gives for the same batch, or None."""
    with torch.inference_mode():
        output = model(**batch.inputs, use_cache=False, output_hidden_states=True)
    for holder in (output, getattr(output, "language_model_outputs", None)):
        states = getattr(holder, "hidden_states", None)
        if states is not None and all(isinstance(state, Tensor) for state in states):
            return tuple(states)
    return None


def mentions_deepstack(config: dict[str, Any]) -> bool:
    """Whether any key of a model's configuration, however deep, speaks of deepstack."""
    return any("deepstack" in str(key) or (isinstance(v, dict) and mentions_deepstack(v)) for key, v in config.items())


def rows(hidden: Tensor, mask: np.ndarray) -> Tensor:
    """The states at the positions of a bool (B, S) or (S,) mask, (N, d)."""
    return hidden[torch.from_numpy(mask).to(hidden.device)]


def distance(a: Tensor, b: Tensor) -> float:
    """The norm of the difference relative to the norm of ``b``, in float64; NaN where either has one."""
    a, b = a.double(), b.to(a.device).double()
    return float((a - b).norm() / b.norm().clamp_min(torch.finfo(torch.float64).tiny))


def largest(distances: Iterable[float]) -> float:
    """The largest, or NaN if one of them is: ``max`` would drop it."""
    return float(np.max(list(distances)))
