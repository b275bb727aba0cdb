"""The index of a store: the canonical order and the sample, held against the plain way to compute them."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from microscope_bench.adapters.base import LABELS
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.selection import token_hashes
from microscope_bench.capture.store import TokenStore
from microscope_bench.measure import tokens as tokens_module
from microscope_bench.measure.tokens import StoredTokens
from microscope_bench.protocol import named_protocol
from tests.measure.stores import CPU

PROTOCOL = named_protocol("geometry/1")


def scattered_store(path, ids, part_examples, seed):
    """Examples in any order of ids, tokens of a part in any order, some examples skipped."""
    draw = np.random.default_rng(seed)
    store = TokenStore.open_or_create(path, {}, n_examples=len(ids), part_examples=part_examples)
    rows = []
    for part in range(store.n_parts):
        members = list(store.part_range(part))
        skipped = [draw.random() < 0.2 for _ in members]
        found = [
            (k, code, position, 50 - position)
            for k, skip in enumerate(skipped)
            if not skip
            for code in (LABELS.index("text"), LABELS.index("image"))
            for position in draw.choice(50, size=draw.integers(0, 6), replace=False).tolist()
        ]
        draw.shuffle(found)
        columns = np.array(found, dtype=np.int64).reshape(-1, 4).T
        names = ("example", "modality", "position", "number")
        tensors = {name: torch.from_numpy(column.copy()) for name, column in zip(names, columns, strict=True)}
        tensors["modality"] = tensors["modality"].to(torch.int8)
        tensors["origin"] = torch.from_numpy(draw.integers(-(2**62), 2**62, len(found)))
        tensors["prefix"] = torch.from_numpy(draw.integers(-(2**62), 2**62, len(found)))
        if found:
            tensors["boundary.0"] = torch.from_numpy(draw.normal(size=(len(found), 3)))
        store.write_part(
            part,
            tensors,
            [ExampleRecord(ids[i], skipped="no" if s else None) for i, s in zip(members, skipped, strict=True)],
        )
        rows += [
            {"id": ids[members[k]], "code": c, "position": p, "number": n, "part": part, "row": r}
            for r, (k, c, p, n) in enumerate(found)
        ]
    return store, sorted(rows, key=lambda r: (len(r["id"]), r["id"], r["code"], r["position"]))


@settings(deadline=None, max_examples=25)
@given(st.sets(st.text("ab01", min_size=1, max_size=3), min_size=1, max_size=20), st.integers(1, 6), st.integers(0, 99))
def test_order_sample_and_rows_are_those_of_the_plain_way(tmp_path_factory, names, part_examples, seed):
    ids = np.random.default_rng(seed).permutation(sorted(names)).tolist()
    store, rows = scattered_store(tmp_path_factory.mktemp("t") / "s", ids, part_examples, seed)
    tokens = StoredTokens(store, PROTOCOL, CPU)
    assert [tokens.records[e].id for e in tokens.example] == [r["id"] for r in rows]
    assert tokens.modality.tolist() == [r["code"] for r in rows]
    assert tokens._part_of_example[tokens.example].tolist() == [r["part"] for r in rows] and tokens.row.tolist() == [
        r["row"] for r in rows
    ]
    if not rows:
        return
    hashes = [
        int(token_hashes(np.array([r["number"]]), f"sample\0{PROTOCOL.seed}\0{r['id']}\0{LABELS[r['code']]}")[0])
        for r in rows
    ]
    everything = np.arange(len(rows))
    order = sorted(everything.tolist(), key=hashes.__getitem__)
    blocks = tokens_module.TOKENS_PER_BLOCK
    try:
        for tokens_module.TOKENS_PER_BLOCK in (4, blocks):
            assert tokens.in_random_order(everything).tolist() == order
            assert tokens.in_random_order(everything, 7).tolist() == order[:7]
    finally:
        tokens_module.TOKENS_PER_BLOCK = blocks
    assert tokens.sample("joint", 5).tolist() == order[:5]
    whole = {part: safe_open(store.tensor_file(part), framework="pt") for part in {r["part"] for r in rows}}
    states = torch.stack([whole[r["part"]].get_tensor("boundary.0")[r["row"]] for r in rows])
    assert torch.equal(tokens.states(0, np.array(order)), states[order])
    for layer, name in ((0, "origin"), (3, "prefix")):
        keys = torch.stack([whole[r["part"]].get_tensor(name)[r["row"]] for r in rows])
        assert torch.equal(tokens.keys(layer, everything), keys)
    kept = np.arange(len(tokens.records)) % 2 == 0
    half = tokens.of_examples(kept)
    parts = half._part_of_example[half.example]
    assert [(parts[k], half.row[k]) for k in range(len(half.row))] == [
        (r["part"], r["row"]) for r, e in zip(rows, tokens.example, strict=True) if kept[e]
    ]
    assert (half.folds(np.arange(len(half.row))) >= 0).all()
    places = np.flatnonzero(kept[tokens.example])
    assert places[half.in_random_order(np.arange(len(half.row)))].tolist() == [k for k in order if k in set(places)]


def test_a_token_takes_thirteen_bytes(tmp_path):
    """What is held for each token is what a store of 20,000 examples pays a million times."""
    store, _ = scattered_store(tmp_path / "s", [f"q{k}" for k in range(30)], 8, seed=1)
    tokens = StoredTokens(store, PROTOCOL, CPU)
    n = len(tokens.row)
    assert sum(a.nbytes for a in vars(tokens).values() if isinstance(a, np.ndarray) and len(a) == n) == 13 * n
