"""One example of a store, run again: a store keeps some tokens and no words, a picture shows every token.

It must be the model and the example of the store: identities, the example's content, its token ids and the states that
the store kept are compared first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from msgspec import Struct, convert
from torch import Tensor

from microscope_bench.adapters.base import PADDING, Adapter, Batch
from microscope_bench.adapters.measured_model import measured_model
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.fingerprints import example_sha256
from microscope_bench.capture.hooks import run_pass
from microscope_bench.controls import Run, with_control
from microscope_bench.errors import StoreError, unknown_name
from microscope_bench.example import Example, ExampleSource
from microscope_bench.figures.open_store import OpenStore
from microscope_bench.identity import Processing, TaskInfo

TOLERANCE = {"float16": 0.1, "bfloat16": 0.1}
OTHERWISE = 1e-3
"""Most that a kept token's state may be off, as a share of its norm: another batch size changes the last bits."""


@dataclass(frozen=True)
class Rerun:
    """One example with the states of all its tokens: ``states`` maps a boundary to float64 (S, d).

    ``record`` is what the store knows of the example, ``batch`` holds it alone, and ``labels``, int8 (S,), are those of
    every position that is not padding.
    """

    adapter: Adapter
    example: Example
    record: ExampleRecord
    batch: Batch
    labels: np.ndarray
    states: dict[int, Tensor]


def run_again(
    opened: OpenStore, adapter: Adapter, source: ExampleSource, example_id: str, boundaries: set[int]
) -> Rerun:
    """Runs one example of a store again, by its model and its task, and keeps its states at some boundaries.

    Raises:
        StoreError: model, task, data or example are not those of the store, or the states that come out are not.
        UnknownNameError: the store has no such example.
    """
    identity = opened.identity
    if tap := identity.model.options.get("tap"):
        raise StoreError(
            f"the store holds states of tap {tap}; one example is drawn from a store of the language model alone"
        )
    _check_same("task", identity.task, TaskInfo(source.name, source.version))
    _check_same("data set", identity.dataset, source.dataset)
    n_examples = int(opened.store.manifest["n_examples"])
    controlled = with_control(identity.model.control, Run(adapter, source, n_examples, identity.protocol.seed))
    adapter, source = controlled.adapter, controlled.source
    _check_same("model", identity.model, measured_model(adapter))
    _check_same("model", convert(opened.store.manifest["run"]["processing"], Processing), adapter.processing)
    index, record = _find(opened, example_id)
    example = source.example(index)
    if example.id != example_id or example_sha256(example) != record.example_sha256:
        raise StoreError(
            f"example {example_id} is not what it was when the store was made: the task or its data changed"
        )
    batch = adapter.encode([example])
    labels, states = _captured(adapter, batch, boundaries)
    _check_states(opened, example_id, states)
    return Rerun(adapter, example, record, batch, labels, states)


def _check_same(what: str, stored: Struct, given: Struct) -> None:
    pairs = [(name, getattr(stored, name), getattr(given, name)) for name in stored.__struct_fields__]
    differing = [f"{name} is {now!r} and was {then!r}" for name, then, now in pairs if now != then]
    if differing:
        raise StoreError(
            f"this is another {what} than the store's: {'; '.join(differing[:4])}. Give the options of the run again"
        )


def _find(opened: OpenStore, example_id: str) -> tuple[int, ExampleRecord]:
    records = opened.store.records
    for index, record in enumerate(records):
        if record.id == example_id:
            if record.skipped is not None:
                raise StoreError(f"example {example_id} was not measured: {record.skipped}")
            return index, record
    raise unknown_name("example", example_id, [record.id for record in records], "It is not in the store.")


def _captured(adapter: Adapter, batch: Batch, boundaries: set[int]) -> tuple[np.ndarray, dict[int, Tensor]]:
    states: dict[int, Tensor] = {}
    found: list[np.ndarray] = []

    def keep(layer: int, hidden: Tensor) -> None:
        if layer == 0:
            adapter.check_labels(batch, hidden)
            found.append(adapter.refine_labels(batch, hidden)[0])
        if layer in boundaries:
            real = torch.from_numpy(found[0] != PADDING).to(hidden.device)
            states[layer] = hidden[0][real].double().cpu()

    run_pass(adapter, batch, keep, logits=False)
    return found[0][found[0] != PADDING], states


def _check_states(opened: OpenStore, example_id: str, states: dict[int, Tensor]) -> None:
    tokens = opened.tokens
    rank = next(k for k, record in enumerate(tokens.records) if record.id == example_id)
    kept = np.flatnonzero(tokens.example == rank)
    if not len(kept):
        raise StoreError(f"the store kept no token of example {example_id} that is not another example's too")
    position = tokens.read("position", kept)
    tolerance = TOLERANCE.get(opened.identity.model.dtype, OTHERWISE)
    for layer, here in states.items():
        stored = tokens.states(layer, kept).double()
        if int(position.max()) >= len(here):
            raise StoreError(f"example {example_id} has {len(here)} tokens now and had more when the store was made")
        off = torch.linalg.vector_norm(here[position] - stored, dim=1)
        size = torch.linalg.vector_norm(stored, dim=1)
        if not bool((off <= tolerance * size).all()):
            raise StoreError(
                f"the model gives other states at layer {layer} of example {example_id} than the store holds "
                f"(off by up to {float((off / size).max()):.2g} of their norm); run on the device and with the package "
                f"versions of the run, {opened.store.manifest['about']['environment']['device']}"
            )
