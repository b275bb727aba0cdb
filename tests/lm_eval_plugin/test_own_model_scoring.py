"""A model of one's own answers lm-eval by its own sequences, and is measured from the passes that answer."""

from __future__ import annotations

import pytest
import torch

from microscope_bench import evaluate, load_result
from microscope_bench.adapters.held_modules import held_modules
from microscope_bench.adapters.presets import adapter_from_file
from microscope_bench.cli.main import main
from microscope_bench.errors import AdapterError, CaptureError, MicroscopeError
from microscope_bench.lm_eval_plugin.backend import Microscope
from microscope_bench.lm_eval_plugin.images import example_of
from microscope_bench.tasks import load_task


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("own") / "my_mllm_for_lm_eval.py"
    assert main(["new", "adapter", str(file)]) == 0
    return file


@pytest.fixture
def own(file):
    adapter = adapter_from_file(f"{file}:MyMLLM")[0]()
    for module in held_modules(adapter):  # what is left is a difference of tokens, not of rounding
        module.double()
    return adapter


def answered(lm, run_lm_eval, task, **options):
    """What lm-eval returns, and each request with its answer."""
    notes, answer = [], lm.loglikelihood

    def noting(requests, **given):
        found = answer(requests, **given)
        notes.extend(zip(requests, found, strict=True))
        return found

    lm.loglikelihood = noting
    return run_lm_eval(lm, task, **options), notes


@pytest.mark.parametrize("task", ["letters", "words", "text_words"])
def test_answers_are_those_of_the_language_model_behind_the_sequence(task, own, run_lm_eval):
    lm = Microscope(pretrained=own, batch_size=5, geometry=False)
    notes = answered(lm, run_lm_eval, task)[1]
    assert len(notes) == sum(2 + i % 3 for i in range(12))
    for request, (logprob, greedy) in notes:
        batch = own.encode([example_of(request, templated=False, directories={})])
        ids = torch.tensor(own.ids(request.args[1]))
        with torch.no_grad():
            states = own.embed(batch.inputs["input_ids"].clamp(min=0))
            if "vectors" in batch.inputs:
                states[batch.inputs["input_ids"] == -1] = batch.inputs["vectors"]
            states = torch.cat([states, own.embed(ids[None])], dim=1)
            logprobs = own.language_model(inputs_embeds=states).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
        assert logprob == pytest.approx(float(logprobs.gather(1, ids[:, None]).sum()), abs=1e-5)
        assert greedy == bool((logprobs.argmax(-1) == ids).all())


@pytest.mark.parametrize("task", ["letters", "text_words"])
def test_geometry_and_identity_are_those_of_evaluate(task, own, run_lm_eval, task_dir, tmp_path):
    lm = Microscope(pretrained=own, batch_size=5, metrics="anisotropy", name="mine")
    found = run_lm_eval(lm, task, output_path=tmp_path)["config"]["microscope"][task]
    assert found["status"] == "complete", found
    ours = load_result(tmp_path / found["path"])
    loaded = load_task(task, include_path=task_dir)
    reference = evaluate(own, loaded, metrics="anisotropy", name="mine", progress=False)
    assert ours.identity == reference.identity and ours.identity.model.name == "mine"
    assert [score.value for score in ours.scores] == pytest.approx([score.value for score in reference.scores])


def test_what_it_cannot_answer_is_refused(own, file, run_lm_eval, tmp_path):
    lm = Microscope(pretrained=own, geometry=False)
    for task in ("said", "text_rolling"):
        with pytest.raises(AdapterError, match=f"{task}: MyMLLM is a model of one's own, which .* multiple_choice"):
            run_lm_eval(lm, task)
    with pytest.raises(AdapterError, match="leave --apply_chat_template out"):
        run_lm_eval(lm, "letters", apply_chat_template=True)
    with pytest.raises(CaptureError, match="--use_cache and geometry exclude each other"):
        run_lm_eval(Microscope(pretrained=own), "letters", use_cache=str(tmp_path / "answers"))
    with pytest.raises(MicroscopeError, match="unknown model arg 'add_bos_token'"):
        Microscope(pretrained=own, add_bos_token=True)
    with pytest.raises(MicroscopeError, match=r"loaded already: give model args .dtype. where it is loaded"):
        Microscope(pretrained=own, dtype="bfloat16")
    with pytest.raises(AdapterError, match=r"from Python: simple_evaluate.model=Microscope.pretrained=MyMLLM"):
        Microscope.create_from_arg_obj({"pretrained": f"{file}:MyMLLM"})
    with pytest.raises(AdapterError, match=r"'red' is no token of its own behind a prompt that ends in .*Answer: '"):
        run_lm_eval(lm, "melting")
    own.language_model.config.max_position_embeddings = 20
    with pytest.raises(AdapterError, match="tokens, pictures and answer included, exceed the 20 of MyMLLM"):
        run_lm_eval(lm, "letters")


def test_a_model_that_sees_the_answer_is_refused(own, run_lm_eval, monkeypatch):
    causal = own.run
    monkeypatch.setattr(own, "run", lambda states, *rest: causal(states + states.mean(1, keepdim=True), *rest))
    with pytest.raises(AdapterError, match="MyMLLM: a continuation changes what comes before it"):
        run_lm_eval(Microscope(pretrained=own, geometry=False), "text_words")


def test_a_model_in_training_is_in_evaluation_mode_until_the_last_batch_is_encoded(own, run_lm_eval, monkeypatch):
    lm, modes = Microscope(pretrained=own, batch_size=5, metrics="anisotropy"), []
    scored = lm.geometry.scored
    monkeypatch.setattr(lm.geometry, "scored", lambda *args: modes.append(own.language_model.training) or scored(*args))
    own.language_model.train()
    run_lm_eval(lm, "letters")
    assert (modes, own.language_model.training) == ([False], True)
