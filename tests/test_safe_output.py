"""What a command prints: no text of anybody's commands a terminal or a CI log, and no stream decides a run."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from tqdm import tqdm

from microscope_bench import evaluate, load_result
from microscope_bench.cli.main import VERBS, main
from microscope_bench.errors import MicroscopeError, ResultError
from microscope_bench.results.result import Result
from microscope_bench.system.disk import signed
from microscope_bench.system.printable import UNSEEN
from microscope_bench.system.safe_output import SafeStream, safe_output
from tests.publish.hostile import UNPRINTABLE, is_harmless
from tests.results.sample import SAMPLE_FILE, forge, sample
from tests.toy import ToyAdapter, result_files

TOY = f"{Path(__file__).parent / 'toy.py'}:ToyAdapter"


def test_unseen_is_what_unicode_says() -> None:
    """Control and format characters and what is none, but for the format characters that draw something."""
    unseen = re.compile(f"[{UNSEEN}]")
    kept = {
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp") and not unseen.match(chr(code))
    }
    assert all(re.search("ARABIC|SYRIAC|KAITHI|EGYPTIAN", unicodedata.name(character)) for character in kept)
    # those of no assigned character among them (U+2065, U+FFF0, tags), and selectors of variants and fillers
    assert all(map(unseen.match, "\u2065\ufff0\ufdd0\U000e0080\ufe0f\u3164\u115f\u00ad\u034f"))
    assert not any(map(unseen.match, "a é中🙂±→|"))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.text(st.sampled_from(":#[]vsoVSO \n\r\t\x1b[A\u202e\x85\u2028ab"), max_size=6), max_size=6))
def test_whatever_is_printed_in_whatever_pieces_is_text_alone(pieces: list[str]) -> None:
    printed = io.StringIO()
    stream = SafeStream(printed)
    for piece in pieces:
        assert stream.write(piece) == len(piece)
    assert is_harmless(printed.getvalue())
    assert len(printed.getvalue().replace(" ", "")) <= len("".join(pieces))


def test_ordinary_text_and_progress_bars_pass_as_they_are() -> None:
    text = "tests/a.py::test_it ± 1\n  std::vector\n\ta : b # [1]\n"
    printed, plain = io.StringIO(), io.StringIO()
    SafeStream(printed).write(text)
    assert printed.getvalue() == text
    printed = io.StringIO()
    for stream in (SafeStream(printed, bars=True), plain):
        for _ in tqdm(
            range(3), file=stream, desc="layer", ncols=60, bar_format="{desc}: {n} of {total}", mininterval=0
        ):
            pass
    assert printed.getvalue() == plain.getvalue() and "\r" in plain.getvalue()


def test_the_description_of_a_bar_is_made_printable() -> None:
    printed = io.StringIO()
    with tqdm(total=1, file=SafeStream(printed, bars=True), desc=UNPRINTABLE, ncols=200):
        pass
    assert is_harmless(printed.getvalue().replace("\r", "\n"))


@pytest.mark.parametrize(("encoding", "expected"), [("ascii", "? a ?"), ("latin-1", "± a ?"), ("utf-8", "± a →")])
def test_what_an_encoding_lacks_is_replaced(encoding: str, expected: str) -> None:
    written = io.BytesIO()
    stream = SafeStream(io.TextIOWrapper(written, encoding=encoding, errors="strict"))
    stream.write("± a →")
    stream.flush()
    assert written.getvalue().decode(encoding) == expected and stream.lost is None


def test_logging_warnings_and_tracebacks_go_through_it(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import logging, sys, traceback, warnings; from microscope_bench.system.safe_output import safe_output\n"
        f"text = {UNPRINTABLE!r}\n"
        "with safe_output():\n"
        "    logging.warning('%s', text); warnings.warn(text); print(text); print(text, file=sys.stderr)\n"
        "    try: raise ValueError(text)\n"
        "    except ValueError: traceback.print_exc()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    out, err = capfd.readouterr()
    assert err.count("owned") == 4 and out.count("owned") == 1
    assert is_harmless(out) and is_harmless(err)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of files, stores and tasks whose names and contents are hostile; it is the current one."""
    monkeypatch.chdir(tmp_path)
    name = UNPRINTABLE.replace("/", "")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / f"{name}.json").write_bytes(SAMPLE_FILE.read_bytes())
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / f"{name}.json").write_text("{")
    store = tmp_path / "results/.stores" / name
    (store / "parts").mkdir(parents=True)
    run = {"identity": {"model": {"name": "m\x1b[2J\n::error::owned"}, "task": {}}}
    manifest = {"format": 1, "n_examples": 3, "part_examples": 3, "run": run, "about": None, "parts": []}
    (store / "manifest.json").write_bytes(signed(manifest))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/t.yaml").write_text('task: "t\\e[2J\\n::error::owned"\ndescription: "\\u202e\\n::error::owned"\n')
    return tmp_path


FILE = f"results/{UNPRINTABLE}.json"
BAD = f"broken/{UNPRINTABLE}.json"
COMMANDS = [
    ["run", "--model", UNPRINTABLE, "--tasks", "shapesqa"],
    ["run", "--model", TOY, "--tasks", UNPRINTABLE],
    ["run", "--model", f"{UNPRINTABLE}.py:X", "--tasks", "shapesqa"],
    ["run", "--model", TOY, "--tasks", "shapesqa", "--limit", UNPRINTABLE],
    ["run", "--model", TOY, "--tasks", "shapesqa", f"--{UNPRINTABLE}"],
    ["run", "--model", TOY, "--tasks", "shapesqa", "--samples", UNPRINTABLE],
    ["flow", "--model", UNPRINTABLE, "--tasks", "shapesqa"],
    ["flow", "--model", TOY, "--tasks", "shapesqa", "--edges", UNPRINTABLE],
    ["measure", UNPRINTABLE],
    ["measure", f"results/.stores/{UNPRINTABLE}"],
    ["check", UNPRINTABLE],
    ["new", "task", UNPRINTABLE],
    ["new", "adapter", f"{UNPRINTABLE}/my_mllm.py"],
    ["ls", UNPRINTABLE],
    ["ls", "stores"],
    ["ls", "stores", "--output_path", UNPRINTABLE],
    ["ls", "models", "--fusion", UNPRINTABLE],
    ["ls", "tasks", "--include_path", "mine"],
    *([verb, FILE] for verb in ("validate", "report", "cite")),
    *([verb, BAD] for verb in ("validate", "report", "cite", "plot")),
    *([verb, folder] for verb in ("validate", "leaderboard") for folder in ("results", "broken", UNPRINTABLE)),
    ["leaderboard", "results", "--check", "-o", UNPRINTABLE],
    *([verb, one, other] for verb in ("compare", "difference") for one, other in ((FILE, FILE), (FILE, BAD))),
    ["compare", "results", "broken"],
    ["compare", FILE, FILE, "--tolerance", UNPRINTABLE],
    ["compare", FILE, FILE, "--tolerances", UNPRINTABLE],
    ["compare", FILE, FILE, "--allow", UNPRINTABLE],
    ["plot", FILE, "--metric", UNPRINTABLE],
    ["plot", FILE, "-o", UNPRINTABLE + ".nonsense"],
    ["plot-example", UNPRINTABLE],
    ["plot-example", UNPRINTABLE, "-o", UNPRINTABLE],
    [UNPRINTABLE],
    ["--debug", "validate", UNPRINTABLE],
]


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: ascii(argv)[:40])
def test_no_verb_prints_a_name_as_it_is(
    hostile: Path, argv: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # as where no pytest has taken them
    try:
        status = main(argv)
    except SystemExit as stop:
        status = stop.code
    said = "".join(capfd.readouterr())
    assert is_harmless(said), ascii(said)
    assert status in (0, 1, 2) and said
    assert argv[0] == "--debug" or "Traceback" not in said, said


def test_every_verb_was_driven() -> None:
    assert {argv[0] for argv in COMMANDS} >= VERBS.keys()


def test_a_line_of_validate_cannot_be_forged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x\nok   good.json").write_text("{")
    assert main(["validate", str(tmp_path / "x\nok   good.json")]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1


STREAMS = [
    "> /dev/full",
    ">&-",
    "2> /dev/full",
    "2>&-",
    ">&- 2>&- <&-",
    "| head -c 1",
    "# LC_ALL=C PYTHONUTF8=0",
    "# PYTHONIOENCODING=ascii LC_ALL=POSIX PYTHONCOERCECLOCALE=0 PYTHONUTF8=0",
]


def ran(arguments: str, streams: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command, _, settings_ = streams.partition("#")
    given = dict(setting.split("=") for setting in settings_.split())
    line = f"set -o pipefail; '{sys.executable}' -m microscope_bench {arguments} {command}"
    # with a buffer, which is written at the end, whatever the environment says
    environment = {**os.environ, "PYTHONUNBUFFERED": "", "PYTHONPATH": str(Path(__file__).parents[1]), **given}
    return subprocess.run(["bash", "-c", line], cwd=directory, env=environment, capture_output=True, text=True)


# each takes a process; the others are heavy
FEW = [pytest.param(streams, marks=() if streams in STREAMS[::3] else pytest.mark.heavy) for streams in STREAMS]


@pytest.mark.parametrize("streams", FEW)
def test_a_result_is_written_whatever_the_streams_take(tmp_path: Path, streams: str) -> None:
    done = ran(f"run --model '{TOY}' --tasks shapesqa --limit 6 --metrics anisotropy", streams, tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = result_files(tmp_path / "results")
    assert load_result(file).status == "complete"
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("streams", STREAMS)
def test_a_page_is_written_and_a_verdict_stands_whatever_the_streams_take(tmp_path: Path, streams: str) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results/é.json").write_bytes(SAMPLE_FILE.read_bytes())
    (tmp_path / "bad.json").write_text("{")
    for arguments, status in (("leaderboard results", 0), ("validate bad.json", 1), ("compare bad.json bad.json", 2)):
        done = ran(arguments, streams, tmp_path)
        assert (done.returncode, "Exception ignored" in done.stderr) == (status, False), done.stderr
    assert (tmp_path / "leaderboard.md").is_file()


@pytest.mark.parametrize(("arguments", "status"), [("ls metrics", 2), ("cite x.json", 2), ("--help", 0)])
def test_text_that_was_asked_for_alone_and_is_lost_is_told(tmp_path: Path, arguments: str, status: int) -> None:
    (tmp_path / "x.json").write_bytes(SAMPLE_FILE.read_bytes())
    done = ran(arguments, "> /dev/full", tmp_path)
    assert done.returncode == status
    assert "No space left on device" in done.stderr or not status
    assert ran(arguments, ">&-", tmp_path).returncode == 0, "who closes it does not want it"


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """What libraries print to standard output and error would be written into it."""
    code = (
        "from microscope_bench.system.safe_output import safe_output\n"
        "with safe_output(), open('x', 'w') as file:\n"
        "    raise SystemExit(file.fileno() < 3)"
    )
    closed = f"'{sys.executable}' -c \"{code}\" <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", closed], cwd=tmp_path).returncode == 0


def test_the_streams_are_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with pytest.raises(SystemExit), safe_output():
        raise SystemExit(3)
    assert (sys.stdout, sys.stderr) == before


def test_names_that_nobody_sees_are_refused_before_the_first_forward_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyAdapter, "forward", lambda *_, **__: pytest.fail("a forward pass"))
    adapter = ToyAdapter()
    adapter.info = structs.replace(adapter.info, name="a\u200bb")
    with pytest.raises(MicroscopeError, match=r"model\.name: Expected text without unseen characters"):
        evaluate(adapter, "shapesqa", limit=6, output_path=tmp_path)


@pytest.mark.parametrize("name", ["a\x85b", "a\u202eb", "a\u2065b", "a\U000e0041b", "a\ufe0f"])
def test_a_result_with_such_a_name_is_refused(name: str) -> None:
    document = sample(model={"name": name}).to_dict()
    with pytest.raises(ResultError, match="without unseen characters"):
        Result.from_dict(forge(document))
