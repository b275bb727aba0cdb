"""Rows read from their places in the files are those that safetensors reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.safetensors_rows import StoredRows
from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import StoreError

N_PARTS, ROWS = 3, (5, 0, 9)
"""The second part's examples were all skipped: it has no states at all, as the capture writes it."""


def store_of(path: Path, dtype: torch.dtype) -> TokenStore:
    store = TokenStore.open_or_create(path, {}, n_examples=N_PARTS, part_examples=1)
    generator = torch.Generator().manual_seed(0)
    for part, n in enumerate(ROWS):
        tensors = {name: torch.arange(n) * 2**40 for name in ("example", "origin")}
        tensors["modality"] = torch.ones(n, dtype=torch.int8)
        if n:
            for layer in range(2):
                tensors[f"boundary.{layer}"] = torch.randn(n, 7, generator=generator).to(dtype)
        store.write_part(part, tensors, [ExampleRecord(id=f"q{part}")])
    return store


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16, torch.float16, torch.float64])
def store(request, tmp_path_factory) -> TokenStore:
    return store_of(tmp_path_factory.mktemp("rows") / "s", request.param)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([0, 2]), st.integers(0, 8)), max_size=30))
def test_any_rows_in_any_order_are_those_of_safetensors(store, wanted):
    wanted = [(part, row % ROWS[part]) for part, row in wanted]
    part, row = (np.array([pair[k] for pair in wanted], dtype=np.int32) for k in (0, 1))
    stored = StoredRows(store)
    for name in ("boundary.0", "boundary.1", "origin", "modality"):
        whole = {p: safe_open(store.tensor_file(p), framework="pt").get_tensor(name) for p in (0, 2)}
        found = stored.read(name, part, row)
        assert found.dtype == whole[0].dtype and found.shape == (len(wanted), *whole[0].shape[1:])
        assert all(torch.equal(one, whole[p][r]) for one, (p, r) in zip(found, wanted, strict=True))


def test_columns_and_counts(store):
    stored = StoredRows(store)
    assert stored.n_tokens.tolist() == list(ROWS)
    assert [len(stored.column("origin", part)) for part in range(N_PARTS)] == list(ROWS)
    assert stored.column("origin", 2).tolist() == [k * 2**40 for k in range(9)]


def test_what_is_not_there_is_an_error_that_names_it(tmp_path):
    store = store_of(tmp_path / "s", torch.float32)
    stored = StoredRows(store)
    with pytest.raises(StoreError, match="holds no tokens with a mainflow"):
        stored.read("mainflow.1", np.array([0]), np.array([0]))
    with pytest.raises(StoreError, match="it has no boundary"):
        stored.read("boundary.0", np.array([1]), np.array([0]))
    file = store.tensor_file(2)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(StoreError, match=r"00002\.safetensors cannot be read: it ends within"):
        for name in ("boundary.0", "boundary.1", "example", "modality", "origin"):
            stored.read(name, np.full(9, 2), np.arange(9))
    file.write_bytes(b"\xff" * 8)
    with pytest.raises(StoreError, match="its header has"):
        StoredRows(store)
    file.unlink()
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        StoredRows(store)
