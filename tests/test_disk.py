"""Files that are whole or not there, and locks: in every race, with real processes."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest
from msgspec import structs

from microscope_bench import load_result
from microscope_bench.capture.store import writing
from microscope_bench.errors import ResultError, StoreError
from microscope_bench.protocol import named_protocol
from microscope_bench.results.result_files import find_results
from microscope_bench.system import disk
from microscope_bench.system.disk import LOCK, is_locked, locked, replacing, write_whole
from tests.results.sample import sample
from tests.toy import ToyAdapter, result_files, run


def test_a_file_is_replaced_in_one_step_or_not_at_all(tmp_path):
    file = tmp_path / "a.json"
    write_whole(file, b"old")
    with pytest.raises(ZeroDivisionError), replacing(file) as temporary:
        temporary.write_bytes(b"half")
        assert file.read_bytes() == b"old"
        assert not temporary.name.endswith(".json")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize("number, raised", [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_does_not_sync_directories_will_do(tmp_path, monkeypatch, number, raised):
    sync = os.fsync

    def refused(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, "fsync")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(OSError, match="fsync") if raised else nullcontext():
        write_whole(tmp_path / "a", b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"new")]


def test_a_lock_is_given_once_and_its_file_goes_with_it(tmp_path):
    with locked(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pass
    assert not is_locked(tmp_path) and list(tmp_path.iterdir()) == []


def test_the_lock_file_of_a_dead_process_is_no_obstacle(tmp_path):
    code = (
        f"import os, signal; from microscope_bench.system.disk import locked; from pathlib import Path\n"
        f"with locked(Path({str(tmp_path)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert (tmp_path / LOCK).exists() and not is_locked(tmp_path)
    with writing(tmp_path):
        pass


def test_a_lock_file_deleted_between_open_and_lock_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    """A finishing run deletes file and directory just when another one has opened the file."""
    flock, opened = disk.fcntl.flock, []

    def late(descriptor, how):
        if not opened:
            opened.append(descriptor)
            (tmp_path / "s" / LOCK).unlink()
            (tmp_path / "s").rmdir()
        flock(descriptor, how)

    monkeypatch.setattr(disk.fcntl, "flock", late)
    with locked(tmp_path / "s"):
        monkeypatch.undo()
        assert is_locked(tmp_path / "s")
        with pytest.raises(BlockingIOError), locked(tmp_path / "s"):
            pass


RACER = """
import sys, time
from pathlib import Path
from microscope_bench.system.disk import locked
root, out = Path(sys.argv[1]), Path(sys.argv[2])
end = time.monotonic() + float(sys.argv[3])
taken = refused = 0
while time.monotonic() < end:
    try:
        with locked(root / "s"):
            with (root / "inside").open("x"):  # fails if another process is inside too
                pass
            (root / "inside").unlink()
            taken += 1
    except BlockingIOError:
        refused += 1
    try:
        (root / "s").rmdir()
    except OSError:
        pass
out.write_text(f"{taken} {refused}")
"""


def test_processes_that_take_and_delete_a_lock_are_never_inside_together(tmp_path):
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, tmp_path, tmp_path / f"out{k}", "2"], stderr=subprocess.PIPE)
        for k in range(3)
    ]
    for racer in racers:
        _, complaint = racer.communicate(timeout=60)
        assert racer.returncode == 0, complaint
    counts = [[int(n) for n in (tmp_path / f"out{k}").read_text().split()] for k in range(3)]
    assert sum(taken for taken, _ in counts) > 100
    assert sum(refused for _, refused in counts) > 0, "they never met"


def test_a_file_system_without_locks_is_a_clear_error(tmp_path, monkeypatch):
    def without(_descriptor, _how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(disk.fcntl, "flock", without)
    with pytest.raises(StoreError, match=r"keeps no locks \(No locks available\); name another --store"):
        run(None, store=tmp_path / "s")
    with pytest.raises(ResultError, match=r"keeps no locks .*--output_path"):
        run(tmp_path / "results")


def test_the_lock_is_taken_before_the_store_is_looked_at(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/manifest.json").write_text("being written by somebody else")
    with locked(tmp_path / "s"), pytest.raises(StoreError, match="another run is writing"):
        run(None, store=tmp_path / "s")
    assert (tmp_path / "s/manifest.json").read_text() == "being written by somebody else"


def test_a_run_of_another_model_goes_into_the_same_results_directory_at_the_same_time(tmp_path):
    class Other(ToyAdapter):
        def __init__(self):
            super().__init__(seed=1)
            self.info = structs.replace(self.info, name="other", repo="other")

    class Nested(ToyAdapter):
        def forward(self, batch, *, logits):
            if self.passes == 0:
                run(tmp_path, Other(), metrics="anisotropy")
            return super().forward(batch, logits=logits)

    run(tmp_path, Nested(), metrics="anisotropy")
    assert sorted(file.parts[-3] for file in result_files(tmp_path)) == ["other", "toy"]


def test_runs_of_two_identities_that_end_at_once_do_not_take_each_others_place(tmp_path):
    code = (
        "import sys, time; from microscope_bench import load_result\n"
        "from microscope_bench.results.result_files import *\n"
        "r = load_result(sys.argv[1]); time.sleep(max(0, float(sys.argv[3]) - time.time()))\n"
        "save_result(sys.argv[2], r)"
    )
    files = []
    for k in range(4):
        result = sample(protocol=named_protocol("geometry/1").with_changes(limit=10 + k))
        result.save(tmp_path / f"{k}.json")
        files.append(tmp_path / f"{k}.json")
    start = str(time.time() + 3)
    writers = [subprocess.Popen([sys.executable, "-c", code, file, tmp_path / "out", start]) for file in files]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    assert len({load_result(file).identity_hash for file in find_results(tmp_path / "out")}) == 4


def test_leftovers_of_a_kill_are_no_results_and_are_cleared_away_by_the_next_run(tmp_path):
    run(tmp_path, metrics="anisotropy")
    (file,) = result_files(tmp_path)
    leftover = file.with_name(f".{file.name}.123.tmp")
    leftover.write_text(file.read_text()[:100])
    assert find_results(tmp_path) == [file]
    run(tmp_path, metrics="anisotropy")
    assert not leftover.exists() and find_results(tmp_path) == [file]
