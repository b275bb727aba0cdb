"""The contract with lm-eval: whoever raises its version sees here what has changed."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import tomllib
from copy import copy
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from lm_eval.api.model import LM, CachingLM, TemplateLM
from lm_eval.api.registry import get_model

from microscope_bench.capture.fingerprints import example_sha256
from microscope_bench.lm_eval_plugin import internals
from microscope_bench.lm_eval_plugin.internals import HFLM, HFMultimodalLM, Instance
from microscope_bench.rgb_pictures import as_rgb
from microscope_bench.tasks import TaskSettings, load_task
from microscope_bench.tasks.lm_eval_tasks import task_around
from tests.picture_tasks import task_of
from tests.stored_pictures import TRANSPARENT, stored, tag, turned


class Asked(LM):
    """Notes what can be known of the evaluation while it is asked."""

    MULTIMODAL = True

    def __init__(self):
        super().__init__()
        self.running = self.path_at_the_end = self.requests = None

    def loglikelihood(self, requests):
        self.running, self.requests = internals.running(), requests
        return [(0.0, False)] * len(requests)

    loglikelihood_rolling = generate_until = None

    def get_model_info(self):
        self.path_at_the_end = internals.output_path()
        return {"microscope": "told"}


def test_the_running_evaluation_can_be_known(run_lm_eval, tmp_path):
    lm = Asked()
    found = run_lm_eval(lm, "letters", limit=3, output_path=tmp_path)
    now = lm.running
    assert list(now.tasks) == ["letters"] and now.tasks["letters"].config.task == "letters"
    assert (now.limit, now.samples, now.cache_requests, now.templated) == (3, {}, False, False)
    assert (now.system_instruction, now.seeds) == (None, (0, 1234, 1234))
    assert lm.path_at_the_end == str(tmp_path)
    assert found["config"]["microscope"] == "told"  # asked after everything is answered, and into the results
    assert internals.running() is None and internals.output_path() is None


def test_what_a_request_holds(run_lm_eval):
    lm = Asked()
    run_lm_eval(lm, "letters", limit=2)
    request = lm.requests[1]
    assert (request.task_name, request.doc_id, request.idx) == ("letters", 0, 1)
    context, continuation, media = request.args
    assert context.startswith("<image>") and continuation == " B" and list(media) == ["visual"]
    assert internals.pictures_of(request)[0].size == (60, 40)
    assert internals.pictures_of(Instance("loglikelihood", {}, ("a", "b"), 0)) is None
    task = lm.running.tasks["letters"]
    assert task.eval_docs[0]["key"] == "q0" and task.has_test_docs() and "test" in task.dataset


@pytest.mark.parametrize(
    "function, first",
    [
        (HFLM._model_call, ["self", "inps"]),
        (HFLM._model_generate, ["self", "context"]),
        (HFLM._loglikelihood_tokens, ["self", "requests", "disable_tqdm"]),
        (HFLM.tok_batch_encode, ["self", "strings", "padding_side", "left_truncate_len", "truncation"]),
        (HFMultimodalLM._model_multimodal_generate, ["self", "inputs", "max_length", "stop"]),
        (HFMultimodalLM._create_tokenizer, ["self", "pretrained"]),
        (internals.handle_stop_sequences, ["until", "eos"]),
        (internals.normalize_gen_kwargs, ["gen_kwargs", "default_max_gen_toks"]),
        (internals.postprocess_generated_text, ["generation", "stop", "think_end_token"]),
    ],
)
def test_what_is_overridden_or_called_takes_what_it_took(function, first):
    assert list(inspect.signature(function).parameters)[: len(first)] == first


def test_lm_evals_scoring_passes_through_what_is_overridden():
    source = inspect.getsource(TemplateLM.loglikelihood) + inspect.getsource(HFLM._loglikelihood_tokens)
    assert "self._loglikelihood_tokens(" in source and "self._model_call(" in source
    assert 'padding_side="right"' in source  # where a context begins
    said = inspect.getsource(HFLM.generate_until)
    assert "self.tok_batch_encode(" in said and "self._model_generate(" in said
    assert inspect.signature(HFLM.tok_batch_encode).parameters["padding_side"].default == "left"


def test_options_are_told_as_they_were():
    options = internals.normalize_gen_kwargs({"until": ["."], "max_gen_toks": 4, "do_sample": False}, 256)
    assert options["max_gen_toks"] == 4 and options["until"] == ["."] and options["do_sample"] is False
    assert internals.handle_stop_sequences(["."], eos="</s>") == [".", "</s>"]
    assert internals.postprocess_generated_text("red. blue", ["."], None) == "red"


def test_a_cache_of_answers_announces_itself(tmp_path):
    told = []
    CachingLM(SimpleNamespace(set_cache_hook=told.append), str(tmp_path / "answers.db"))
    assert len(told) == 1


def test_the_backend_is_registered_beside_lm_evals_own():
    code = (
        "import microscope_bench.lm_eval_plugin.backend as b; from lm_eval.api.registry import get_model; "
        "assert get_model('microscope') is b.Microscope; get_model('hf-multimodal'); get_model('dummy')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert get_model("hf") is HFLM


def test_the_version_is_the_one_that_this_was_written_for():
    assert version("lm_eval") == "0.4.13", "look through internals.py and docs/lm_eval.md, then raise it here"


def test_the_entry_point_for_the_coming_plug_ins_names_the_backend():
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"]
    name, attribute = declared["lm_eval.models"]["microscope"].split(":")
    assert getattr(importlib.import_module(name), attribute) is get_model("microscope")


def test_what_is_read_of_a_task_and_of_a_model(run_lm_eval, load):
    lm = Asked()
    run_lm_eval(lm, "letters", "text_shots", num_fewshot=None, limit=2)
    plain, solved = lm.running.tasks["letters"], lm.running.tasks["text_shots"]
    assert plain.config.doc_to_image is not None and plain.config.doc_to_audio is None
    assert plain.config.num_fewshot == 0 and plain.config.custom_dataset is not None
    assert solved.fewshot_cfg.split == solved.config.test_split == "test"
    again = copy(solved.sampler).set_rnd(1234)
    assert again is not solved.sampler and len(again.sample(n=2, eval_doc=None)) == 2
    model = load("llava_next", geometry=False)
    assert model.max_gen_toks == 256 and model.eot_token_id == model.tokenizer.eos_token_id
    assert model.rank == 0 and model.world_size == 1


def test_pictures_are_read_by_the_rule_and_are_the_data_of_a_run(tmp_path):
    from lm_eval.tasks import TaskManager, get_task_dict

    import microscope_bench.lm_eval_plugin.backend  # noqa: F401

    upright = TRANSPARENT["RGBA"][0]
    ours = task_of(tmp_path, [stored(turned(6, upright), exif=tag(6))], [{"question": "?", "answer": 0}], "json")
    theirs = get_task_dict(["pictures"], TaskManager(include_path=str(tmp_path), include_defaults=False))["pictures"]
    (shown,) = theirs.doc_to_image(theirs.eval_docs[0])
    assert shown.tobytes() == as_rgb(upright)[0].tobytes()
    around = task_around(theirs, TaskSettings())
    rendered = around.render(0, theirs.eval_docs[0], pictures=[shown])
    assert around.dataset == ours.dataset and around.directories == ours.directories
    assert example_sha256(rendered) == example_sha256(ours.example(0))
    assert rendered.converted_from == ours.example(0).converted_from == ("orientation 6 applied", "RGBA over white")


def test_tables_are_read_as_they_are_written_and_are_the_data_of_a_run(tmp_path):
    from lm_eval.tasks import TaskManager, get_task_dict

    import microscope_bench.lm_eval_plugin.backend  # noqa: F401

    (tmp_path / "rows.csv").write_text("id,a,b\n007,None,1e5\n008,NA,true\n")
    (tmp_path / "written.yaml").write_text(
        f"task: written\ndataset_path: csv\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.csv'}}}}}\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{ id }}?"\ndoc_to_target: 0\n'
        'doc_to_choice: "{{[a, b]}}"\nmetadata: {version: 1, id_column: id}\n'
    )
    theirs = get_task_dict(["written"], TaskManager(include_path=str(tmp_path), include_defaults=False))["written"]
    assert theirs.doc_to_choice(theirs.eval_docs[0]) == ["None", "1e5"]
    around, ours = task_around(theirs, TaskSettings()), load_task(tmp_path / "written.yaml")
    assert around.dataset == ours.dataset and list(around.ids) == ["007", "008"]
    assert around.example(1).choices == ours.example(1).choices == ("NA", "true")
