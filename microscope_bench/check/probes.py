"""What the checks look at: example questions, captured passes, and ways to watch and compare them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from microscope_bench import __version__
from microscope_bench.adapters.base import PADDING, Adapter, Batch
from microscope_bench.adapters.decoder import hidden_given
from microscope_bench.capture.hooks import run_pass
from microscope_bench.errors import AdapterError
from microscope_bench.example import PLACEHOLDERS, Audio, Example

N_FRAMES = 4
SAMPLING_RATE = 16000


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
    """Two lettered questions of different length, with one medium of every given modality before each.

    Pictures and frames are noise of two sizes, recordings noise of two lengths.
    """
    sizes, seconds = ((96, 64), (60, 120)), (1.5, 1.0)
    texts = ("Which?\nA. one\nB. two\nAnswer:", "Which of the two is it?\nA. the first\nB. the second one\nAnswer:")
    examples = []
    for index, (text, size) in enumerate(zip(texts, sizes, strict=True)):
        draw = np.random.default_rng(index)
        media = [modality for modality in PLACEHOLDERS if modality in modalities]
        prompt = "".join(PLACEHOLDERS[modality] for modality in media) + text
        examples.append(
            Example(
                id=f"check-{index}",
                text=prompt,
                images=(_noise(draw, size),) if "image" in media else (),
                videos=(tuple(_noise(draw, size) for _ in range(N_FRAMES)),) if "video" in media else (),
                audios=(_hiss(draw, seconds[index]),) if "audio" in media else (),
                choices=("A", "B"),
                answer=0,
            )
        )
    return examples[0], examples[1]


def what_was_found(adapter: Adapter) -> dict[str, str]:
    """What an adapter says of its model, as a report shows it."""
    info, made, library = adapter.info, adapter.processing, transformers.__version__
    model = getattr(adapter, "model", None)
    blocks = adapter.blocks()
    watched = blocks[0] if blocks else adapter.last_module()
    paths = [name for name, module in model.named_modules() if module is watched] if model else []
    stack = f"{paths[0].rpartition('.')[0] if blocks else paths[0]}, " if paths else ""
    kind = type(blocks[0]).__name__ if blocks else "none"
    parts = [part for part in (made.processor, made.image_processor) if part]
    odd = [f"{modality} without positions ({reason})" for modality, reason in adapter.unplaced.items()]
    odd += [f"not {modality} ({reason})" for modality, reason in adapter.lacks.items()]
    return {
        "revision": info.revision,
        "architecture": f"{info.architecture}, {info.n_parameters:,} parameters, adapter {info.adapter}",
        "stream": f"{stack}{len(blocks)} blocks ({kind}), {info.hidden_size} wide",
        "options": ", ".join(f"{key}={value}" for key, value in info.options.items()) or "none",
        "modalities": ", ".join([*sorted(adapter.modalities - adapter.unplaced.keys()), *odd]),
        "processor": ", ".join(parts) + (", with its chat template" if made.chat_template_sha256 else ", raw prompts"),
        "numbers": f"{info.dtype}, attention {info.attention}, quantisation {info.quantization or 'none'}",
        "software": f"microscope-bench {__version__}, torch {torch.__version__}, transformers {library}",
    }


def with_other_media(example: Example) -> Example:
    """The same question about other media of the same size, all of them noise."""
    draw = np.random.default_rng(1000 + len(example.text))
    return replace(
        example,
        images=tuple(_noise(draw, image.size[::-1]) for image in example.images),
        videos=tuple(tuple(_noise(draw, frame.size[::-1]) for frame in video) for video in example.videos),
        audios=tuple(_hiss(draw, len(a.samples) / a.sampling_rate, a.sampling_rate) for a in example.audios),
    )


def _noise(draw: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8))


def _hiss(draw: np.random.Generator, seconds: float, rate: int = SAMPLING_RATE) -> Audio:
    return Audio(draw.uniform(-1, 1, round(seconds * rate)).astype(np.float32), rate)


@contextmanager
def first_argument_of(block: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what a block is called with by standing in for its ``forward``, independently of hooks."""
    seen: list[Tensor] = []
    original = block.forward
    own = "forward" in vars(block)

    def forward(*args: Any, **kwargs: Any) -> Any:
        seen.append(hidden_given(args, kwargs).clone())
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


def install_recording_hooks(adapter: Adapter) -> None:
    """Lets transformers set the hooks by which it records states now, from the top of the model.

    Set later, after a pass has set those of the vision tower alone, transformers 5.23 sets the tower's twice, and a
    model that picks a layer of its tower by number (Phi-4-multimodal) is broken from then on.
    """
    try:
        from transformers.utils.output_capturing import maybe_install_capturing_hooks
    except ImportError:  # older
        return
    model = getattr(adapter, "model", None)
    if isinstance(model, PreTrainedModel) and not any(
        getattr(module, "_output_capturing_hooks_installed", False) for module in model.modules()
    ):
        maybe_install_capturing_hooks(model)


def length_of_their_list(adapter: Adapter) -> int | None:
    """How many blocks the model's own list holds that the adapter's come from; None where they come from none."""
    model, blocks = getattr(adapter, "model", None), adapter.blocks()
    if not isinstance(model, nn.Module) or not blocks:
        return None
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return next((len(module) for module in lists if any(block is blocks[0] for block in module)), None)


def library_hidden_states(adapter: Adapter, model: Any, probe: Probe) -> Sequence[Tensor] | None:
    """What ``output_hidden_states=True`` gives for the same batch, of the stack that the boundaries are of; or None."""
    outputs: list[Any] = []

    def ask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "output_hidden_states": True}

    handles = [
        model.register_forward_pre_hook(ask, with_kwargs=True),
        model.register_forward_hook(lambda module, args, output: outputs.append(output)),
    ]
    try:
        adapter.forward(probe.batch, logits=True)
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for holder in (outputs[0], getattr(outputs[0], "language_model_outputs", None)):
        for name in ("hidden_states", "encoder_hidden_states", "decoder_hidden_states"):
            states = getattr(holder, name, None)
            if states is not None and all(isinstance(state, Tensor) for state in states):
                found.append(tuple(states))
    shape = probe.boundaries[0].shape
    fitting = next((states for states in found if states[0].shape == shape), None)
    # beside a stream that holds no media there are the encoder's states, which are not meant
    return fitting or (found[0] if found and not adapter.unplaced else None)


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
