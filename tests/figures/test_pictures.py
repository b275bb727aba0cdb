"""The pictures of tokens as files, and their verbs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from microscope_bench.cli.main import main
from microscope_bench.errors import MicroscopeError, StoreError, UnknownNameError
from microscope_bench.figures.example_pictures import draw_example
from microscope_bench.figures.example_rerun import run_again
from microscope_bench.figures.token_pictures import TokenChoice, draw_tokens
from microscope_bench.figures.words import words_of
from tests.figures.toys import ReadingToy, kept_store
from tests.toy import ToyAdapter, ToyTask

FORMATS = ("svg", "pdf", "png")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return kept_store(tmp_path_factory.mktemp("store"))[0]


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_same_store_gives_the_same_bytes(toy, tmp_path, file_format):
    rerun = run_again(toy, ReadingToy(), ToyTask(), "q7", {0, 1, 2})
    for k in (1, 2):
        draw_example(toy, rerun, tmp_path / f"e{k}.{file_format}", layers=[0, 1])
        draw_tokens([toy], tmp_path / f"t{k}.{file_format}")
    for name in "et":
        first, second = ((tmp_path / f"{name}{k}.{file_format}").read_bytes() for k in (1, 2))
        assert first == second
    assert not list(tmp_path.glob(".*"))


def test_how_many_tokens_are_drawn_is_said_and_held(toy, tmp_path):
    assert draw_tokens([toy], tmp_path / "t.png", TokenChoice(most_tokens=50)) == [50]
    title = Image.open(tmp_path / "t.png").text["Description"]
    assert f"50 of {len(toy.tokens.example):,} kept tokens" in title


def test_modalities_get_equal_shares_and_the_same_tokens_whatever_is_drawn_beside(toy, tmp_path, monkeypatch):
    from microscope_bench.figures import token_pictures

    seen = {}
    chosen = token_pictures._drawn
    monkeypatch.setattr(token_pictures, "_drawn", lambda *a: seen.setdefault(a[3], chosen(*a)))
    for most in (40, 80):
        draw_tokens([toy], tmp_path / "t.png", TokenChoice(most_tokens=most))
    few, more = seen[40], seen[80]
    assert set(few.index) < set(more.index)
    assert [(few.modalities == m).sum() for m in ("text", "image")] == [20, 20]


def test_examples_by_colour(toy, tmp_path):
    (n,) = draw_tokens([toy], tmp_path / "t.png", TokenChoice(colour_by="example", examples=["q3", "q5"]))
    of_two = [k for k, record in enumerate(toy.tokens.records) if record.id in ("q3", "q5")]
    assert n == np.isin(toy.tokens.example, of_two).sum()
    with pytest.raises(UnknownNameError, match="unknown example 'q99'"):
        draw_tokens([toy], tmp_path / "t.png", TokenChoice(colour_by="example", examples=["q99"]))


def test_several_models_in_one_space(toy, tmp_path):
    other, _ = kept_store(tmp_path / "s", seed=1)
    assert draw_tokens([toy, other], tmp_path / "t.pdf", TokenChoice(most_tokens=100)) == [50, 50]
    with pytest.raises(MicroscopeError, match="examples are told by colour in one store"):
        draw_tokens([toy, other], tmp_path / "t.pdf", TokenChoice(colour_by="example"))
    title = (tmp_path / "t.pdf").read_bytes()
    assert b"toy \\(1\\), toy \\(2\\)" in title, "two of one name are told apart"
    vars(other.tokens)["dim"] = 8
    with pytest.raises(StoreError, match="different widths lie in no common space"):
        draw_tokens([toy, other], tmp_path / "t.pdf")


def test_layers_and_modalities_that_are_not_there(toy, tmp_path):
    with pytest.raises(StoreError, match="layers 0 to 3 to draw here, not 4"):
        draw_tokens([toy], tmp_path / "t.pdf", TokenChoice(layers=[4]))
    with pytest.raises(UnknownNameError, match="unknown modality 'audio'"):
        draw_tokens([toy], tmp_path / "t.pdf", TokenChoice(modality="audio"))
    assert not list(tmp_path.iterdir())


def test_sinks_can_be_left_out(toy, tmp_path):
    sinks = np.zeros(len(toy.tokens.example), dtype=bool)
    sinks[:100] = True
    opened = dataclasses.replace(toy)
    vars(opened)["is_sink"] = sinks
    everything = len(sinks)
    assert draw_tokens([opened], tmp_path / "t.png", TokenChoice(most_tokens=10**6, without_sinks=True)) == [
        everything - 100
    ]
    assert "sinks left out" in Image.open(tmp_path / "t.png").text["Description"]


def test_hostile_names_and_words_are_text(toy, tmp_path):
    rerun = run_again(toy, ReadingToy(), ToyTask(), "q7", {0, 1})
    hostile = '<script>alert(1)</script> $x^{2$ _"&\u202e\n\x00\ud800'
    rerun = dataclasses.replace(rerun, example=dataclasses.replace(rerun.example, id=hostile))
    for file_format in FORMATS:
        path = tmp_path / f"e.{file_format}"
        draw_example(toy, rerun, path, layers=[0])
        assert file_format != "svg" or b"<script>" not in path.read_bytes()


def test_words_need_a_tokenizer(toy):
    rerun = run_again(toy, ToyAdapter(), ToyTask(), "q7", {0})
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


def test_the_verbs(zoo_store, tmp_path, capsys):
    assert main(["plot-tokens", str(zoo_store), "--method", "tsne", "-o", str(tmp_path / "t.svg")]) == 0
    out = str(tmp_path / "e.pdf")
    assert main(["plot-example", str(zoo_store), "--stream", "update", "--device", "cpu", "-o", out]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"t.svg", "e.pdf"}
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
    assert main(["plot-tokens", str(tmp_path)]) == 2
    assert "is no token store" in capsys.readouterr().err
    for bad in ("t.jpg", "t"):
        with pytest.raises(SystemExit) as stopped:
            main(["plot-tokens", str(zoo_store), "-o", bad])
        assert stopped.value.code == 2
