"""Geometry from lm-eval's forward passes against that of `evaluate`."""

from __future__ import annotations

import hashlib

import pytest

from microscope_bench import evaluate, load_result
from microscope_bench.adapters.presets import load_model
from microscope_bench.errors import CaptureError
from microscope_bench.lm_eval_plugin.backend import Microscope
from microscope_bench.tasks import load_task
from microscope_bench.tasks.settings import Seeds, TaskSettings


def measured(found, task, directory):
    """The result file that lm-eval's results point to."""
    summary = found["config"]["microscope"][task]
    assert summary["status"] == "complete", summary
    file = directory / summary["path"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == summary["sha256"]
    result = load_result(file)
    assert summary["signature"] == result.signature
    return result


def key(score):
    return score.metric, score.estimator, score.stream, score.modality, score.tokens, score.layer


def assert_same_scores(ours, reference):
    assert [key(s) for s in ours.scores] == [key(s) for s in reference.scores]
    assert {s.modality for s in ours.scores} == {s.modality for s in reference.scores}
    for a, b in zip(ours.scores, reference.scores, strict=True):
        assert a.n_tokens == b.n_tokens
        assert a.value == (None if b.value is None else pytest.approx(b.value, rel=1e-6, abs=1e-6)), key(a)


METRICS = ["anisotropy", "intrinsic_dimension"]


CASES = {
    "letters": ("llava_next", "letters", False, 5, {}),
    "words through the template": ("llava_next", "words", True, 1, {}),
    "an answer": ("llava_next", "said", True, 5, {}),
    "text of a multimodal model": ("llava_next", "text_words", True, 5, {}),
    "text": ("llama", "text_words", False, 5, {}),
    "an answer in text": ("llama", "text_said", False, 5, {}),
    "more than a part, in batches that end within one": ("llama", "text_many", False, 6, {}),
    "no rotary positions": ("gpt2", "text_words", False, 1, {}),
    "solved examples": ("llama", "text_shots", False, 5, {"num_fewshot": 2}),
    "solved examples as turns": ("llava_next", "text_shots", True, 5, {"num_fewshot": 2}),
    "another draw": ("llama", "text_shots", False, 5, {"num_fewshot": 2, "seed": 7}),
    "a prompt whose end melts with the answers": ("llava_next", "melting", False, 5, {}),
    "another seed": ("llama", "text_shots", False, 5, {"num_fewshot": 1, "seeds": 7}),
    "chosen rows": ("llava_next", "letters", False, 5, {"samples": [9, 2, 3, 11, 4, 7]}),
    "a share": ("llama", "text_words", False, 5, {"limit": 0.4}),
    "more than there are": ("llama", "text_words", False, 5, {"limit": 50}),
    "an instruction": ("llava_next", "letters", True, 5, {"system_instruction": "Be brief."}),
}


@pytest.mark.parametrize("case", CASES)
def test_geometry_is_that_of_evaluate(load, run_lm_eval, tiny, task_dir, tmp_path, case):
    family, task, templated, batch_size, asked = CASES[case]
    asked = dict(asked)
    if "samples" in asked:
        asked["samples"] = {task: asked["samples"]}
    lm = load(family, batch_size=batch_size, metrics="+".join(METRICS))
    # in double precision what is left is a difference of tokens or prompts, not of rounding
    lm.adapter.model.double()
    seed, seeds = asked.pop("seed", None), asked.pop("seeds", None)
    theirs = asked if seed is None else {**asked, "fewshot_random_seed": seed}
    if seeds is not None:
        theirs = {**asked, **dict.fromkeys(("random_seed", "numpy_random_seed", "fewshot_random_seed"), seeds)}
    found = run_lm_eval(lm, task, apply_chat_template=templated, output_path=tmp_path, **theirs)
    ours = measured(found, task, tmp_path)
    model_args = {"pretrained": str(tiny(family))}
    if not templated and lm.adapter.encoder.has_template:
        model_args["use_chat_template"] = "false"
    adapter = load_model("hf", model_args, "cpu")
    adapter.model.double()
    drawn = Seeds() if seed is None else Seeds(fewshot=seed)
    limit = asked.pop("limit", None)
    settings = TaskSettings(**asked, seeds=drawn if seeds is None else Seeds(seeds, seeds, seeds))
    reference = evaluate(
        adapter,
        load_task(task, include_path=task_dir, settings=settings),
        limit=limit,
        seed=seeds,
        metrics=METRICS,
        batch_size=8,
        progress=False,
    )
    assert ours.identity == reference.identity
    assert ours.inputs == reference.inputs
    assert_same_scores(ours, reference)
    if "acc,none" in found["results"][task] and ours.accuracy.value is None:
        assert "another delimiter" in ours.accuracy.reason
    elif "acc,none" in found["results"][task]:
        assert ours.accuracy.value == pytest.approx(found["results"][task]["acc,none"])
        assert reference.accuracy.value in (None, ours.accuracy.value), "one identity, one accuracy"


FAMILIES = (
    "qwen2_vl",
    "idefics3",
    "gemma3",
    "internvl",
    "llava",
    "mllama",
    "chameleon",
    "voxtral",
    "gemma4",
    "paligemma",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_pad_or_mark_prompts_in_their_own_ways(run_lm_eval, tiny, task_dir, tmp_path, family):
    """All in one evaluation: lettered choices, an answer and words, with pictures where the model takes them."""
    model_args = {"pretrained": str(tiny(family)), "device": "cpu"}
    lm = Microscope.create_from_arg_obj({**model_args, "batch_size": 3, "metrics": "+".join(METRICS)})
    lm.adapter.model.double()
    templated = lm.adapter.encoder.has_template
    tasks = ["text_words", "text_said"] if "image" not in lm.adapter.modalities else ["letters", "said", "text_words"]
    if family in ("chameleon", "paligemma"):  # a mark at each text's end; a prompt that sees the answer
        tasks = ["letters", "said"]
    found = run_lm_eval(lm, *tasks, apply_chat_template=templated, output_path=tmp_path, limit=7)
    adapter = load_model("hf", {"pretrained": model_args["pretrained"]}, "cpu")
    adapter.model.double()
    for task in tasks:
        ours = measured(found, task, tmp_path)
        loaded = load_task(task, include_path=task_dir)
        reference = evaluate(adapter, loaded, metrics=METRICS, batch_size=8, limit=7, progress=False)
        assert ours.identity == reference.identity
        assert ours.inputs == reference.inputs
        assert_same_scores(ours, reference)


def test_the_tasks_of_one_run_are_kept_apart_and_the_limit_is_a_deviation(load, run_lm_eval, tmp_path):
    found = run_lm_eval(
        load("llava_next", batch_size=8, metrics="anisotropy"), "letters", "words", limit=6, output_path=tmp_path
    )
    for task in ("letters", "words"):
        result = measured(found, task, tmp_path)
        assert (result.identity.task.name, result.identity.task.version) == (task, "3")
        assert result.identity.n_examples == 6 and result.identity.protocol.limit == 6
        assert "limit=6" in result.signature


def test_a_prompt_whose_last_token_melts_with_the_answers_is_measured_whole(run_lm_eval, task_dir, tmp_path):
    """The zoo's tokenizer has words of several letters; those of the tiny checkpoints are bytes, which never melt."""
    given = {"pretrained": "zoo-llava-next", "device": "cpu", "batch_size": 4, "metrics": "anisotropy"}
    found = run_lm_eval(Microscope.create_from_arg_obj(given), "melting", limit=8, output_path=tmp_path)
    ours = measured(found, "melting", tmp_path)
    task = load_task("melting", include_path=task_dir)
    options = {"metrics": "anisotropy", "limit": 8, "apply_chat_template": False, "device": "cpu", "progress": False}
    reference = evaluate("zoo-llava-next", task, **options)
    assert ours.identity == reference.identity and ours.inputs == reference.inputs
    for a, b in zip(ours.scores, reference.scores, strict=True):
        assert a.n_tokens == b.n_tokens and a.value == pytest.approx(b.value, rel=1e-4)


def test_logits_that_are_no_numbers_give_no_accuracy(load, run_lm_eval, tmp_path):
    lm = load("llama", batch_size=4, metrics="anisotropy")
    lm.adapter.model.lm_head.weight.data *= float("nan")
    result = measured(run_lm_eval(lm, "text_words", output_path=tmp_path), "text_words", tmp_path)
    assert result.accuracy.value is None and "NaN" in result.accuracy.reason


def test_what_fails_at_the_end_loses_no_answers(load, run_lm_eval, monkeypatch):
    def full(*args, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("microscope_bench.lm_eval_plugin.recorder.measure", full)
    found = run_lm_eval(load("llama", metrics="anisotropy"), "text_words")
    assert found["config"]["microscope"]["text_words"] == {"status": "failed", "error": "RuntimeError: out of memory"}
    assert "acc,none" in found["results"]["text_words"]


def test_a_task_whose_states_cannot_be_taken_loses_no_answers(load, run_lm_eval, monkeypatch):
    def refuse(self, layer, hidden):
        raise CaptureError("no position is labelled as one")

    monkeypatch.setattr("microscope_bench.capture.states.BatchStates.keep_boundary", refuse)
    found = run_lm_eval(load("llama", metrics="anisotropy"), "text_words")
    summary = found["config"]["microscope"]["text_words"]
    assert summary == {"status": "failed", "error": "no position is labelled as one"}
    assert "acc,none" in found["results"]["text_words"]


def test_after_an_interruption_the_same_model_measures_again(load, run_lm_eval, monkeypatch):
    lm = load("llama", metrics="anisotropy")
    call, n = lm.adapter.model.forward, 0

    def interrupted(*args, **options):
        nonlocal n
        n += 1
        if n == 3:
            raise KeyboardInterrupt
        return call(*args, **options)

    monkeypatch.setattr(lm.adapter.model, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_lm_eval(lm, "text_words")
    assert run_lm_eval(lm, "text_words")["config"]["microscope"]["text_words"]["status"] == "complete"


def test_no_batch_holds_rows_with_and_without_pictures(load, run_lm_eval):
    lm = load("llava_next", batch_size=8, geometry=False)
    shown, encode = [], lm.adapter.encoder.__class__.__call__

    def noting(self, examples):
        shown.append({bool(example.images) for example in examples})
        return encode(self, examples)

    lm.adapter.encoder.__class__.__call__ = noting
    try:
        run_lm_eval(lm, "letters", "no_pictures")
    finally:
        lm.adapter.encoder.__class__.__call__ = encode
    assert {True} in shown and {False} in shown and {True, False} not in shown


def test_scores_are_split_by_what_lm_eval_found_right(load, run_lm_eval, tmp_path):
    lm = load("llava_next", batch_size=8, metrics="anisotropy", split_by="correct")
    found = run_lm_eval(lm, "letters", "said", output_path=tmp_path)
    result = measured(found, "letters", tmp_path)
    n_right = round(12 * found["results"]["letters"]["acc,none"])
    halves = {s.tokens: s.n_examples for s in result.scores if s.modality == "text"}
    assert 0 < n_right < 12 and halves["correct"] == halves["wrong"] == min(n_right, 12 - n_right)
    said = [s for s in measured(found, "said", tmp_path).scores if s.tokens == "correct"]
    assert said and all(s.value is None and "no answer was scored" in s.reason for s in said)


def test_a_task_of_choices_alone_is_answered_and_its_geometry_fails(load, run_lm_eval, task_dir):
    found = run_lm_eval(load("llama", batch_size=4, metrics="anisotropy"), "text_no_prompt")
    assert 0 <= found["results"]["text_no_prompt"]["acc,none"] <= 1
    summary = found["config"]["microscope"]["text_no_prompt"]
    assert summary["status"] == "failed" and "its prompt is empty" in summary["error"]


def test_without_an_output_path_there_is_a_summary_and_no_file(load, run_lm_eval):
    summary = run_lm_eval(load("llama", metrics="anisotropy"), "text_words")["config"]["microscope"]["text_words"]
    assert summary["status"] == "complete" and summary["path"] is None and summary["sha256"] is None


def test_geometry_can_be_left_out(load, run_lm_eval):
    found = run_lm_eval(load("llama", geometry=False), "text_words")
    assert "microscope" not in found["config"]


def test_a_prompt_of_another_wording_is_another_prompt(load, run_lm_eval, tmp_path):
    lm = load("llava_next", batch_size=8, metrics="anisotropy")
    plain = measured(run_lm_eval(lm, "letters", apply_chat_template=True, output_path=tmp_path), "letters", tmp_path)
    told = measured(
        run_lm_eval(
            load("llava_next", batch_size=8, metrics="anisotropy"),
            "letters",
            apply_chat_template=True,
            system_instruction="Be brief.",
            output_path=tmp_path,
        ),
        "letters",
        tmp_path,
    )
    assert plain.identity.prompt_sha256 != told.identity.prompt_sha256
    assert plain.inputs.tokens_sha256 != told.inputs.tokens_sha256


def test_pictures_of_which_much_is_cropped_are_told_once(load, run_lm_eval, monkeypatch, caplog):
    monkeypatch.setattr("microscope_bench.capture.cropped_pictures.MUCH", 0.3)  # the widest lose a third
    run_lm_eval(load("llava", metrics="anisotropy"), "letters")
    (told,) = [message for message in caplog.messages if "crops pictures" in message]
    assert "crops pictures to their middle: 3 of 12 lose" in told
