from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from microscope_bench.errors import ResultError
from microscope_bench.protocol import named_protocol
from microscope_bench.results.result import Result, load_result
from microscope_bench.results.result_files import (
    check_writable,
    each_result,
    find_results,
    result_path,
    safe_name,
    save_result,
)
from tests.results.sample import failed, sample

OTHER = sample(protocol=replace(named_protocol("geometry/1"), limit=50))


def save(root: Path, result: Result) -> Path:
    path = result_path(root, result)
    result.save(path)
    return path


def test_where_a_result_lies(tmp_path: Path) -> None:
    revision = "3b0c8f0f2b6d1a4c5e7f90123456789abcdef012"
    assert result_path(tmp_path, sample()) == tmp_path / "example__tiny-llava" / revision / "shapesqa.json"
    local = sample(model={"repo": "my model", "revision": "sha256-0123456789abcdef"})
    assert result_path(tmp_path, local) == tmp_path / "my_model" / "sha256-0123456789abcdef" / "shapesqa.json"


@given(st.one_of(st.text(max_size=300), st.sampled_from(["", ".", "..", "../../x", "CON", "nul.txt", "a ", "a.", "/"])))
def test_safe_names_are_one_component_everywhere(text: str) -> None:
    name = safe_name(text)
    assert 0 < len(name) <= 101
    assert name.isascii()
    assert not set(name) & set('<>:"/\\|?*~ ')
    assert name[0] != "."
    assert name[-1] != "."
    assert not PureWindowsPath(name).is_reserved()


def test_the_same_identity_replaces_another_does_not(tmp_path: Path) -> None:
    first = save(tmp_path, sample())
    assert save(tmp_path, sample()) == first
    second = save(tmp_path, OTHER)
    assert second.name == f"shapesqa~{OTHER.identity_hash[:8]}.json"
    assert save(tmp_path, OTHER) == second
    assert load_result(first) == sample()
    first.unlink()
    assert result_path(tmp_path, OTHER) == second, "where it already lies, not a second copy"


def test_failures_give_way_and_never_replace_a_complete_result(tmp_path: Path) -> None:
    plain = save(tmp_path, failed(OTHER))
    assert plain.name == "shapesqa.json"
    assert save(tmp_path, failed(sample())) == plain
    assert save(tmp_path, sample()) == plain
    assert save(tmp_path, failed(sample())).name == "shapesqa~failed.json"
    assert load_result(plain) == sample()


def test_a_run_that_succeeds_takes_the_note_of_its_own_failure_away(tmp_path: Path) -> None:
    for protocol in (sample().identity.protocol, OTHER.identity.protocol):
        done = sample(protocol=protocol)
        save_result(tmp_path, done)
        assert save_result(tmp_path, failed(done)).name == "shapesqa~failed.json"
    save_result(tmp_path, sample())
    assert [path.name for path in find_results(tmp_path)][-1] == "shapesqa~failed.json", "another run's failure stays"
    save_result(tmp_path, OTHER)
    assert not list(tmp_path.rglob("*~failed.json"))


def test_an_unreadable_file_is_not_replaced(tmp_path: Path) -> None:
    path = result_path(tmp_path, sample())
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert save(tmp_path, sample()) != path
    assert path.read_text() == "{"


def test_results_are_found_in_order_and_hidden_ones_are_not(tmp_path: Path) -> None:
    for name in ("b/x.json", "a/y.json", "a/x.json", ".stores/key/manifest.json", "a/.x.json.1.tmp", "a/note.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert [path.relative_to(tmp_path).as_posix() for path in find_results(tmp_path)] == [
        "a/x.json",
        "a/y.json",
        "b/x.json",
    ]
    with pytest.raises(ResultError, match="not a directory"):
        find_results(tmp_path / "none")


def test_every_broken_file_is_named(tmp_path: Path) -> None:
    save(tmp_path, sample())
    (tmp_path / "bad1.json").write_text("{")
    (tmp_path / "bad2.json").write_text("[]")
    with pytest.raises(ResultError, match=r"(?s)2 of the result files.*bad1\.json.*bad2\.json"):
        list(each_result(find_results(tmp_path)))


def test_whole_files_are_given_before_the_broken_ones_are_named(tmp_path: Path) -> None:
    for number in range(5):
        save(tmp_path, sample(model={"repo": f"org/model-{number}"}))
    for path in (broken := find_results(tmp_path)[1:4:2]):
        path.write_text("{", encoding="utf-8")
    found = each_result(find_results(tmp_path))
    assert [next(found)[0] for _ in range(3)] == [path for path in find_results(tmp_path) if path not in broken]
    with pytest.raises(ResultError, match="2 of the result files") as error:
        next(found)
    assert all(str(path) in str(error.value) for path in broken)


def test_writable_is_known_before_the_run(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "results")
    (tmp_path / "there").mkdir()
    check_writable(tmp_path / "there")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["there"], "it leaves something"
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match=r"cannot write.*--output_path"):
        check_writable(tmp_path / "file" / "results")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_directory_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ResultError, match="Permission denied"):
        check_writable(tmp_path)


def test_results_and_their_publication_import_nothing_heavy() -> None:
    program = (
        "import sys, microscope_bench.results.provenance, microscope_bench.results.result_files, "
        "microscope_bench.publish.leaderboard.markdown_page, microscope_bench.cli.validate, "
        "microscope_bench.cli.leaderboard\n"
        "print([m for m in ('torch', 'numpy', 'transformers', 'lm_eval', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
