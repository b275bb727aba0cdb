"""Files that are no results at all where results are read: each is refused or told at once, by every reader."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from microscope_bench.cli.main import main
from microscope_bench.results.result import LARGEST_FILE
from tests.results.sample import SAMPLE_FILE

READERS = {
    "validate": lambda path: ["validate", path],
    "leaderboard": lambda path: ["leaderboard", os.path.dirname(path) or "."],  # noqa: PTH120 - of a name with a NUL, too
    "compare": lambda path: ["compare", path, path],
    "difference": lambda path: ["difference", path, path],
    "report": lambda path: ["report", path],
    "plot": lambda path: ["plot", path],
    "cite": lambda path: ["cite", path],
    "tolerances": lambda path: ["compare", SAMPLE_FILE, SAMPLE_FILE, "--tolerances", path],
    "stores": lambda path: ["ls", "stores", "--output_path", path],
    "samples": lambda path: ["run", "--model", "zoo-llava", "--tasks", "shapesqa", "--samples", path],
}


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as found:
        found.bind(path.name)  # below the current directory: such names are short


ODD: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "endless of no size": lambda path: path.symlink_to("/proc/self/mem"),
    "socket": listening,
    "directory": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "large": large,
    "deep": lambda path: path.write_bytes(b"[" * 1_000_000),
    "deep object": lambda path: path.write_bytes(b'{"scores":' * 200_000),
    "empty": lambda path: path.write_bytes(b""),
    "utf-16": lambda path: path.write_bytes("{}".encode("utf-16")),
}


@pytest.fixture(autouse=True)
def _alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def late(*_: object) -> None:
        raise AssertionError("it waits for a file that never ends")

    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)  # of a busy machine, too
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ODD)
def test_no_reader_waits_for_an_odd_file_or_falls_over_it(
    kind: str, reader: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r").mkdir()
    ODD[kind](Path("r/x.json") if kind != "socket" else Path("x.json"))
    if kind == "socket":
        Path("x.json").rename("r/x.json")
    status = main([str(argument) for argument in READERS[reader]("r/x.json")])
    said = "".join(capsys.readouterr())
    # a directory may be read, and hold nothing
    assert status in ((0, 1, 2) if kind in ("directory", "empty") or reader == "leaderboard" else (1, 2)), said
    assert said and "Traceback" not in said


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "é" * 200, "a\udcffb", ""], ids=lambda name: ascii(name)[:9])
def test_no_reader_falls_over_an_odd_name(name: str, reader: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main([str(argument) for argument in READERS[reader](name)])
    except SystemExit as end:  # of the parser, where a name holds a NUL
        status = end.code
    assert status in (0, 1, 2) and "Traceback" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("form", ["markdown", "html", "latex", "csv", "json"])
def test_a_board_links_to_a_file_whose_name_is_no_text(tmp_path: Path, form: str) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x\udcff.json").write_bytes(SAMPLE_FILE.read_bytes())
    assert main(["leaderboard", "results", "-o", f"page.{form}", "--format", form]) == 0
    page = (tmp_path / f"page.{form}").read_text(encoding="utf-8")
    assert "x%FF.json" in page if form in ("markdown", "html") else "x" in page


def test_other_verbs_read_a_file_whose_name_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x\udcff.json").write_bytes(SAMPLE_FILE.read_bytes())
    for argv in (["report", "results"], ["plot", "results"], ["cite", "results"], ["compare", "results", "results"]):
        assert main(argv) == 0


@pytest.mark.parametrize("verb", ["leaderboard", "report", "compare", "difference"])
def test_nothing_is_written_in_the_place_of_a_pipe(verb: str, tmp_path: Path) -> None:
    """Nor of a device: whoever is root would replace it."""
    os.mkfifo("pipe")
    assert main([*map(str, READERS[verb](str(SAMPLE_FILE))), "-o", "pipe"]) == 2
    assert (tmp_path / "pipe").is_fifo()
