"""The contract with lm-eval: whoever raises its version sees here what has changed."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import entry_points, version
from types import SimpleNamespace

import pytest
from lm_eval.api.model import LM, CachingLM, TemplateLM
from lm_eval.api.registry import get_model

from microscope_bench.lm_eval_plugin import internals
from microscope_bench.lm_eval_plugin.internals import HFLM, HFMultimodalLM, Instance


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
    task = run_lm_eval and lm.running.tasks["letters"]
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


def test_the_version_is_one_that_this_was_written_for():
    assert version("lm_eval").startswith("0.4.")


def test_the_entry_point_for_the_coming_plug_ins_names_the_backend():
    found = [e for e in entry_points(group="lm_eval.models") if e.name == "microscope"]
    if not found:
        pytest.skip("the package is installed from before the entry point was declared")
    assert found[0].value == "microscope_bench.lm_eval_plugin.backend:Microscope"
