"""What would lie is refused, with the reason."""

from __future__ import annotations

import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance

from microscope_bench.errors import AdapterError, CaptureError, ExampleError, MicroscopeError
from microscope_bench.lm_eval_plugin.backend import Microscope
from microscope_bench.lm_eval_plugin.images import Row, check_causal, example_of
from microscope_bench.lm_eval_plugin.launcher import main, with_our_tasks
from microscope_bench.rgb_pictures import as_rgb
from tests.stored_pictures import TRANSPARENT, stored, tag, turned


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


def test_choices_of_several_tokens_behind_what_a_processor_ends_prompts_with(load, run_lm_eval):
    with pytest.raises(AdapterError, match=r"ends each prompt with '\\n', behind which ' red' is not one token"):
        run_lm_eval(load("paligemma", geometry=False), "words")


@pytest.mark.parametrize("seen, refused", [(0.0, False), (1.0, True)])
def test_choices_of_several_tokens_for_a_model_that_would_see_them(seen, refused):
    """A stand-in whose logits hang on the length of all that it is given, or not."""

    class Model:
        info = SimpleNamespace(name="prefix model")

        def encode(self, examples):
            self.length = len(examples[0].text)
            return SimpleNamespace(last_positions=lambda: np.array([self.length - 1]))

        def logits_at(self, batch, positions):
            values = torch.arange(8.0) + seen * self.length * torch.tensor([1.0, -1.0] * 4)
            return (values + positions[0]).reshape(1, 1, 8)

    request = Instance("loglikelihood", {}, ("What?", " a dog"), 0, ("words", 0, 1))
    row = Row(request, ("words", 0), " a dog", n_after=6, n_melted=0, tail=[1])
    if not refused:
        return check_causal(Model(), [row], templated=False, directories={})
    with pytest.raises(AdapterError, match="prefix model: a continuation changes what comes before it"):
        check_causal(Model(), [row], templated=False, directories={})


@pytest.mark.parametrize("task", ["text_words", "text_said"])
def test_geometry_of_text_for_a_model_whose_prompt_sees_what_follows(load, run_lm_eval, task):
    with pytest.raises(CaptureError, match=f"prompt and answer as one text. Measure {task} with: microscope-bench run"):
        run_lm_eval(load("paligemma"), task)


def test_a_prompt_that_lm_eval_gives_other_tokens_is_not_measured(load, run_lm_eval):
    """Our own run lets the checkpoint decide on the mark at the beginning."""
    summary = run_lm_eval(load("llama", add_bos_token=False), "text_words")["config"]["microscope"]["text_words"]
    assert summary["status"] == "failed" and "lm-eval gives the model other tokens" in summary["error"]


@pytest.mark.parametrize("task", ["text_words", "text_said"])
def test_a_mark_that_lm_eval_adds_behind_a_template_without_one(load, run_lm_eval, task):
    lm = load("llama")
    template = lm.adapter.tokenizer.chat_template
    assert "bos_token" in template
    lm.adapter.tokenizer.chat_template = template.replace("{{ bos_token }}", "").replace("{{bos_token}}", "")
    summary = run_lm_eval(lm, task, apply_chat_template=True)["config"]["microscope"][task]
    assert summary["status"] == "failed" and "lm-eval gives the model other tokens" in summary["error"]


def test_few_shot_examples_without_a_seed(load, run_lm_eval):
    with pytest.raises(CaptureError, match="drawn without a seed"):
        run_lm_eval(load("llama"), "text_shots", num_fewshot=2, fewshot_random_seed=None)


def test_a_template_by_name(load, run_lm_eval):
    with pytest.raises(MicroscopeError, match=r"not 'tool_use'; the template is .* cannot be named"):
        run_lm_eval(load("llava_next", geometry=False), "text_words", apply_chat_template="tool_use")


def test_a_picture_that_does_not_open(load, run_lm_eval, monkeypatch):
    def broken(self):
        raise OSError("image file is truncated")

    monkeypatch.setattr("PIL.Image.Image.load", broken)
    with pytest.raises(
        AdapterError, match=r"letters, document 0: a picture does not open \(OSError: image file is trunc"
    ):
        run_lm_eval(load("llava_next", geometry=False), "letters", limit=1)


def test_pictures_as_lm_eval_hands_them_over_follow_the_rule(tmp_path):
    upright = TRANSPARENT["RGBA"][0]
    content = stored(turned(6, upright), exif=tag(6))
    (tmp_path / "data").mkdir()
    for file in (tmp_path / "data/in.png", tmp_path / "out.png"):
        file.write_bytes(content)
    directories = {"asked": [tmp_path / "data"]}

    def example(visual):
        request = Instance("generate_until", {}, ("<image>?", {}, {"visual": visual}), 0, ("asked", 0, 1))
        return example_of(request, templated=False, directories=directories)

    expected = as_rgb(upright)[0].tobytes()
    for visual in ([upright], upright, {"bytes": content, "path": None}, [None, {"bytes": None, "path": "in.png"}]):
        assert [image.tobytes() for image in example(visual).images] == [expected]
    with pytest.raises(AdapterError, match=r"asked, document 0: file .*out\.png. lies outside the data"):
        example([str(tmp_path / "out.png")])


def test_an_answer_that_leaves_no_room_for_a_prompt(load, run_lm_eval):
    with pytest.raises(AdapterError, match="4 tokens of answer leave no room for a prompt in 3"):
        run_lm_eval(load("llava_next", geometry=False, max_length=3), "said", limit=1)


def test_an_evaluation_that_will_not_ask_for_the_results(load, run_lm_eval, task_dir):
    from lm_eval import evaluate
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_path=str(task_dir), include_defaults=False).load(["text_words"])
    with pytest.raises(CaptureError, match=r"as lm_eval\.simple_evaluate does"):
        evaluate(load("llama"), tasks)


def test_whole_texts(load, run_lm_eval):
    with pytest.raises(CaptureError, match="there is no prompt to measure"):
        run_lm_eval(load("llama"), "text_rolling")


def test_prompts_of_text_that_lm_eval_cuts_are_too_many_to_be_skipped(load, run_lm_eval):
    summary = run_lm_eval(load("llama", max_length=30), "text_words")["config"]["microscope"]["text_words"]
    assert summary["status"] == "failed" and "could not be measured" in summary["error"]


def test_geometry_without_an_evaluation(load):
    request = Instance("loglikelihood", {}, ("a", " b"), 0, ("text_words", 0, 1))
    with pytest.raises(CaptureError, match=r"as lm_eval\.simple_evaluate does"):
        load("llama").loglikelihood([request])


@pytest.mark.parametrize(
    "args, said",
    [
        ({}, "needs a model"),
        ({"pretrained": "x", "use_chat_template": True}, "--apply_chat_template"),
        ({"pretrained": "zoo-omnifusion"}, "no decoder of transformers"),
        ({"pretrained": "x", "protocol": "geometri/1"}, "geometry/1"),
        ({"pretrained": "x", "geometry": "perhaps"}, "must be true or false"),
        ({"pretrained": "x", "split_by": "corect"}, "correct"),
        ({"pretrained": "x", "batch_size": "auto:4"}, "--batch_size auto .* give a number, such as --batch_size 8"),
        ({"pretrained": "x", "tokens_per_example": "many"}, "must be a whole number"),
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


@pytest.mark.parametrize(
    "field, body, said",
    [
        ("doc_to_image", "raise OSError('gone')", "letters, document 0: doc_to_image fails: OSError: gone. Mend the"),
        ("doc_to_text", "return doc['qestion']", "letters: doc_to_text fails: KeyError: 'qestion'"),
        ("doc_to_target", "return None", r"process_results fails \(the row has no right answer\): TypeError: "),
    ],
)
def test_the_launcher_says_which_row_of_a_task_fails(capsys, monkeypatch, load, run_lm_eval, field, body, said):
    from lm_eval.api.task import ConfigurableTask

    namespace: dict[str, object] = {}
    exec(f"def {field}(self, doc, *more):\n    {body}", namespace)

    def evaluate():
        model = load("llava_next", geometry=False)
        monkeypatch.setattr(ConfigurableTask, field, namespace[field])
        run_lm_eval(model, "letters", limit=2)

    monkeypatch.setattr("microscope_bench.lm_eval_plugin.internals.cli_evaluate", evaluate)
    assert main(["run", "--tasks", "letters"]) == 2
    err = capsys.readouterr().err
    assert re.search(f"^microscope-lm-eval: .*{said}", err, re.MULTILINE) and "Traceback" not in err


def test_the_launcher_refuses_task_files_that_lm_eval_would_not_come_back_from(capsys, tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    assert main(["run", "--tasks", "letters", f"--include_path={tmp_path}"]) == 2
    assert "pipe.yaml cannot be read: it is no regular file" in capsys.readouterr().err
    (tmp_path / "pipe.yaml").unlink()
    (tmp_path / "deep.yaml").write_text("task: deep\nmetadata: " + "[" * 60)
    assert main(["run", "--tasks", "letters", "--include_path", str(tmp_path)]) == 2
    assert "nested more than 50 deep" in capsys.readouterr().err


def test_the_launcher_knows_our_tasks_unless_others_are_named():
    for named in (["--tasks", "shapesqa"], ["-t", "shapesqa"], ["--tasks=shapesqa"]):
        assert with_our_tasks(["run", *named])[-2] == "--include_path"
    tasks = ["run", "--tasks", "x"]
    for more in (["--include_path", "here"], ["--include_path=x"], ["--config", "run.yaml"], ["-C", "run.yaml"]):
        assert with_our_tasks([*tasks, *more]) == [*tasks, *more]
    assert with_our_tasks(["ls", "tasks"]) == ["ls", "tasks"]


def test_model_args_are_read_as_they_are_written(tiny):
    given = f"pretrained={tiny('llama')},device=cpu,logits_cache=false,add_bos_token=False,prefix_token_id=0"
    lm = Microscope.create_from_arg_string(given)
    assert (lm.logits_cache, lm.add_bos_token, lm.prefix_token_id) == (False, False, 0)


def test_lm_evals_default_device_is_none_of_the_users_asking(tiny):
    from microscope_bench.lm_eval_plugin.backend_arguments import sort_arguments

    found = sort_arguments({"pretrained": "x", "device": "cuda:0", "model_revision": "abc"}, {})
    assert found.device == ("cuda:0" if torch.cuda.is_available() else None)
    assert found.adapter == {"pretrained": "x", "revision": "abc"}
