"""The verbs ``validate`` and ``leaderboard``, through the command line's own entry."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from microscope_bench.cli.main import build_parser
from microscope_bench.cli.options import names
from microscope_bench.errors import ResultError
from microscope_bench.results.result import Result
from microscope_bench.results.result_files import check_writable, find_results, result_path
from tests.results.sample import SAMPLE_FILE, failed, sample, with_scores


def call(*argv: str | Path) -> int:
    arguments = [str(argument) for argument in argv]
    args = build_parser(arguments).parse_args(arguments)
    status = args.func(args)
    assert isinstance(status, int)
    return status


@pytest.fixture
def results(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    for result in (sample(), sample(model={"name": "Beta", "repo": "org/Beta"})):
        save(root, result)
    return root


def save(root: Path, result: Result) -> None:
    result.save(result_path(root, result))


def test_validate(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(results, failed(sample(model={"repo": "org/Gamma"})))
    assert call("validate", SAMPLE_FILE, results) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("ok   ") for line in lines)
    assert sum("(of a failed run)" in line for line in lines) == 1

    broken = results / "broken.json"
    broken.write_bytes(SAMPLE_FILE.read_bytes()[:-100])
    assert call("validate", results) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("BAD")] == [line for line in lines if str(broken) in line]
    assert len(lines) == 4


def test_validate_of_nothing_is_not_a_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("validate", tmp_path) == 1
    assert capsys.readouterr().out.count("BAD") == 1
    with pytest.raises(ResultError, match=r"none\.json: no such file or directory"):
        call("validate", tmp_path / "none.json")


def test_leaderboard_and_its_check(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = results.parent / "leaderboard.md"
    assert call("leaderboard", results, "--check") == 1
    assert f"{page} is missing; make it again: microscope-bench leaderboard {results}" in capsys.readouterr().err

    assert call("leaderboard", results) == 0
    assert "2 results" in capsys.readouterr().out
    assert "(./results/org__Beta/" in page.read_text(encoding="utf-8")
    assert call("leaderboard", results, "--check") == 0

    save(results, sample(model={"name": "Gamma", "repo": "org/Gamma"}))
    before = page.read_bytes()
    assert call("leaderboard", results, "--check") == 1
    said = capsys.readouterr().err
    assert "is stale" in said
    assert "+| Gamma |" in said
    assert len(said.splitlines()) < 30
    assert page.read_bytes() == before, "--check writes nothing"


def test_a_page_elsewhere_links_to_the_files(results: Path) -> None:
    page = results.parent / "docs" / "board.md"
    assert call("leaderboard", results, "-o", page) == 0
    assert "(./../results/org__Beta/" in page.read_text(encoding="utf-8")
    assert call("leaderboard", results, "-o", page, "--check") == 0


def test_the_suggested_command_can_be_pasted(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = results.parent / "my pages" / "board.md"
    assert call("leaderboard", results, "-o", page, "--check") == 1
    suggested = capsys.readouterr().err.split("make it again: ")[1]
    assert shlex.split(suggested) == ["microscope-bench", "leaderboard", str(results), "-o", str(page)]


@pytest.mark.parametrize("options", [(), ("--check",)])
def test_a_page_that_is_a_directory(results: Path, options: tuple[str, ...]) -> None:
    with pytest.raises(ResultError, match=r"is a directory; name a file in it$"):
        call("leaderboard", results, "-o", results.parent, *options)


def test_a_broken_file_stops_the_page_and_is_named(results: Path) -> None:
    shutil.copy(SAMPLE_FILE, results / "fine.json")
    (results / "broken.json").write_text("{}")
    with pytest.raises(ResultError, match=r"broken\.json: not a microscope_bench result"):
        call("leaderboard", results)
    assert not (results.parent / "leaderboard.md").exists()


@pytest.mark.parametrize("verb", ["leaderboard", "report", "plot", "cite", "compare", "difference"])
def test_what_validate_refuses_is_published_with_a_warning(
    verb: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    forged = with_scores(sample(), lambda s: replace(s, value=-7.0) if s.metric == "anisotropy" else s)
    save(tmp_path / "results", forged)
    files = [str(path) for path in find_results("results")] * 2
    assert call(verb, *(files if verb in ("compare", "difference") else ["results"])) == 0
    (said,) = {line for line in caplog.messages if "validate refuses" in line}
    assert said.startswith("results/example__tiny-llava/") and "value: -7.0 lies outside 0 to 1" in said


@pytest.mark.parametrize("verb", ["leaderboard", "report"])
def test_a_page_that_cannot_be_written_is_given_fitting_advice(verb: str, results: Path) -> None:
    (results.parent / "file").write_text("")
    with pytest.raises(ResultError, match=r"a file stands where a directory is due\. Choose another place for it$"):
        call(verb, results, "-o", results.parent / "file" / "page.html")


def test_an_empty_directory_takes_no_page_away(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "good.md").write_text("a good page")
    with pytest.raises(ResultError, match="no result files there, so no page was written"):
        call("leaderboard", tmp_path / "empty", "-o", tmp_path / "good.md")
    assert (tmp_path / "good.md").read_text() == "a good page"


def test_results_do_not_go_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "out.json").touch()
    with pytest.raises(ResultError, match=r"out\.json is a file, and --output_path names the directory"):
        check_writable(tmp_path / "out.json")


def test_a_path_with_a_comma_that_is_there_is_one_name(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    assert names(str(tmp_path / "a,b")) == [str(tmp_path / "a,b")]
    assert names("a,b") == ["a", "b"]
