"""The statements of the adapter's contract, each with the code that proves or disproves it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from microscope_bench.adapters.base import LABELS, PADDING, TEXT, Adapter
from microscope_bench.adapters.decoder import find_final_norm
from microscope_bench.capture.hooks import run_pass
from microscope_bench.check.check_report import Check, Report
from microscope_bench.check.probes import (
    Probe,
    capture,
    default_examples,
    distance,
    first_argument_of,
    hook_count,
    install_recording_hooks,
    largest,
    length_of_their_list,
    library_hidden_states,
    mentions_deepstack,
    rows,
    what_was_found,
    with_other_media,
)
from microscope_bench.errors import CaptureError
from microscope_bench.example import PLACEHOLDERS, Example

TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""How far an example's boundary may move, relative to its norm, when other examples share the batch: padding changes
the order of sums, so only the last bits of the model's own arithmetic, grown over its depth."""


class _Skip(Exception):
    """A check does not apply; the message says why."""


def check(adapter: Adapter, examples: Sequence[Example] | None = None) -> Report:
    """Runs every check of the adapter's contract.

    Args:
        adapter: a loaded model.
        examples: at least two, best of different lengths and picture sizes; None draws two, and two more for each
            further modality of the model, on which the checks that depend on media run again.

    Returns:
        The report. A check that raises has failed and says how; nothing is raised.
    """
    install_recording_hooks(adapter)
    if examples is not None:
        return Report(adapter.info.name, tuple(_run(adapter, tuple(examples), _CHECKS)), what_was_found(adapter))
    media = [modality for modality in PLACEHOLDERS if modality in adapter.modalities]
    checks = _run(adapter, default_examples(frozenset(media[:1])), _CHECKS)
    for modality in media[1:]:
        again = {name: _CHECKS[name] for name in _OF_MEDIA}
        checks += [
            replace(found, name=f"{found.name} ({modality})")
            for found in _run(adapter, default_examples(frozenset({modality})), again)
        ]
    return Report(adapter.info.name, tuple(checks), what_was_found(adapter))


def _run(
    adapter: Adapter, examples: tuple[Example, ...], named: Mapping[str, Callable[[Probe], _Outcome]]
) -> list[Check]:
    try:
        probe = capture(adapter, examples[: adapter.max_batch])
    except CaptureError as error:
        return [Check(_IN_ORDER, "failed", str(error), "Override blocks()")]
    except Exception as error:
        seen = f"{type(error).__name__}: {error}"
        return [Check("examples can be encoded and run", "failed", seen, "See encode() and forward()")]
    count = f"{len(probe.boundaries)} boundaries of {len(adapter.blocks())} blocks"
    checks = [Check(_IN_ORDER, "passed", count)]
    for name, run in named.items():
        try:
            ok, seen, hint = run(probe)
            checks.append(Check(name, "passed" if ok else "failed", seen, "" if ok else hint))
        except _Skip as reason:
            checks.append(Check(name, "skipped", "", str(reason)))
        except Exception as error:  # one broken statement must not hide the others
            checks.append(Check(name, "failed", f"{type(error).__name__}: {error}", "The check itself could not run"))
    return checks


_Outcome = tuple[bool, str, str]  # whether it holds, what was seen, what to do if it does not


def _states_are_finite(probe: Probe) -> _Outcome:
    total = int(probe.real.sum())
    if probe.finite:
        return True, f"{total} positions at {len(probe.boundaries)} boundaries", ""
    layer = next(layer for layer, count in enumerate(probe.non_finite) if count)
    first = f"block {layer} writes the first" if layer else "they are in what enters block 1"
    seen = f"NaN or infinity at {probe.non_finite} of {total} positions, by boundary"
    return False, seen, f"{first}: look for NaN in the weights, or for an overflow (try dtype=bfloat16 or float32)"


def _depth_and_width_fit(probe: Probe) -> _Outcome:
    info, n_blocks, width = probe.adapter.info, len(probe.adapter.blocks()), probe.boundaries[0].shape[-1]
    said = f"info says {info.n_layers} layers of width {info.hidden_size}"
    seen = f"{said}, blocks() lists {n_blocks} blocks and block 1 saw width {width}"
    hint = "Correct info, or blocks() if it lists another stack"
    whole = length_of_their_list(probe.adapter)
    if whole not in (None, n_blocks):
        return False, f"{seen}; the list they are from has {whole}", hint
    return (info.n_layers, info.hidden_size) == (n_blocks, width), seen, hint


def _labels_cover_the_sequence(probe: Probe) -> _Outcome:
    shape = tuple(probe.boundaries[0].shape[:2])
    probe.adapter.check_labels(probe.batch, probe.boundaries[0])
    return shape == probe.labels.shape, f"{probe.labels.shape} labels, {shape} positions", "Override encode()"


def _modalities_are_found(probe: Probe) -> _Outcome:
    counts, least = {}, []
    for modality in ("text", *PLACEHOLDERS):
        of = [example for example in probe.examples if modality == "text" or modality in example.media]
        if of and modality not in probe.adapter.unplaced:
            counts[modality] = (probe.labels == LABELS.index(modality)).sum(axis=1).tolist()
            least += [n for n, example in zip(counts[modality], probe.examples, strict=False) if example in of]
    seen = ", ".join(f"{name} {numbers}" for name, numbers in counts.items())
    return min(least) > 0, f"positions per example: {seen}", "The placeholder id is not known"


def _labels_follow_the_media(probe: Probe) -> _Outcome:
    media = {modality for example in probe.examples for modality in example.media}
    if not media:
        raise _Skip("no example has a picture, a video or sound")
    _refuse_states_that_are_not_finite(probe)
    other = capture(probe.adapter, tuple(with_other_media(example) for example in probe.examples))
    if other.boundaries[0].shape != probe.boundaries[0].shape:
        raise _Skip("media of the same size but other content gave another number of positions")
    if not other.finite:
        seen = f"with other media NaN or infinity at {other.non_finite} positions, by boundary"
        return False, seen, "Look for an overflow or a division by zero in encode() and the encoder of the media"
    labelled = probe.labels > TEXT
    if media & probe.adapter.unplaced.keys() - {"text"}:
        return _unplaced_media_reach_the_stream(probe, other, int(labelled.sum()))
    changed = (other.boundaries[0] != probe.boundaries[0]).any(dim=-1).cpu().numpy() & (probe.labels != PADDING)
    idle, hidden = int((labelled & ~changed).sum()), int((changed & ~labelled).sum())
    seen = f"{int((labelled & changed).sum())} media positions change, {idle} do not, {hidden} others change"
    hint = "Constant positions belong to structure (refine_labels()), changing ones to a modality (encode())"
    if probe.adapter.codes_repeat:  # two pictures may share a code here and there, but not everywhere
        return hidden == 0 and idle < (labelled & changed).sum(), seen, hint
    return idle == hidden == 0, seen, hint


def _unplaced_media_reach_the_stream(probe: Probe, other: Probe, n_labelled: int) -> _Outcome:
    pairs = zip(other.boundaries, probe.boundaries, strict=True)
    moved = [layer for layer, (a, b) in enumerate(pairs) if not torch.equal(rows(a, probe.real), rows(b, probe.real))]
    first = f"from boundary {min(moved)} on" if moved else "nowhere"
    seen = f"{n_labelled} positions are labelled a medium; other media change the stream {first}"
    return (
        bool(moved) and not n_labelled,
        seen,
        "The media do not reach the stream, or positions are labelled that hold none",
    )


def _layer_0_enters_block_1(probe: Probe) -> _Outcome:
    _refuse_states_that_are_not_finite(probe)
    if not probe.adapter.blocks():
        raise _Skip("there are no blocks here")
    with first_argument_of(probe.adapter.blocks()[0]) as seen, torch.inference_mode():
        probe.adapter.forward(probe.batch, logits=True)
    shape = tuple(seen[0].shape) if seen else None
    first = probe.adapter.residual(seen[0]) if seen else None
    equal = (
        first is not None
        and len(seen) == 1
        and first.shape == probe.boundaries[0].shape
        and torch.equal(rows(first, probe.real), rows(probe.boundaries[0], probe.real))
    )
    return equal, f"block 1 ran {len(seen)} time(s) on {shape}", "blocks() must begin with the first block"


def _hooks_are_removed(probe: Probe) -> _Outcome:
    class Interruption(Exception):
        pass

    def interrupt(layer: int, hidden: Tensor) -> None:
        raise Interruption

    before = hook_count(probe.adapter)
    try:
        run_pass(probe.adapter, probe.batch, interrupt, logits=False)
    except Interruption:
        pass
    after = hook_count(probe.adapter)
    return after == before, f"{after} hooks after, {before} before", "forward() must let exceptions through"


def _batch_equals_singles(probe: Probe) -> _Outcome:
    _refuse_states_that_are_not_finite(probe)
    if probe.adapter.max_batch == 1:
        raise _Skip("examples are encoded one by one")
    tolerance = TOLERANCES.get(probe.adapter.info.dtype, TOLERANCES["float32"])
    distances = []
    for row, example in enumerate(probe.examples):
        alone = capture(probe.adapter, (example,))
        here, there = probe.labels[row] != PADDING, alone.labels[0] != PADDING
        if not np.array_equal(probe.labels[row][here], alone.labels[0][there]):
            return False, f"example {example.id} gets other labels alone", "Padding must not change a row's tokens"
        for together, single in zip(probe.boundaries, alone.boundaries, strict=True):
            distances.append(distance(rows(together[row], here), rows(single[0], there)))
    worst = largest(distances)
    seen = f"relative difference {worst:.1e}, at most {tolerance:.0e}"
    return _agree(worst, tolerance, seen, "Pad on the right and mask the padding")


def _two_runs_are_equal(probe: Probe) -> _Outcome:
    _refuse_states_that_are_not_finite(probe)
    again = capture(probe.adapter, probe.examples)
    pairs = zip(again.boundaries, probe.boundaries, strict=True)
    worst = largest(distance(rows(a, probe.real), rows(b, probe.real)) for a, b in pairs)
    seen = f"relative difference {worst:.1e}"
    return _agree(worst, 0.0, seen, "Something draws at random or keeps state between passes")


def _choices_are_single_tokens(probe: Probe) -> _Outcome:
    if not all(example.has_letter_choices for example in probe.examples):
        raise _Skip("the examples have no lettered choices")
    shape = tuple(probe.logits.shape)
    for prompt, example in zip(probe.batch.prompts, probe.examples, strict=True):
        ids = probe.adapter.choice_token_ids(prompt, example.choices or ())
        if len(set(ids)) < len(ids) or max(ids) >= shape[1]:
            return False, f"ids {ids} of {example.choices}", "Each choice needs a token of its own: choice_token_ids()"
    _refuse_states_that_are_not_finite(probe)
    finite = bool(torch.isfinite(probe.logits).all())
    ok = finite and len(shape) == 2 and shape[0] == len(probe.examples)
    return ok, f"ids {ids}, logits {shape}{'' if finite else ' with NaN or infinity'}", "See forward(logits=True)"


def _boundaries_equal_the_library(probe: Probe) -> _Outcome:
    model: Any = getattr(probe.adapter, "model", None)
    if not hasattr(model, "config") or "tap" in probe.adapter.info.options:
        raise _Skip("the adapter has no transformers model as .model, or watches another stream")
    if probe.adapter.states_differ:
        raise _Skip(probe.adapter.states_differ)
    if mentions_deepstack(model.config.to_dict()):
        raise _Skip("a deepstack model writes between blocks, where transformers does not look")
    _refuse_states_that_are_not_finite(probe)
    states = library_hidden_states(probe.adapter, model, probe)
    if states is None:
        raise _Skip(f"{type(model).__name__} offers no comparable hidden states")
    hint = "blocks() may list another stack, or the model writes between blocks"
    boundaries, optional = probe.boundaries, probe.adapter.optional_blocks()
    if len(states) == len(boundaries) - len(optional):  # transformers records nothing where a block is left out
        boundaries = tuple(hidden for layer, hidden in enumerate(boundaries) if layer not in optional)
    if len(states) != len(boundaries):
        return False, f"{len(boundaries)} boundaries here, {len(states)} in transformers", hint
    if states[0].dim() > boundaries[0].dim():
        raise _Skip("transformers keeps parallel residual streams apart")
    if states[0].shape != boundaries[0].shape:
        return False, f"shape {tuple(boundaries[0].shape)} here, {tuple(states[0].shape)} in transformers", hint
    norm = find_final_norm(model, probe.adapter.blocks())
    with torch.inference_mode():
        last = boundaries[-1] if norm is None else norm(boundaries[-1])
    mine = [*boundaries[:-1], last]
    distances = [distance(rows(a, probe.real), rows(b, probe.real)) for a, b in zip(mine, states, strict=True)]
    below, at_last = largest(distances[:-1]), distances[-1]
    seen = f"relative difference {below:.1e} below the last, {at_last:.1e} at the last after the norm"
    return _agree(largest(distances), 1e-6, seen, hint)


def _agree(worst: float, tolerance: float, seen: str, hint: str) -> _Outcome:
    """Passes if the largest distance is a number within the tolerance."""
    return worst <= tolerance, seen, "One of the two compared gave NaN or infinity" if math.isnan(worst) else hint


def _refuse_states_that_are_not_finite(probe: Probe) -> None:
    """NaN equals nothing, not even itself, so comparing it says nothing about the adapter."""
    if not probe.finite:
        raise _Skip("states are not finite")


_IN_ORDER = "boundaries come once and in order"
_CHECKS: dict[str, Callable[[Probe], _Outcome]] = {
    "states are finite": _states_are_finite,
    "depth and width are those of the blocks": _depth_and_width_fit,
    "labels cover the sequence block 1 saw": _labels_cover_the_sequence,
    "the asked modalities are found": _modalities_are_found,
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
    "labels agree with what the media change",
    "a batch equals its examples one by one",
)
