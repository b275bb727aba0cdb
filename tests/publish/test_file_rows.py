"""The rows of many files, read in several processes: the same as those that one process reads."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from microscope_bench.errors import ResultError
from microscope_bench.publish.leaderboard import file_rows
from microscope_bench.publish.leaderboard.file_rows import rows_of_files
from microscope_bench.results.result_files import find_results
from tests.publish.small import SMALL


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    for number in range(6):
        model = replace(SMALL.identity.model, name=f"m{number}", repo=f"org/m{number}")
        replace(SMALL, identity=replace(SMALL.identity, model=model)).signed().save(tmp_path / f"m{number}.json")
    return find_results(tmp_path)


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_rows, "MANY", 1)
    monkeypatch.setattr(file_rows, "_cores", lambda: 2)


def no_process(*_: object, **__: object) -> None:
    raise AssertionError("a process was started")


def test_several_processes_give_the_rows_of_one(
    paths: list[Path], tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(file_rows, "ProcessPoolExecutor", no_process)
        alone = list(rows_of_files(paths, tmp_path))
    request.getfixturevalue("two_processes")
    assert list(rows_of_files(paths, tmp_path)) == alone
    assert [row.path for row in alone] == [f"m{number}.json" for number in range(6)]
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="a process was started"):
        patch.setattr(file_rows, "ProcessPoolExecutor", no_process)
        list(rows_of_files(paths, tmp_path))


@pytest.mark.usefixtures("two_processes")
def test_every_broken_file_is_named_behind_the_rows_of_the_others(paths: list[Path], tmp_path: Path) -> None:
    for broken in (paths[1], paths[4]):
        broken.write_text("{", encoding="utf-8")
    rows = rows_of_files(paths, tmp_path)
    assert [next(rows).path for _ in range(4)] == ["m0.json", "m2.json", "m3.json", "m5.json"]
    with pytest.raises(ResultError, match=r"(?s)2 of the result files.*m1\.json.*m4\.json"):
        next(rows)


@pytest.mark.usefixtures("two_processes")
def test_other_processes_warn_of_implausible_results(
    paths: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = tuple(replace(s, value=83.0) if s.metric == "anisotropy" else s for s in SMALL.scores)
    replace(SMALL, scores=scores).save(paths[2])
    handler = logging.StreamHandler(os.fdopen(os.dup(2), "w"))
    monkeypatch.setattr(logging.getLogger("microscope_bench"), "handlers", [handler])
    assert len(list(rows_of_files(paths, tmp_path))) == 6
    assert "m2.json: validate refuses this result" in capfd.readouterr().err


def test_a_worker_ends_with_its_killed_parent() -> None:
    code = (
        "import os, time; from concurrent.futures import ProcessPoolExecutor as Pool\n"
        "from microscope_bench.publish.leaderboard.file_rows import _end_with_the_parent\n"
        "pool = Pool(1, initializer=_end_with_the_parent)\n"
        "print(pool.submit(os.getpid).result(), flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 60
        while _runs(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _runs(worker)


def _runs(pid: int) -> bool:
    """Whether a process that is nobody's zombie has this number."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text() if Path("/proc").is_dir() else not os.kill(pid, 0)
    except OSError:
        return False
