"""The statements of the adapter's contract, each with the code that proves or disproves it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from microscope_bench.adapters.base import LABELS, PADDING, TEXT, Adapter
from microscope_bench.adapters.decoder import find_final_norm, hidden_given
from microscope_bench.adapters.evaluation_mode import evaluation_mode, random_states_kept
from microscope_bench.adapters.in_memory import in_memory
from microscope_bench.capture.hooks import run_pass
from microscope_bench.check.captured_pass import (
    CapturedPass,
    capture,
    distance,
    hook_count,
    install_recording_hooks,
    largest,
    length_of_their_list,
    library_hidden_states,
    rows,
)
from microscope_bench.check.check_examples import default_examples, with_other_media
from microscope_bench.check.check_report import Check, CheckReport, Outcome, Skip, what_was_found
from microscope_bench.check.task_words import prompts_arrive_whole, text_is_the_tasks_own
from microscope_bench.errors import CaptureError, said
from microscope_bench.example import PLACEHOLDERS, Example

TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""How far an example's boundary may move, relative to its norm, when other examples share the batch: padding changes
the order of sums, and so the last bits of the model's own arithmetic, which grow over its depth."""


def check(
    model: Adapter | nn.Module, examples: Sequence[Example] | None = None, *, processor: Any = None
) -> CheckReport:
    """Runs every check of the adapter's contract; a check that raises has failed and says how.

    ``model`` is a loaded adapter, or a model of transformers in memory with its ``processor``, and stays as it is.
    ``examples`` are at least two, best of different lengths and picture sizes; None draws two, and two more for each
    further modality of the model, on which the checks that depend on media run again.
    """
    with random_states_kept():
        adapter = model if isinstance(model, Adapter) else in_memory(model, processor)
        with evaluation_mode(adapter):
            install_recording_hooks(adapter)
            checks = _all_checks(adapter, examples)
        return CheckReport(adapter.info.name, tuple(checks), what_was_found(adapter))


def _all_checks(adapter: Adapter, examples: Sequence[Example] | None) -> list[Check]:
    if examples is not None:
        return _run(adapter, tuple(examples), _CHECKS)
    media = [modality for modality in PLACEHOLDERS if modality in adapter.modalities]
    checks = _run(adapter, default_examples(frozenset(media[:1])), _CHECKS)
    for modality in media[1:]:
        again = _run(adapter, default_examples(frozenset({modality})), _OF_MEDIA)
        checks += [replace(found, name=f"{found.name} ({modality})") for found in again]
    return checks


def _run(adapter: Adapter, examples: tuple[Example, ...], names: Iterable[str]) -> list[Check]:
    try:
        captured = capture(adapter, examples[: adapter.max_batch])
    except CaptureError as error:
        return [Check(_IN_ORDER, "failed", str(error), "Override blocks()")]
    except Exception as error:
        return [Check("examples can be encoded and run", "failed", said(error), "See encode() and forward()")]
    count = f"{len(captured.boundaries)} boundaries of {len(adapter.blocks())} blocks"
    checks = [Check(_IN_ORDER, "passed", count)]
    for name in names:
        try:
            holds, seen, hint = _CHECKS[name](captured)
            checks.append(Check(name, "passed" if holds else "failed", seen, "" if holds else hint))
        except Skip as reason:
            checks.append(Check(name, "skipped", "", str(reason)))
        except Exception as error:  # one broken statement must not hide the others
            checks.append(Check(name, "failed", said(error), "The check itself could not run"))
    return checks


def _states_are_finite(captured: CapturedPass) -> Outcome:
    total = int(captured.real.sum())
    if captured.finite:
        return True, f"{total} positions at {len(captured.boundaries)} boundaries", ""
    layer = next(layer for layer, count in enumerate(captured.non_finite) if count)
    first = f"block {layer} writes the first" if layer else "they are in what enters block 1"
    seen = f"NaN or infinity at {captured.non_finite} of {total} positions, by boundary"
    return False, seen, f"{first}: look for NaN in the weights, or for an overflow (try dtype=bfloat16 or float32)"


def _depth_and_width_fit(captured: CapturedPass) -> Outcome:
    info, n_blocks, width = captured.adapter.info, len(captured.adapter.blocks()), captured.boundaries[0].shape[-1]
    said = f"info says {info.n_layers} layers of width {info.hidden_size}"
    seen = f"{said}, blocks() lists {n_blocks} blocks and block 1 saw width {width}"
    hint = "Correct info, or blocks() if it lists another stack"
    whole = length_of_their_list(captured.adapter)
    if whole not in (None, n_blocks):
        return False, f"{seen}; the list they are from has {whole}", hint
    return (info.n_layers, info.hidden_size) == (n_blocks, width), seen, hint


def _labels_cover_the_sequence(captured: CapturedPass) -> Outcome:
    shape = tuple(captured.boundaries[0].shape[:2])
    captured.adapter.check_labels(captured.batch, captured.boundaries[0])
    return shape == captured.labels.shape, f"{captured.labels.shape} labels, {shape} positions", "Override encode()"


def _modalities_are_found(captured: CapturedPass) -> Outcome:
    counts, least = {}, []
    for modality in ("text", *PLACEHOLDERS):
        of = [example for example in captured.examples if modality == "text" or modality in example.media]
        if of and modality not in captured.adapter.unplaced:
            counts[modality] = (captured.labels == LABELS.index(modality)).sum(axis=1).tolist()
            least += [n for n, example in zip(counts[modality], captured.examples, strict=False) if example in of]
    seen = ", ".join(f"{name} {numbers}" for name, numbers in counts.items())
    return min(least) > 0, f"positions per example: {seen}", "The placeholder id is not known"


def _labels_follow_the_media(captured: CapturedPass) -> Outcome:
    media = {modality for example in captured.examples for modality in example.media}
    if not media:
        raise Skip("no example has a picture, a video or sound")
    _skip_unless_finite(captured)
    other = capture(captured.adapter, tuple(with_other_media(example) for example in captured.examples))
    if other.boundaries[0].shape != captured.boundaries[0].shape:
        raise Skip("media of the same size but other content gave another number of positions")
    if not other.finite:
        seen = f"with other media NaN or infinity at {other.non_finite} positions, by boundary"
        return False, seen, "Look for an overflow or a division by zero in encode() and the encoder of the media"
    labelled = captured.labels > TEXT
    if media & captured.adapter.unplaced.keys():
        moved = [layer for layer, d in enumerate(_distances(captured, other.boundaries, captured.boundaries)) if d]
        first = f"from boundary {min(moved)} on" if moved else "nowhere"
        seen = f"{labelled.sum()} positions are labelled a medium; other media change the stream {first}"
        hint = "The media do not reach the stream, or positions are labelled that hold none"
        return bool(moved) and not labelled.any(), seen, hint
    changed = (other.boundaries[0] != captured.boundaries[0]).any(dim=-1).cpu().numpy() & (captured.labels != PADDING)
    idle, hidden = int((labelled & ~changed).sum()), int((changed & ~labelled).sum())
    seen = f"{int((labelled & changed).sum())} media positions change, {idle} do not, {hidden} others change"
    hint = "Constant positions belong to structure (refine_labels()), changing ones to a modality (encode())"
    if captured.adapter.codes_repeat:  # two pictures may share a code here and there, but not everywhere
        return hidden == 0 and idle < (labelled & changed).sum(), seen, hint
    return idle == hidden == 0, seen, hint


def _layer_0_enters_block_1(captured: CapturedPass) -> Outcome:
    _skip_unless_finite(captured)
    if not captured.adapter.blocks():
        raise Skip("there are no blocks here")
    block, seen = captured.adapter.blocks()[0], []
    original = block.forward

    def recording(*args: Any, **kwargs: Any) -> Any:
        seen.append(hidden_given(args, kwargs).clone())
        return original(*args, **kwargs)

    with mock.patch.object(block, "forward", recording):  # independent of hooks
        captured.adapter.forward(captured.batch, logits=True)
    states = [captured.adapter.residual(state) for state in seen]
    equal = (
        len(states) == 1
        and states[0].shape == captured.boundaries[0].shape
        and torch.equal(rows(states[0], captured.real), rows(captured.boundaries[0], captured.real))
    )
    shape = tuple(seen[0].shape) if seen else None
    return equal, f"block 1 ran {len(seen)} time(s) on {shape}", "blocks() must begin with the first block"


def _hooks_are_removed(captured: CapturedPass) -> Outcome:
    def interrupt(layer: int, hidden: Tensor) -> None:
        raise InterruptedError

    before = hook_count(captured.adapter)
    with contextlib.suppress(InterruptedError):
        run_pass(captured.adapter, captured.batch, interrupt, logits=False)
    after = hook_count(captured.adapter)
    return after == before, f"{after} hooks after, {before} before", "forward() must let exceptions through"


def _batch_equals_singles(captured: CapturedPass) -> Outcome:
    _skip_unless_finite(captured)
    if captured.adapter.max_batch == 1:
        raise Skip("examples are encoded one by one")
    tolerance = TOLERANCES.get(captured.adapter.info.dtype, TOLERANCES["float32"])
    distances = []
    for row, example in enumerate(captured.examples):
        alone = capture(captured.adapter, (example,))
        here, there = captured.labels[row] != PADDING, alone.labels[0] != PADDING
        if not np.array_equal(captured.labels[row][here], alone.labels[0][there]):
            return False, f"example {example.id} gets other labels alone", "Padding must not change a row's tokens"
        for together, single in zip(captured.boundaries, alone.boundaries, strict=True):
            distances.append(distance(rows(together[row], here), rows(single[0], there)))
    worst = largest(distances)
    seen = f"relative difference {worst:.1e}, at most {tolerance:.0e}"
    return _agree(worst, tolerance, seen, "Pad on the right and mask the padding")


def _two_runs_are_equal(captured: CapturedPass) -> Outcome:
    _skip_unless_finite(captured)
    again = capture(captured.adapter, captured.examples)
    worst = largest(_distances(captured, again.boundaries, captured.boundaries))
    seen = f"relative difference {worst:.1e}"
    return _agree(worst, 0.0, seen, "Something draws at random or keeps state between passes")


def _choices_are_single_tokens(captured: CapturedPass) -> Outcome:
    if not all(example.has_letter_choices for example in captured.examples):
        raise Skip("the examples have no lettered choices")
    shape = tuple(captured.logits.shape)
    for prompt, example in zip(captured.batch.prompts, captured.examples, strict=True):
        ids = captured.adapter.choice_token_ids(prompt, example.choices or ())
        if len(set(ids)) < len(ids) or max(ids) >= shape[1]:
            return False, f"ids {ids} of {example.choices}", "Each choice needs a token of its own: choice_token_ids()"
    _skip_unless_finite(captured)
    finite = bool(torch.isfinite(captured.logits).all())
    holds = finite and len(shape) == 2 and shape[0] == len(captured.examples)
    return holds, f"ids {ids}, logits {shape}{'' if finite else ' with NaN or infinity'}", "See forward(logits=True)"


def _boundaries_equal_the_library(captured: CapturedPass) -> Outcome:
    model: Any = getattr(captured.adapter, "model", None)
    if not hasattr(model, "config") or "tap" in captured.adapter.info.options:
        raise Skip("the adapter has no transformers model as .model, or watches another stream")
    if captured.adapter.states_differ:
        raise Skip(captured.adapter.states_differ)
    if "deepstack" in str(model.config.to_dict()):
        raise Skip("a deepstack model writes between blocks, where transformers does not look")
    _skip_unless_finite(captured)
    states = library_hidden_states(model, captured)
    if states is None:
        raise Skip(f"{type(model).__name__} offers no comparable hidden states")
    hint = "blocks() may list another stack, or the model writes between blocks"
    boundaries, optional = captured.boundaries, captured.adapter.optional_blocks()
    if len(states) == len(boundaries) - len(optional):  # transformers records nothing where a block is left out
        boundaries = tuple(hidden for layer, hidden in enumerate(boundaries) if layer not in optional)
    if len(states) != len(boundaries):
        return False, f"{len(boundaries)} boundaries here, {len(states)} in transformers", hint
    if states[0].dim() > boundaries[0].dim():
        raise Skip("transformers keeps parallel residual streams apart")
    if states[0].shape != boundaries[0].shape:
        return False, f"shape {tuple(boundaries[0].shape)} here, {tuple(states[0].shape)} in transformers", hint
    norm = find_final_norm(model, captured.adapter.blocks())
    last = boundaries[-1] if norm is None else norm(boundaries[-1])
    distances = _distances(captured, [*boundaries[:-1], last], states)
    below, at_last = largest(distances[:-1]), distances[-1]
    seen = f"relative difference {below:.1e} below the last, {at_last:.1e} at the last after the norm"
    return _agree(largest(distances), 1e-6, seen, hint)


def _distances(captured: CapturedPass, a: Sequence[Tensor], b: Sequence[Tensor]) -> list[float]:
    return [distance(rows(x, captured.real), rows(y, captured.real)) for x, y in zip(a, b, strict=True)]


def _agree(worst: float, tolerance: float, seen: str, hint: str) -> Outcome:
    return worst <= tolerance, seen, "One of the two compared gave NaN or infinity" if math.isnan(worst) else hint


def _skip_unless_finite(captured: CapturedPass) -> None:
    """NaN equals nothing, not even itself, so comparing it says nothing about the adapter."""
    if not captured.finite:
        raise Skip("states are not finite")


_IN_ORDER = "boundaries come once and in order"
_CHECKS: dict[str, Callable[[CapturedPass], Outcome]] = {
    "states are finite": _states_are_finite,
    "depth and width are those of the blocks": _depth_and_width_fit,
    "labels cover the sequence block 1 saw": _labels_cover_the_sequence,
    "the asked modalities are found": _modalities_are_found,
    "text is the task's own words": text_is_the_tasks_own,
    "prompts arrive whole": prompts_arrive_whole,
    "labels agree with what the media change": _labels_follow_the_media,
    "layer 0 is the input of block 1": _layer_0_enters_block_1,
    "hooks are removed after an exception": _hooks_are_removed,
    "a batch equals its examples one by one": _batch_equals_singles,
    "two runs are equal": _two_runs_are_equal,
    "choices are one token each": _choices_are_single_tokens,
    "boundaries equal transformers' hidden states": _boundaries_equal_the_library,
}
_OF_MEDIA = (
    "states are finite",
    "labels cover the sequence block 1 saw",
    "the asked modalities are found",
    "text is the task's own words",
    "labels agree with what the media change",
    "a batch equals its examples one by one",
)
