"""What the backend answers lm-eval, held against transformers and against lm-eval's own class."""

from __future__ import annotations

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from tests.tiny.checkpoints import saying


def answers_of(found, task):
    """What every document of a task was answered, in their order."""
    return [sample["resps"] for sample in sorted(found["samples"][task], key=lambda s: s["doc_id"])]


def noted(lm, method):
    """Lets a method of the backend note (text, second argument, pictures, answer) of each request it answers."""
    notes, answer = [], getattr(lm, method)

    def noting(requests, **options):
        found = answer(requests, **options)
        notes.extend((*r.args[:2], list(r.args[2]["visual"]), a) for r, a in zip(requests, found, strict=True))
        return found

    setattr(lm, method, noting)
    return notes


def loss_of(lm, context, continuation, pictures, *, templated):
    """Minus the loss that transformers computes where only the continuation is labelled."""
    from lm_eval.models.hf_vlms import DEFAULT_IMAGE_PLACEHOLDER

    processor, model = lm.adapter.processor, lm.adapter.model
    moved = len(context) - len(context.rstrip())
    whole = context + continuation
    short = context[: len(context) - moved]
    if not templated:
        whole, short = (text.replace(DEFAULT_IMAGE_PLACEHOLDER, processor.image_token) for text in (whole, short))
    begun = whole.startswith(processor.tokenizer.bos_token or "\0")  # the template wrote it
    inputs, before = (
        processor(text=[t], images=[pictures], return_tensors="pt", add_special_tokens=not begun)
        for t in (whole, short)
    )
    labels = inputs["input_ids"].clone()
    n_before = before["input_ids"].shape[1]
    labels[:, :n_before] = -100
    with torch.no_grad():
        loss = model(**inputs, labels=labels).loss
    return -float(loss) * (labels.shape[1] - n_before)


@pytest.mark.parametrize("templated", [False, True], ids=["raw", "chat"])
@pytest.mark.parametrize("family", ["llava_next", "qwen2_vl"])
def test_with_pictures_each_log_likelihood_is_the_loss_from_labels(load, run_lm_eval, family, templated):
    lm = load(family, batch_size=3, geometry=False)
    notes = noted(lm, "loglikelihood")
    run_lm_eval(lm, "letters", "words", apply_chat_template=templated)
    assert len(notes) == 2 * sum(2 + i % 3 for i in range(12))
    for *request, (logprob, _) in notes:
        assert logprob == pytest.approx(loss_of(lm, *request, templated=templated), abs=1e-4)


@pytest.mark.parametrize("task", ["letters", "words", "said"])
def test_the_batch_size_changes_no_answer(load, run_lm_eval, task):
    one, eight = (answers_of(run_lm_eval(load("llava_next", batch_size=n, geometry=False), task), task) for n in (1, 8))
    assert len(one) == 12
    for a, b in zip(one, eight, strict=True):
        for [x], [y] in zip(a, b, strict=True):
            if task == "said":
                assert x == y
            else:
                assert x[0] == pytest.approx(y[0], abs=1e-5) and x[1] == y[1]


@pytest.mark.parametrize("templated", [False, True], ids=["raw", "chat"])
def test_letters_take_one_pass_a_document_and_equal_choices_scored_alone(load, run_lm_eval, templated):
    lm = load("llava_next", batch_size=1, geometry=False)
    rows = []
    lm.adapter.model.register_forward_hook(
        lambda module, args, options, output: rows.append(len(options["input_ids"])), with_kwargs=True
    )
    notes = noted(lm, "loglikelihood")
    run_lm_eval(lm, "letters", apply_chat_template=templated)
    assert sum(rows) == 12
    for *request, (logprob, _) in notes:
        assert logprob == pytest.approx(loss_of(lm, *request, templated=templated), abs=1e-4)


@pytest.mark.parametrize("geometry", [False, True], ids=["plain", "geometry"])
@pytest.mark.parametrize("task", ["text_words", "text_said"])
@pytest.mark.parametrize("family", ["llama", "llava_next"])
def test_in_text_alone_the_answers_are_exactly_those_of_lm_evals_class(load, run_lm_eval, tiny, family, task, geometry):
    ours = run_lm_eval(load(family, batch_size=4, geometry=geometry, metrics="anisotropy"), task)
    lm = load(family, geometry=False)
    stock = HFLM(pretrained=lm.adapter.model, tokenizer=lm.adapter.tokenizer, backend="causal", batch_size=4)
    assert answers_of(ours, task) == answers_of(run_lm_eval(stock, task), task)


def test_greedy_decoding_says_what_transformers_says(load, run_lm_eval):
    lm = load("llava_next", batch_size=4, geometry=False)
    notes = noted(lm, "generate_until")
    run_lm_eval(lm, "said", limit=4)
    processor, model = lm.adapter.processor, lm.adapter.model
    for context, _, pictures, answer in notes:
        inputs = processor(text=[context], images=[pictures], return_tensors="pt")
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        said = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer == said.split(".")[0]


@pytest.mark.parametrize(
    ("family", "tasks"), [("llava", ("letters", "words", "said")), ("llama", ("text_words", "text_said"))]
)
def test_lengths_that_a_checkpoint_has_saved_change_no_answer(family, tasks, load, tiny, run_lm_eval, tmp_path):
    settings = {"truncation": True, "max_length": 16, "truncation_side": "left", "padding": "max_length"}
    copy = saying(tiny(family), tmp_path / "copy", settings)
    plain, cut = (
        run_lm_eval(load(family, geometry=False, **named), *tasks) for named in ({}, {"pretrained": str(copy)})
    )
    for task in tasks:
        assert answers_of(plain, task) == answers_of(cut, task)
