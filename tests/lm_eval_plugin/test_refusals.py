"""What would lie is refused, with the reason."""

from __future__ import annotations

import pytest

from microscope_bench.errors import AdapterError, CaptureError, ExampleError, MicroscopeError
from microscope_bench.lm_eval_plugin.backend import Microscope
from microscope_bench.lm_eval_plugin.launcher import main, with_our_tasks


def test_a_cache_of_answers(load, run_lm_eval, tmp_path):
    with pytest.raises(CaptureError, match="--use_cache and geometry exclude each other"):
        run_lm_eval(load("llama"), "text_words", use_cache=str(tmp_path / "answers"))
    run_lm_eval(load("llama", geometry=False), "text_words", use_cache=str(tmp_path / "answers"))


def test_a_cache_of_prompts(load, run_lm_eval, tmp_path, monkeypatch):
    monkeypatch.setattr("lm_eval.caching.cache.PATH", str(tmp_path))
    with pytest.raises(CaptureError, match="--cache_requests and geometry exclude each other"):
        run_lm_eval(load("llama"), "text_words", cache_requests=True)


@pytest.mark.parametrize("geometry", [True, False])
def test_few_shot_with_pictures(load, run_lm_eval, geometry):
    with pytest.raises(CaptureError, match="shots: num_fewshot is 1, but lm-eval hands over the pictures of the que"):
        run_lm_eval(load("llava_next", geometry=geometry), "shots")


@pytest.mark.parametrize("task", ["letters", "said"])
def test_pictures_for_a_model_of_text(load, run_lm_eval, task):
    with pytest.raises(AdapterError, match=f"{task} has pictures, but .* is a model of text alone"):
        run_lm_eval(load("llama", geometry=False), task)


@pytest.mark.parametrize("geometry", [True, False])
def test_documents_with_and_without_pictures(load, run_lm_eval, geometry):
    with pytest.raises(CaptureError, match="mixed mixes documents with and without pictures"):
        run_lm_eval(load("llava_next", geometry=geometry), "mixed")


@pytest.mark.parametrize("task", ["letters", "said"])
def test_a_prompt_that_would_be_cut_through_its_picture(load, run_lm_eval, task):
    with pytest.raises(AdapterError, match="cutting them would cut through the picture"):
        run_lm_eval(load("llava_next", geometry=False, max_length=60), task)


def test_choices_of_several_tokens_for_a_model_that_would_see_them(load, run_lm_eval):
    with pytest.raises(AdapterError, match="its attention is not causal"):
        run_lm_eval(load("paligemma", geometry=False), "words")


def test_whole_texts(load, run_lm_eval):
    with pytest.raises(CaptureError, match="there is no prompt to measure"):
        run_lm_eval(load("llama"), "text_rolling")


def test_prompts_of_text_that_lm_eval_cuts_are_too_many_to_be_skipped(load, run_lm_eval):
    summary = run_lm_eval(load("llama", max_length=30), "text_words")["config"]["microscope"]["text_words"]
    assert summary["status"] == "failed" and "could not be measured" in summary["error"]


def test_geometry_without_an_evaluation(load):
    from lm_eval.api.instance import Instance

    request = Instance("loglikelihood", {}, ("a", " b"), 0, ("text_words", 0, 1))
    with pytest.raises(CaptureError, match=r"call lm_eval\.simple_evaluate"):
        load("llama").loglikelihood([request])


@pytest.mark.parametrize(
    "args, said",
    [
        ({}, "needs a model"),
        ({"pretrained": "x", "use_chat_template": True}, "--apply_chat_template"),
        ({"pretrained": "zoo-omnifusion"}, "no decoder of transformers"),
        ({"pretrained": "x", "protocol": "geometri/1"}, "geometry/1"),
        ({"pretrained": "x", "geometry": "perhaps"}, "not true or false"),
        ({"pretrained": "x", "split_by": "corect"}, "correct"),
        ({"pretrained": "x", "tokens_per_example": "many"}, "not a whole number"),
    ],
)
def test_arguments(args, said):
    with pytest.raises(MicroscopeError, match=said):
        Microscope.create_from_arg_obj({**args, "device": "cpu"})


def test_the_launcher_says_in_one_line_what_is_wrong(capsys, task_dir, monkeypatch):
    def refuse():
        raise ExampleError("q1", "no picture")

    monkeypatch.setattr("microscope_bench.lm_eval_plugin.internals.cli_evaluate", refuse)
    assert main(["run", "--tasks", "letters", "--include_path", str(task_dir)]) == 2
    assert capsys.readouterr().err.startswith("microscope-lm-eval: ")


def test_the_launcher_knows_our_tasks_unless_others_are_named():
    assert with_our_tasks(["run", "--tasks", "shapesqa"])[-2] == "--include_path"
    for arguments in (["ls", "tasks"], ["run", "--tasks", "x", "--include_path", "here"], ["run", "--include_path=x"]):
        assert with_our_tasks(arguments) == arguments
