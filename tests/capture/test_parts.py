"""Parts that are damaged, another's, edited, or no files: a run captures them again, measure refuses them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from msgspec import structs
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import MicroscopeError, StoreError
from microscope_bench.results.result import Result
from microscope_bench.run.measure_store import measure_store
from microscope_bench.system.disk import file_sha256, own_sha256, signed
from tests.toy import ToyAdapter, ToyTask, run

OPTIONS = {"metrics": "anisotropy", "batch_size": 4}


class Kept(NamedTuple):
    """A kept store of three parts, and of another run of the same shape; and the first one's result."""

    store: Path
    foreign: Path
    result: Result


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Kept:
    path = tmp_path_factory.mktemp("kept")
    other = ToyAdapter(seed=1)
    other.info = structs.replace(other.info, revision="sha256-" + "2" * 16)
    run(None, other, store=path / "foreign", keep_store=True, **OPTIONS)
    result = run(None, store=path / "s", keep_store=True, **OPTIONS)
    return Kept(path / "s", path / "foreign", result)


def copy_part(source: Path, target: Path, part: int, to: int) -> None:
    for ending in ("json", "safetensors"):
        shutil.copy(source / f"parts/{part:05d}.{ending}", target / f"parts/{to:05d}.{ending}")


def edit(file: Path, **changes) -> None:
    """Changes a document and signs it again."""
    file.write_bytes(signed({**json.loads(file.read_text()), **changes}))


def edit_examples(store: Path, change, part: int = 1) -> None:
    """Changes the examples of a part, and signs its record again."""
    record = store / f"parts/{part:05d}.json"
    examples = json.loads(record.read_text())["examples"]
    change(examples)
    edit(record, examples=examples)


def edit_tensors(store: Path, change) -> None:
    """Changes the tensors of part 1, which still say whose they are, and signs all that is beside them again."""
    file = store / "parts/00001.safetensors"
    with safe_open(file, framework="pt") as there:
        metadata = there.metadata()
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata)
    edit(file.with_suffix(".json"), tensors_sha256=file_sha256(file))


def sign_all(store: Path) -> None:
    """Writes anew all that says whose part 1 is."""
    file = store / "parts/00001.safetensors"
    examples = json.loads(file.with_suffix(".json").read_text())["examples"]
    identity = TokenStore(store).identity
    digest = own_sha256({"examples": examples})
    save_file(load_file(file), file, {"store": identity, "part": "1", "examples_sha256": digest})
    edit(file.with_suffix(".json"), part=1, tensors_sha256=file_sha256(file))


def swap(store: Path) -> None:
    shutil.copytree(store, store.with_name("swapped"))
    copy_part(store.with_name("swapped"), store, 0, 1)
    copy_part(store.with_name("swapped"), store, 1, 0)


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def huge(file: Path) -> None:
    os.truncate(file, 1 << 40)


def deep(file: Path) -> None:
    file.write_text("[" * 100_000)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def widen(tensors) -> None:
    for name in [name for name in tensors if name.startswith("boundary")]:
        tensors[name] = torch.cat([tensors[name], tensors[name]], dim=1)


RECORD, TENSORS = "parts/00001.json", "parts/00001.safetensors"
OTHERS = {
    "without tensors": lambda kept, store: (store / TENSORS).unlink(),
    "without a record": lambda kept, store: (store / RECORD).unlink(),
    "with a flipped bit in the tensors": lambda kept, store: flip_a_bit(store / TENSORS),
    "with a flipped bit in the record": lambda kept, store: flip_a_bit(store / RECORD),
    "with truncated tensors": lambda kept, store: shorten(store / TENSORS),
    "with a truncated record": lambda kept, store: shorten(store / RECORD),
    "with another part's tensors": lambda kept, store: shutil.copy(store / "parts/00000.safetensors", store / TENSORS),
    "with a record that is no mapping": lambda kept, store: (store / RECORD).write_text('["sha256"]'),
    "with a record of bytes": lambda kept, store: (store / RECORD).write_bytes(b"\xff\xfe"),
    "with an edited record": lambda kept, store: (store / RECORD).write_text(
        (store / RECORD).read_text().replace('"q16"', '"q17"')
    ),
    "duplicated": lambda kept, store: copy_part(store, store, 0, 1),
    "swapped": lambda kept, store: swap(store),
    "foreign": lambda kept, store: copy_part(kept.foreign, store, 1, 1),
    "with another number": lambda kept, store: (copy_part(store, store, 0, 1), edit(store / RECORD, part=1)),
    "with another store's name": lambda kept, store: (
        copy_part(kept.foreign, store, 1, 1),
        edit(store / RECORD, store=TokenStore(store).identity),
    ),
    "copied with all written anew": lambda kept, store: (copy_part(store, store, 0, 1), sign_all(store)),
    "with another id and all written anew": lambda kept, store: (
        edit_examples(store, lambda e: e[3].update(id="q0")),
        sign_all(store),
    ),
    "with another answer": lambda kept, store: edit_examples(store, lambda e: e[3].update(answer=0)),
    "with another id": lambda kept, store: edit_examples(store, lambda e: e[3].update(id="q0")),
    "with a field too many": lambda kept, store: edit_examples(store, lambda e: e[3].update(answer="x")),
    "truncated": lambda kept, store: edit_examples(store, lambda e: e.pop()),
    "extended": lambda kept, store: edit_examples(store, lambda e: e.append(e[0])),
    "empty": lambda kept, store: edit_examples(store, lambda e: e.clear()),
    "with no label of a modality": lambda kept, store: edit_tensors(store, lambda t: t["modality"].fill_(99)),
    "with tokens of no example": lambda kept, store: edit_tensors(store, lambda t: t["example"].add_(16)),
    "with tokens before the first example": lambda kept, store: edit_tensors(store, lambda t: t["example"].sub_(1)),
    "with a position beyond the last": lambda kept, store: edit_tensors(store, lambda t: t["position"].add_(10**9)),
    "with a token twice": lambda kept, store: edit_tensors(store, lambda t: t["position"].zero_()),
    "of one boundary less": lambda kept, store: edit_tensors(store, lambda t: t.pop("boundary.1")),
    "of one column less": lambda kept, store: edit_tensors(store, lambda t: t.pop("prefix")),
    "with a shorter column": lambda kept, store: edit_tensors(
        store, lambda t: t.update(prefix=t["prefix"][1:].clone())
    ),
    "of whole numbers": lambda kept, store: edit_tensors(
        store, lambda t: t.update({"boundary.1": t["boundary.1"].int()})
    ),
    "of another width": lambda kept, store: edit_tensors(store, widen),
    "of another dtype": lambda kept, store: edit_tensors(
        store, lambda t: t.update({"boundary.1": t["boundary.1"].half()})
    ),
    "of other states": lambda kept, store: edit_tensors(store, lambda t: t["boundary.1"].mul_(2)),
    "with a FIFO for a record": lambda kept, store: fifo(store / RECORD),
    "with FIFOs for tensors": lambda kept, store: fifo(store / TENSORS),
    "with an endless record": lambda kept, store: endless(store / RECORD),
    "with endless tensors": lambda kept, store: endless(store / TENSORS),
    "with a huge record": lambda kept, store: huge(store / RECORD),
    "with huge tensors": lambda kept, store: huge(store / TENSORS),
    "with a deep record": lambda kept, store: deep(store / RECORD),
}
"""What is done to part 1 of a finished store."""


@pytest.fixture
def store(kept: Kept, tmp_path: Path) -> Path:
    return shutil.copytree(kept.store, tmp_path / "s")


@pytest.mark.parametrize("what", OTHERS)
def test_a_part_that_is_not_the_runs_own_is_refused_by_measure_and_captured_again_by_run(kept, store, what):
    OTHERS[what](kept, store)
    with pytest.raises(StoreError, match=r"parts/0000[01]\.(json|safetensors)|part 1 of 3 is missing"):
        measure_store(store)
    adapter = ToyAdapter()
    again = run(None, adapter, store=store, keep_store=True, **OPTIONS)
    assert adapter.passes == (8 if what == "swapped" else 4), "16 of 40 examples, four at a time"
    assert (again.scores, again.inputs, again.accuracy) == (
        kept.result.scores,
        kept.result.inputs,
        kept.result.accuracy,
    )
    assert measure_store(store, metrics="anisotropy").scores == kept.result.scores


NEEDS_THE_LIST = {"of another width", "of another dtype", "of other states"}
"""What only the list of a finished store tells."""


@pytest.mark.parametrize("what", sorted({*OTHERS} - NEEDS_THE_LIST))
def test_a_part_of_an_interrupted_run_is_captured_again_too(kept, store, what):
    edit(store / "manifest.json", about=None, parts=[])
    OTHERS[what](kept, store)
    adapter = ToyAdapter()
    again = run(None, adapter, store=store, **OPTIONS)
    assert adapter.passes == (8 if what == "swapped" else 4)
    assert again.scores == kept.result.scores and again.inputs == kept.result.inputs


def test_a_store_of_the_same_examples_in_another_order_is_not_gone_on_with(kept, store):
    edit(store / "manifest.json", about=None, parts=[])
    adapter = ToyAdapter()
    again = run(None, adapter, ToyTask(order=[*range(16), *range(24, 40), *range(16, 24)]), store=store, **OPTIONS)
    assert adapter.passes >= 6 and again.scores == kept.result.scores


def test_a_store_that_lists_its_parts_anew_must_still_hold_the_examples_of_its_run(store):
    copy_part(store, store, 0, 1)
    sign_all(store)
    records = [json.loads((store / f"parts/{part:05d}.json").read_text())["sha256"] for part in range(3)]
    edit(store / "manifest.json", parts=records)
    with pytest.raises(StoreError, match="does not hold the examples of its run"):
        measure_store(store)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_examples": 10**17},
        {"n_examples": 0},
        {"n_examples": 41},
        {"part_examples": 0},
        {"part_examples": 10**17},
        {"part_examples": 8},
        {"part_examples": 2.5},
        {"run": []},
        {"parts": []},
        {"parts": ["0" * 64]},
        {"about": {"identity": {}}},
        {"about": 3},
        {"format": "1"},
        {"format": None},
    ],
)
def test_a_manifest_that_was_signed_again_is_refused_by_measure(store, changes):
    edit(store / "manifest.json", **changes)
    with pytest.raises(StoreError):
        measure_store(store)


@pytest.mark.parametrize("spoil", [fifo, endless, huge, deep, lambda file: (file.unlink(), file.mkdir())])
def test_a_manifest_that_is_no_file_or_no_manifest_is_refused_at_once(store, spoil):
    spoil(store / "manifest.json")
    for use in (lambda: measure_store(store), lambda: run(None, store=store, **OPTIONS)):
        with pytest.raises(StoreError, match=r"manifest\.json is damaged"):
            use()


@pytest.mark.parametrize("what", ["a file", "a FIFO", "a link", "a dead link"])
@pytest.mark.parametrize("new", [True, False])
def test_parts_that_are_no_directory_of_the_stores_own_are_refused(store, tmp_path, what, new):
    parts = store / "parts"
    shutil.move(parts, tmp_path / "elsewhere")
    if new:
        (store / "manifest.json").unlink()
    {
        "a file": lambda: parts.write_text("mine"),
        "a FIFO": lambda: os.mkfifo(parts),
        "a link": lambda: parts.symlink_to(tmp_path / "elsewhere"),
        "a dead link": lambda: parts.symlink_to(tmp_path / "nowhere"),
    }[what]()
    with pytest.raises(StoreError, match="no token store can be made at"):
        run(None, store=store, **OPTIONS)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 6
    with pytest.raises(StoreError):
        measure_store(store)


@pytest.mark.parametrize("file", [RECORD, TENSORS])
def test_a_directory_in_the_place_of_a_file_is_named(store, file):
    (store / file).unlink()
    (store / file / "mine").mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot be removed"):
        run(None, store=store, **OPTIONS)
    with pytest.raises(StoreError):
        measure_store(store)
    assert (store / file / "mine").is_dir()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda lock: lock.symlink_to("/dev/zero")])
def test_a_lock_that_is_no_file_is_refused_or_replaced_at_once(store, make):
    make(store / ".microscope-bench.lock")
    try:
        run(None, store=store, **OPTIONS)
    except StoreError as error:
        assert "no token store can be made" in str(error)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "/dev/null/s", "/proc/s"])
def test_a_path_that_no_store_can_have_is_refused(tmp_path, name):
    for options in ({"store": tmp_path / name}, {"path": tmp_path / name}):
        with pytest.raises(MicroscopeError, match=r"no token store can be made|cannot|holds a NUL"):
            run(**{"path": None, **options}, **OPTIONS)
    with pytest.raises(StoreError):
        measure_store(tmp_path / name)
