"""Proves an adapter: what it says about a model is held against what the model does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from microscope_bench.adapters.base import IMAGE, LABELS, PADDING, TEXT, Adapter, Batch
from microscope_bench.adapters.decoder import find_final_norm
from microscope_bench.capture.hooks import run_pass
from microscope_bench.errors import AdapterError, CaptureError
from microscope_bench.examples import IMAGE_PLACEHOLDER, Example

TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""How far an example's boundary may move, relative to its norm, when other examples share the batch: padding changes
the order of sums, so only the last bits of the model's own arithmetic, grown over its depth."""

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One statement about an adapter, proven, disproven or not applicable.

    Attributes:
        name: the statement.
        status: passed, failed or skipped.
        seen: the numbers behind it.
        hint: what to do about it, or why it was skipped; empty where it passed.
    """

    name: str
    status: Status
    seen: str
    hint: str = ""


@dataclass(frozen=True)
class Report:
    """All checks of one adapter; ``str()`` renders it as text.

    Attributes:
        model: the model's name.
        checks: in the order they ran.
    """

    model: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.status != "failed" for check in self.checks)

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = [self.model]
        for check in self.checks:
            said = ". ".join(part.rstrip(".") for part in (check.seen, check.hint) if part)
            lines.append(f"  {check.status:<7}  {check.name:<{width}}  {said}")
        failed = sum(check.status == "failed" for check in self.checks)
        lines.append(f"{failed} of {len(self.checks)} checks failed" if failed else "no check failed")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Probe:
    """One captured pass, which all checks look at."""

    adapter: Adapter
    examples: tuple[Example, ...]
    batch: Batch
    boundaries: tuple[Tensor, ...]
    logits: Tensor

    @property
    def labels(self) -> np.ndarray:
        """The final labels, (B, S)."""
        return self.adapter.refine_labels(self.batch, self.boundaries[0])


class _Skip(Exception):
    """A check does not apply; the message says why."""


def check(adapter: Adapter, examples: Sequence[Example] | None = None) -> Report:
    """Runs every check of the adapter's contract.

    Args:
        adapter: a loaded model.
        examples: at least two, best of different lengths and picture sizes; None draws two.

    Returns:
        The report. A check that raises has failed and says how; nothing is raised.
    """
    examples = tuple(examples or default_examples(adapter.modalities))
    model = adapter.info.name
    try:
        probe = _capture(adapter, examples)
    except CaptureError as error:
        return Report(model, (Check(_IN_ORDER, "failed", str(error), "Override blocks()"),))
    except Exception as error:
        seen = f"{type(error).__name__}: {error}"
        return Report(model, (Check("examples can be encoded and run", "failed", seen, "See encode() and forward()"),))
    count = f"{len(probe.boundaries)} boundaries of {len(adapter.blocks())} blocks"
    checks = [Check(_IN_ORDER, "passed", count)]
    for name, run in _CHECKS.items():
        try:
            ok, seen, hint = run(probe)
            checks.append(Check(name, "passed" if ok else "failed", seen, "" if ok else hint))
        except _Skip as reason:
            checks.append(Check(name, "skipped", "", str(reason)))
        except Exception as error:  # one broken statement must not hide the others
            checks.append(Check(name, "failed", f"{type(error).__name__}: {error}", "The check itself could not run"))
    return Report(model, tuple(checks))


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


def _capture(adapter: Adapter, examples: tuple[Example, ...]) -> _Probe:
    batch = adapter.encode(examples)
    boundaries: list[Tensor] = []
    logits = run_pass(adapter, batch, lambda layer, hidden: boundaries.append(hidden.clone()), logits=True)
    if logits is None:
        raise AdapterError("forward(logits=True) returned None; it must return the next-token logits")
    return _Probe(adapter, examples, batch, tuple(boundaries), logits)


_Outcome = tuple[bool, str, str]  # whether it holds, what was seen, what to do if it does not


def _labels_cover_the_sequence(probe: _Probe) -> _Outcome:
    shape = tuple(probe.boundaries[0].shape[:2])
    probe.adapter.check_labels(probe.batch, probe.boundaries[0])
    return shape == probe.labels.shape, f"{probe.labels.shape} labels, {shape} positions", "Override encode()"


def _modalities_are_found(probe: _Probe) -> _Outcome:
    asked = {TEXT} | ({IMAGE} if any(example.images for example in probe.examples) else set())
    counts = {LABELS[m]: (probe.labels == m).sum(axis=1).tolist() for m in sorted(asked)}
    image = [n for n, example in zip(counts.get("image", []), probe.examples, strict=False) if example.images]
    seen = ", ".join(f"{name} {numbers}" for name, numbers in counts.items())
    return min([*counts["text"], *image]) > 0, f"positions per example: {seen}", "The placeholder id is not known"


def _labels_follow_the_picture(probe: _Probe) -> _Outcome:
    if not any(example.images for example in probe.examples):
        raise _Skip("no example has a picture")
    inverted = tuple(replace(e, images=tuple(ImageOps.invert(image) for image in e.images)) for e in probe.examples)
    other = _capture(probe.adapter, inverted)
    if other.boundaries[0].shape != probe.boundaries[0].shape:
        raise _Skip("pictures of the same size but other content gave another number of positions")
    changed = (other.boundaries[0] != probe.boundaries[0]).any(dim=-1).cpu().numpy() & (probe.labels != PADDING)
    labelled = probe.labels > TEXT
    idle, hidden = int((labelled & ~changed).sum()), int((changed & ~labelled).sum())
    seen = f"{int((labelled & changed).sum())} media positions change, {idle} do not, {hidden} others change"
    hint = "Constant positions belong to structure (refine_labels()), changing ones to a modality (encode())"
    return idle == hidden == 0, seen, hint


def _layer_0_enters_block_1(probe: _Probe) -> _Outcome:
    with _first_argument_of(probe.adapter.blocks()[0]) as seen, torch.inference_mode():
        probe.adapter.forward(probe.batch, logits=True)
    equal = len(seen) == 1 and torch.equal(seen[0], probe.boundaries[0])
    shape = tuple(seen[0].shape) if seen else None
    return equal, f"block 1 ran {len(seen)} time(s) on {shape}", "blocks() must begin with the first block"


def _hooks_are_removed(probe: _Probe) -> _Outcome:
    class Interruption(Exception):
        pass

    def interrupt(layer: int, hidden: Tensor) -> None:
        raise Interruption

    before = _hook_count(probe.adapter)
    try:
        run_pass(probe.adapter, probe.batch, interrupt, logits=False)
    except Interruption:
        pass
    after = _hook_count(probe.adapter)
    return after == before, f"{after} hooks after, {before} before", "forward() must let exceptions through"


def _batch_equals_singles(probe: _Probe) -> _Outcome:
    tolerance = TOLERANCES.get(probe.adapter.info.dtype, TOLERANCES["float32"])
    worst = 0.0
    for row, example in enumerate(probe.examples):
        alone = _capture(probe.adapter, (example,))
        here, there = probe.labels[row] != PADDING, alone.labels[0] != PADDING
        if not np.array_equal(probe.labels[row][here], alone.labels[0][there]):
            return False, f"example {example.id} gets other labels alone", "Padding must not change a row's tokens"
        for together, single in zip(probe.boundaries, alone.boundaries, strict=True):
            worst = max(worst, _distance(_rows(together[row], here), _rows(single[0], there)))
    seen = f"relative difference {worst:.1e}, at most {tolerance:.0e}"
    return worst <= tolerance, seen, "Pad on the right and mask the padding"


def _two_runs_are_equal(probe: _Probe) -> _Outcome:
    again = _capture(probe.adapter, probe.examples)
    equal = all(torch.equal(a, b) for a, b in zip(again.boundaries, probe.boundaries, strict=True))
    worst = max(_distance(a, b) for a, b in zip(again.boundaries, probe.boundaries, strict=True))
    return equal, f"relative difference {worst:.1e}", "Something draws at random or keeps state between passes"


def _choices_are_single_tokens(probe: _Probe) -> _Outcome:
    if not all(example.has_letter_choices for example in probe.examples):
        raise _Skip("the examples have no lettered choices")
    finite = bool(torch.isfinite(probe.logits).all())
    shape = tuple(probe.logits.shape)
    for prompt, example in zip(probe.batch.prompts, probe.examples, strict=True):
        ids = probe.adapter.choice_token_ids(prompt, example.choices or ())
        if len(set(ids)) < len(ids) or max(ids) >= shape[1]:
            return False, f"ids {ids} of {example.choices}", "Each choice needs a token of its own: choice_token_ids()"
    ok = finite and len(shape) == 2 and shape[0] == len(probe.examples)
    return ok, f"ids {ids}, logits {shape}{'' if finite else ' with NaN or infinity'}", "See forward(logits=True)"


def _boundaries_equal_the_library(probe: _Probe) -> _Outcome:
    model: Any = getattr(probe.adapter, "model", None)
    if not hasattr(model, "config"):
        raise _Skip("the adapter has no transformers model as .model")
    if _mentions_deepstack(model.config.to_dict()):
        raise _Skip("a deepstack model writes between blocks, where transformers does not look")
    states = _library_hidden_states(model, probe.batch)
    if states is None:
        raise _Skip(f"{type(model).__name__} offers no comparable hidden states")
    real = probe.batch.labels != PADDING
    norm = find_final_norm(model, probe.adapter.blocks())
    with torch.inference_mode():
        last = probe.boundaries[-1] if norm is None else norm(probe.boundaries[-1])
    mine = [*probe.boundaries[:-1], last]
    worst = [_distance(_rows(a, real), _rows(b, real)) for a, b in zip(mine, states, strict=True)]
    seen = f"relative difference {max(worst[:-1]):.1e} below the last, {worst[-1]:.1e} at the last after the norm"
    return max(worst) <= 1e-6, seen, "blocks() may list another stack, or the model writes between blocks"


_IN_ORDER = "boundaries come once and in order"
_CHECKS: dict[str, Callable[[_Probe], _Outcome]] = {
    "labels cover the sequence block 1 saw": _labels_cover_the_sequence,
    "the asked modalities are found": _modalities_are_found,
    "labels agree with what the picture changes": _labels_follow_the_picture,
    "layer 0 is the input of block 1": _layer_0_enters_block_1,
    "hooks are removed after an exception": _hooks_are_removed,
    "a batch equals its examples one by one": _batch_equals_singles,
    "two runs are equal": _two_runs_are_equal,
    "choices are one token each": _choices_are_single_tokens,
    "boundaries equal transformers' hidden states": _boundaries_equal_the_library,
}


@contextmanager
def _first_argument_of(block: nn.Module) -> Iterator[list[Tensor]]:
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


def _hook_count(adapter: Adapter) -> int:
    return sum(len(block._forward_hooks) + len(block._forward_pre_hooks) for block in adapter.blocks())


def _library_hidden_states(model: Any, batch: Batch) -> Sequence[Tensor] | None:
    """What ``output_hidden_states=True`` gives for the same batch, or None."""
    with torch.inference_mode():
        output = model(**batch.inputs, use_cache=False, output_hidden_states=True)
    for holder in (output, getattr(output, "language_model_outputs", None)):
        states = getattr(holder, "hidden_states", None)
        if states is not None and all(isinstance(state, Tensor) for state in states):
            return tuple(states)
    return None


def _mentions_deepstack(config: dict[str, Any]) -> bool:
    return any("deepstack" in str(key) or (isinstance(v, dict) and _mentions_deepstack(v)) for key, v in config.items())


def _rows(hidden: Tensor, mask: np.ndarray) -> Tensor:
    return hidden[torch.from_numpy(mask).to(hidden.device)]


def _distance(a: Tensor, b: Tensor) -> float:
    """The norm of the difference relative to the norm of ``b``, in float64."""
    a, b = a.double(), b.to(a.device).double()
    return float((a - b).norm() / b.norm().clamp_min(torch.finfo(torch.float64).tiny))
