"""No space left, at every write of a run: a clear error, what is there stays, and the same command goes on."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from microscope_bench.errors import MicroscopeError
from tests.toy import ToyAdapter, result_files, run

KINDS = {
    "tensors": ".safetensors",
    "record": "0.json",
    "manifest": "manifest.json",
    "result": "toy_task.json",
}
"""What is written → how its name ends."""


@contextmanager
def refusing(monkeypatch, ending, after):
    """The disk is full for the files of one ending, once ``after`` of them have been written."""
    written = []
    replace = Path.replace

    def full(self, target):
        if str(target).endswith(ending):
            if len(written) >= after:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(target)
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_at_any_write_is_told_and_the_same_command_goes_on(tmp_path, monkeypatch, kind):
    undisturbed = run(None, metrics="anisotropy", batch_size=4)
    first = ToyAdapter()
    after = {"tensors": 2, "manifest": 1}.get(kind, 0)  # the second manifest is that of the finished capture
    with (
        refusing(monkeypatch, KINDS[kind], after),
        pytest.raises(MicroscopeError, match=r"cannot (be )?writ.*No space left.*[Ff]ree some space"),
    ):
        run(tmp_path, first, metrics="anisotropy", batch_size=4)
    assert not list(tmp_path.rglob("*.tmp"))
    assert not [file for file in result_files(tmp_path) if '"status": "failed"' not in file.read_text()]
    second = ToyAdapter()
    resumed = run(tmp_path, second, metrics="anisotropy", batch_size=4)
    assert resumed.scores == undisturbed.scores
    done_again = first.passes + second.passes - 10
    if kind in ("tensors", "record"):  # those of the part that could not be written, and of the one captured meanwhile
        assert 2 <= done_again <= 8
    else:
        assert done_again == 0
    assert not (tmp_path / ".stores").exists()


@pytest.mark.parametrize("place", ["store", "path"])
def test_a_disk_too_small_from_the_first_leaves_no_store(tmp_path, monkeypatch, place):
    usage = shutil.disk_usage(tmp_path)
    options = {"path": None, "metrics": "anisotropy", place: tmp_path / "new"}
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
        with pytest.raises(MicroscopeError, match=r"has 0\.0 MB free"):
            run(**options)
    left = [file.name for file in tmp_path.rglob("*") if file.is_file()]
    assert left == (["toy_task.json"] if place == "path" else []), "what is left says why, or goes on"
    assert run(**options).status == "complete"


def test_a_disk_too_full_for_a_manifest_leaves_no_store(tmp_path, monkeypatch):
    with refusing(monkeypatch, "manifest.json", 0), pytest.raises(MicroscopeError, match="no token store can be made"):
        run(None, store=tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_that_cannot_be_noted_does_not_hide_its_cause(tmp_path, monkeypatch, caplog):
    with refusing(monkeypatch, ".json", 1), pytest.raises(MicroscopeError, match="part 0 cannot be written"):
        run(tmp_path)
    assert "could not be noted" in caplog.text


def test_a_begun_part_that_cannot_be_stored_does_not_hide_what_ended_the_run(tmp_path, monkeypatch, caplog):
    with refusing(monkeypatch, ".safetensors", 0), pytest.raises(KeyboardInterrupt):
        run(tmp_path, ToyAdapter(break_at=2), batch_size=4)
    assert "part 0 cannot be written" in caplog.text


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 200 kB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", place], capture_output=True)
    except OSError:
        pytest.skip("there is no mount")
    if mounted.returncode:
        pytest.skip("this user may not mount")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_really_full(tiny_disk):
    """What fills it is somebody else's file, after the space was checked."""
    other = tiny_disk / "other"

    class Filling(ToyAdapter):
        fills = True

        def forward(self, batch, *, logits):
            if self.passes == 5 and self.fills:
                while not list(tiny_disk.rglob("00000.json")):  # part 0 is written beside this pass
                    time.sleep(0.01)
                descriptor = os.open(other, os.O_WRONLY | os.O_CREAT)
                with pytest.raises(OSError, match="No space"):
                    while True:
                        os.write(descriptor, bytes(1024))
                os.close(descriptor)
            return super().forward(batch, logits=logits)

    first = Filling()
    with pytest.raises(MicroscopeError, match="part 1 cannot be written"):
        run(tiny_disk, first, metrics="anisotropy", batch_size=4, tokens_per_example=4)
    other.unlink()
    second = Filling()
    second.fills = False
    resumed = run(tiny_disk, second, metrics="anisotropy", batch_size=4, tokens_per_example=4)
    done_again = first.passes + second.passes - 10
    assert 4 <= done_again <= 8, "those of the part that could not be written, and of the one captured meanwhile"
    assert resumed.status == "complete"


def test_a_file_that_may_not_grow_further(tmp_path):
    """The limit is set in a process of its own: RLIMIT_FSIZE ends a write of torch's serialiser as of Python's."""
    pid = os.fork()
    if pid == 0:
        status = 3
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
            run(None, store=tmp_path / "s", metrics="anisotropy")
        except MicroscopeError as error:
            status = 0 if "cannot be written" in str(error) else 4
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    adapter = ToyAdapter()
    run(None, adapter, store=tmp_path / "s", metrics="anisotropy", batch_size=4)
    assert adapter.passes == 10
