"""The pictures of examples as files, and their verb."""

from __future__ import annotations

import dataclasses

import pytest

from microscope_bench.cli.main import main
from microscope_bench.errors import StoreError
from microscope_bench.figures.example_pictures import draw_example
from microscope_bench.figures.example_rerun import run_again
from microscope_bench.figures.words import words_of
from tests.figures.toys import ReadingToy, kept_store
from tests.toy import ToyTask

FORMATS = ("svg", "pdf", "png")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return kept_store(tmp_path_factory.mktemp("store"))[0]


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_same_store_gives_the_same_bytes(toy, tmp_path, file_format):
    rerun = run_again(toy, ReadingToy(), ToyTask(), "q7", {0, 1, 2})
    for k in (1, 2):
        draw_example(toy, rerun, tmp_path / f"e{k}.{file_format}", layers=[0, 1])
    first, second = ((tmp_path / f"e{k}.{file_format}").read_bytes() for k in (1, 2))
    assert first == second
    assert not list(tmp_path.glob(".*"))


def test_hostile_names_and_words_are_text(toy, tmp_path):
    rerun = run_again(toy, ReadingToy(), ToyTask(), "q7", {0, 1})
    hostile = '<script>alert(1)</script> $x^{2$ _"&\u202e\n\x00\ud800'
    rerun = dataclasses.replace(rerun, example=dataclasses.replace(rerun.example, id=hostile))
    for file_format in FORMATS:
        path = tmp_path / f"e.{file_format}"
        draw_example(toy, rerun, path, layers=[0])
        assert file_format != "svg" or b"<script>" not in path.read_bytes()


def test_words_need_a_tokenizer(toy):
    mute = ReadingToy()
    mute.tokenizer = None
    rerun = run_again(toy, mute, ToyTask(), "q7", {0})
    with pytest.raises(StoreError, match="no tokenizer"):
        words_of(rerun)


def test_the_words_of_an_example_are_its_text(toy):
    rerun = run_again(toy, ReadingToy(), ToyTask(), "q7", {0})
    words = words_of(rerun)
    assert "".join(words[1:]) == ToyTask().example(7).text.replace("<image>", "")


@pytest.fixture(scope="module")
def zoo_store(tmp_path_factory):
    root = tmp_path_factory.mktemp("zoo")
    command = ["run", "--model", "zoo-llava-next", "--tasks", "shapesqa", "--task_args", "n=63", "--limit", "6"]
    options = ["--metrics", "anisotropy", "--keep_store", "--store", str(root / "store"), "--quiet", "--device", "cpu"]
    assert main([*command, *options, "--output_path", str(root / "results")]) == 0
    return root / "store"


def test_the_verb(zoo_store, tmp_path, capsys):
    out = str(tmp_path / "e.pdf")
    assert main(["plot-example", str(zoo_store), "--stream", "update", "--device", "cpu", "-o", out]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"e.pdf"}
    assert "example test-0" in capsys.readouterr().out
    wrong = [
        (["--task_args", "n=126"], "another data set than the store's: revision is"),
        (["--model", "zoo-llava"], "another model than the store's"),
        (["--layers", "6"], "has layers 0 to 5 to draw here, not 6"),
        (["--example", "test-7"], "unknown example 'test-7'"),
    ]
    for given, message in wrong:
        assert main(["plot-example", str(zoo_store), "--device", "cpu", "-o", out, *given]) == 2
        assert message in capsys.readouterr().err
    assert main(["plot-example", str(tmp_path)]) == 2
    assert "is no token store" in capsys.readouterr().err
    for bad in ("t.jpg", "t"):
        with pytest.raises(SystemExit) as stopped:
            main(["plot-example", str(zoo_store), "-o", bad])
        assert stopped.value.code == 2
