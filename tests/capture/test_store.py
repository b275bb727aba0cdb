from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from microscope_bench.adapters.base import TEXT
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.store import TokenStore, writing
from microscope_bench.errors import StoreError
from microscope_bench.run.pipeline import store_bytes

RUN = {"model": {"repo": "a"}, "seed": 0}


def new_store(path, run=RUN, n_examples=5, part_examples=2):
    return TokenStore.open_or_create(path, run, n_examples=n_examples, part_examples=part_examples)


def columns(example, position):
    others = dict.fromkeys(("number", "origin", "prefix"), position)
    copies = {name: column.clone() for name, column in others.items()}
    return {
        "modality": torch.full((len(example),), TEXT, dtype=torch.int8),
        "example": example,
        "position": position,
        **copies,
    }


def write(store, part):
    indices = store.part_range(part)
    n = 3 * len(indices)
    store.write_part(
        part,
        {
            "boundary.0": torch.full((n, 4), float(part), dtype=torch.bfloat16),
            **columns(torch.arange(n) // 3, torch.arange(n) % 3),
        },
        [ExampleRecord(id=f"q{i}", tokens_seen={"text": 3}) for i in indices],
    )


def test_parts_cover_the_examples_and_keep_the_dtype(tmp_path):
    store = new_store(tmp_path / "s")
    assert [list(store.part_range(p)) for p in range(store.n_parts)] == [[0, 1], [2, 3], [4]]
    for part in range(3):
        write(store, part)
    store.check_complete()
    assert [r.id for r in TokenStore(tmp_path / "s").records] == ["q0", "q1", "q2", "q3", "q4"]
    assert safe_open(store.tensor_file(2), framework="pt").get_tensor("boundary.0").dtype == torch.bfloat16


def test_only_missing_and_damaged_parts_are_done_again(tmp_path):
    store = new_store(tmp_path / "s")
    write(store, 0)
    write(store, 1)
    assert store.missing_parts() == [2]
    tensors = tmp_path / "s/parts/00001.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    assert store.missing_parts() == [1, 2]
    assert not tensors.exists()


def test_an_existing_store_is_opened_with_its_own_part_size(tmp_path):
    new_store(tmp_path / "s", part_examples=2)
    assert new_store(tmp_path / "s", part_examples=4).n_parts == 3


def test_a_store_of_another_run_is_refused_and_the_difference_named(tmp_path):
    new_store(tmp_path / "s")
    with pytest.raises(StoreError, match=r"different: model\.repo\)"):
        new_store(tmp_path / "s", run={"model": {"repo": "b"}, "seed": 0})


def test_two_writers_are_refused(tmp_path):
    store = new_store(tmp_path / "s")
    with writing(store.path), pytest.raises(StoreError, match="another run is writing"), writing(tmp_path / "s"):
        pass
    with writing(store.path):
        pass


@pytest.mark.parametrize("content", [None, "", "[]", '{"format": 99}', "\x00"])
def test_what_is_no_store_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(StoreError):
        TokenStore(tmp_path)


def test_a_full_disk_is_reported_and_leaves_no_half_part(tmp_path, monkeypatch):
    store = new_store(tmp_path / "s")

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("microscope_bench.capture.store.save_file", full)
    with pytest.raises(StoreError, match="No space left"):
        write(store, 0)
    assert list((tmp_path / "s/parts").iterdir()) == []


def test_store_bytes_at_the_shape_of_llava_next_7b_on_scienceqa():
    size = store_bytes(2017 * 32 * 2, 33, 4096, torch.float16)
    assert size == 2017 * 64 * 33 * 4096 * 2
    assert 34e9 < size < 36e9


@pytest.mark.parametrize("file", ["parts/00000.json", "manifest.json"])
@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_byte_of_a_record_or_manifest_changes_unseen(tmp_path, file, data):
    path = Path(tempfile.mkdtemp(dir=tmp_path))
    store = new_store(path, n_examples=2)
    write(store, 0)
    store.check_complete()
    original = (path / file).read_bytes()
    content = bytearray(original)
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    (path / file).write_bytes(content)
    try:
        unchanged = json.loads(content) == json.loads(original)  # such as another blank
    except ValueError:
        unchanged = False
    try:
        TokenStore(path).check_complete()
        found = False
    except StoreError:
        found = True
    assert found or unchanged


def test_a_resumed_run_reads_every_part_once_for_its_checksum(tmp_path, monkeypatch):
    from microscope_bench.capture import store as module
    from tests.toy import run

    run(None, store=tmp_path / "s", keep_store=True, metrics="anisotropy")
    hashed = []
    sha256 = module.file_sha256
    monkeypatch.setattr(module, "file_sha256", lambda file: hashed.append(file.name) or sha256(file))
    run(None, store=tmp_path / "s", metrics="anisotropy")
    assert sorted(hashed) == ["00000.safetensors", "00001.safetensors", "00002.safetensors"]


def test_a_begun_part_is_missing_but_kept(tmp_path):
    store = new_store(tmp_path / "s", n_examples=4, part_examples=4)
    n = torch.arange(3)
    begun = {"boundary.0": torch.ones(3, 4), **columns(n * 0, n)}
    store.write_part(0, begun, [ExampleRecord(id="q0", tokens_seen={"text": 3})])
    assert store.missing_parts() == [0]
    assert [record.id for record in store.begun_records(0)] == ["q0"]
    assert torch.equal(store.begun_tensors(0)["boundary.0"], begun["boundary.0"])
    with pytest.raises(StoreError, match="of part 0 of 1, 1 of 4 examples are there"):
        store.check_complete()


def test_only_what_belongs_to_a_store_is_deleted_with_it(tmp_path):
    strangers = {"notes.txt", "lock", "parts.json", "parts/mine.json", "parts/00000.json.bak", ".writing.tmp"}
    path = tmp_path / "s"
    path.mkdir()
    for name in strangers - {"parts/mine.json", "parts/00000.json.bak"}:
        (path / name).write_text("mine")
    with writing(path):
        store = new_store(path)
        for part in range(3):
            write(store, part)
        for name in ("parts/mine.json", "parts/00000.json.bak"):
            (path / name).write_text("mine")
        (path / "parts/.00001.json.77.tmp").write_text("of a killed run")
        store.delete()
    assert {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()} == strangers
    assert all((path / name).read_text() == "mine" for name in strangers)


def test_a_directory_with_parts_of_somebody_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/00000.json").write_text("mine")
    with pytest.raises(StoreError, match="holds files"):
        new_store(tmp_path)
    assert (tmp_path / "parts/00000.json").read_text() == "mine"


def test_what_a_kill_left_half_written_is_cleared_away(tmp_path):
    store = new_store(tmp_path / "s")
    left = [
        tmp_path / "s" / name for name in (".manifest.json.9.tmp", "parts/.00000.safetensors.9.tmp", "parts/.tmpIl6YjN")
    ]
    for file in left:
        file.write_text("half")
    assert store.missing_parts() == [0, 1, 2]
    assert not any(file.exists() for file in left)


def test_a_store_whose_deletion_was_killed_before_its_manifest_went_is_filled_again(tmp_path):
    store = new_store(tmp_path / "s")
    (tmp_path / "s/parts").rmdir()
    store = new_store(tmp_path / "s")
    assert store.missing_parts() == [0, 1, 2]
    write(store, 0)
