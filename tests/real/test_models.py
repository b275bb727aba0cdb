"""The checkpoints that are made of a package: they answer, and their adapters hold what they promise."""

from __future__ import annotations

import pytest
import torch

from microscope_bench.check import check
from tests.real.smollm2 import LANGUAGE, LLAVA, missing, written

real = pytest.mark.real


@real
@pytest.mark.parametrize("name", [LANGUAGE, LLAVA])
def test_the_adapter_keeps_its_contract(adapter, name):
    report = check(adapter(name))
    assert report.passed, str(report)
    skipped = {found.name for found in report.checks if found.status == "skipped"}
    assert skipped == ({"labels agree with what the media change"} if name == LANGUAGE else set())


@real
@pytest.mark.parametrize("name", [LANGUAGE, LLAVA])
def test_the_language_model_knows_what_it_was_trained_on(adapter, name):
    model, tokenizer = adapter(name).model, adapter(name).tokenizer
    asked = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        answer = model.generate(**asked, max_new_tokens=4, do_sample=False)[0]
    assert tokenizer.decode(answer).startswith("The capital of France is Paris")


def test_a_checkpoint_whose_writing_was_ended_is_written_again(tmp_path):
    def ended(part):
        part.mkdir()
        (part / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "model", ended)
    assert not (tmp_path / "model").exists()
    made = written(tmp_path / "model", lambda part: part.mkdir())
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and not list(made.iterdir())
    assert written(made, ended) == made, "what is there is not written"


def test_what_is_missing_is_named(tmp_path):
    (tmp_path / LANGUAGE).mkdir()
    assert f"no {LLAVA}; `make real`" in missing(tmp_path)
    (tmp_path / LLAVA).mkdir()
    assert missing(tmp_path) is None
