"""What the capture loop makes of toy questions, as a store and by token."""

from __future__ import annotations

import torch
from safetensors import safe_open

from microscope_bench.capture.loop import Capture
from microscope_bench.capture.store import TokenStore, writing
from microscope_bench.protocol import named_protocol
from tests.toy import LAYERS, ToyAdapter, ToyTask

FEW = named_protocol("geometry/1").with_changes(tokens_per_example=4, max_skipped=0.2)


def captured(path, adapter=None, task=None, batch_size=4, protocol=FEW, part_examples=8):
    adapter, task = adapter or ToyAdapter(), task or ToyTask(20)
    store = TokenStore.open_or_create(path, {}, n_examples=len(task), part_examples=part_examples)
    seen = []
    with writing(store.path):
        Capture(adapter, task, protocol, batch_size).fill(store, store.missing_parts(), seen.append)
    assert sum(seen) >= 0
    return store


def by_token(store):
    """(example id, modality, position) → states at every boundary."""
    found = {}
    records = store.records
    for part in range(store.n_parts):
        file = safe_open(store.tensor_file(part), framework="pt")
        if not len(file.get_tensor("example")):
            continue
        keys = [file.get_tensor(k).tolist() for k in ("example", "modality", "position")]
        states = torch.stack([file.get_tensor(f"boundary.{layer}") for layer in range(LAYERS + 1)])
        start = store.part_range(part).start
        for row, (example, modality, position) in enumerate(zip(*keys, strict=True)):
            found[records[start + example].id, modality, position] = states[:, row]
    return found
