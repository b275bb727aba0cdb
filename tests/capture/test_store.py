from __future__ import annotations

import pytest
import torch

from microscope_bench.capture.records import ExampleRecord
from microscope_bench.capture.space import store_bytes
from microscope_bench.capture.store import TokenStore, writing
from microscope_bench.errors import StoreError

RUN = {"model": {"repo": "a"}, "seed": 0}


def new_store(path, run=RUN, n_examples=5, part_examples=2):
    return TokenStore.open_or_create(path, run, n_examples=n_examples, part_examples=part_examples)


def write(store, part):
    indices = store.part_range(part)
    n = 3 * len(indices)
    store.write_part(
        part,
        {
            "boundary.0": torch.full((n, 4), float(part), dtype=torch.bfloat16),
            "modality": torch.zeros(n, dtype=torch.int8),
            "example": torch.arange(n) // 3,
            "position": torch.arange(n) % 3,
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
    assert store.open_part(2).get_tensor("boundary.0").dtype == torch.bfloat16


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


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_text("{"), lambda p: p.write_text("{}")])
def test_a_part_without_a_whole_record_does_not_count(tmp_path, damage):
    store = new_store(tmp_path / "s")
    write(store, 0)
    damage(tmp_path / "s/parts/00000.json")
    assert store.missing_parts() == [0, 1, 2]
    with pytest.raises(StoreError, match="part 0"):
        store.check_complete()


def test_an_existing_store_is_opened_with_its_own_part_size(tmp_path):
    new_store(tmp_path / "s", part_examples=2)
    assert new_store(tmp_path / "s", part_examples=4).n_parts == 3


def test_a_store_of_another_run_is_refused_and_the_difference_named(tmp_path):
    new_store(tmp_path / "s")
    with pytest.raises(StoreError, match=r"different: model\.repo\)"):
        new_store(tmp_path / "s", run={"model": {"repo": "b"}, "seed": 0})


def test_two_writers_are_refused(tmp_path):
    store = new_store(tmp_path / "s")
    with (
        writing(store.path),
        pytest.raises(StoreError, match="another run is writing"),
        writing(tmp_path / "s"),
    ):
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
    size = store_bytes(
        n_examples=2017, tokens_per_example=32, n_modalities=2, n_boundaries=33, hidden_size=4096, dtype=torch.float16
    )
    assert size == 2017 * 64 * 33 * 4096 * 2
    assert 34e9 < size < 36e9
