from __future__ import annotations

import json
import os

import pytest

from microscope_bench.capture.listing import STORES, list_stores
from microscope_bench.capture.store import TokenStore
from microscope_bench.cli.main import main
from microscope_bench.system.disk import signed

BAD = {
    "a list": lambda file: file.write_text("[]"),
    "deep": lambda file: file.write_text('{"run":' * 100_000),
    "no JSON": lambda file: file.write_bytes(b"\xff\x00"),
    "a FIFO": lambda file: (file.unlink(), os.mkfifo(file)),
    "a directory": lambda file: (file.unlink(), file.mkdir()),
    "endless": lambda file: (file.unlink(), file.symlink_to("/dev/zero")),
    "of text for a number": lambda file: file.write_bytes(signed({**json.loads(file.read_text()), "n_examples": "a"})),
    "of a list for a run": lambda file: file.write_bytes(signed({**json.loads(file.read_text()), "run": []})),
    "missing": lambda file: file.unlink(),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_manifest_is_named_and_hides_no_other_store(tmp_path, bad, capsys):
    identity = {"model": {"name": "toy"}, "task": {"name": "t"}}
    for name in ("bad", "good"):
        TokenStore.open_or_create(tmp_path / STORES / name, {"identity": identity}, n_examples=5, part_examples=2)
    (tmp_path / STORES / "a file").write_text("")
    (tmp_path / STORES / "good/parts/00000.json").mkdir()
    (tmp_path / STORES / "bad/parts/00000.json").write_text('{"examples": 3}')
    BAD[bad](tmp_path / STORES / "bad/manifest.json")
    listed = {store.path.name: store for store in list_stores(tmp_path)}
    assert set(listed) == {"bad", "good"}
    assert (listed["good"].model, listed["good"].n_examples, listed["good"].captured) == ("toy", 5, 0)
    assert (listed["bad"].model, listed["bad"].n_examples) == ("", 0)
    assert main(["ls", "stores", "--output_path", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "its manifest is missing or damaged" in out and "0 of 5" in out


def test_a_store_without_parts_is_listed(tmp_path):
    store = TokenStore.open_or_create(tmp_path / STORES / "s", {"identity": 3}, n_examples=5, part_examples=2)
    (store.path / "parts").rmdir()
    (found,) = list_stores(tmp_path)
    assert (found.model, found.task, found.n_examples, found.captured) == ("", "", 5, 0)
