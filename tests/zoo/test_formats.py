"""Every format: what training feeds a model is what its processor feeds it, and the checkpoint is a real one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from microscope_bench.adapters.base import IMAGE
from microscope_bench.adapters.presets import load_model
from microscope_bench.check import check
from microscope_bench.errors import UnknownNameError
from microscope_bench.example import Example
from microscope_bench.tasks import load_task
from microscope_bench.zoo import FUSIONS, parts
from microscope_bench.zoo.formats import FORMATS, find_format
from microscope_bench.zoo.shipped import untrained_checkpoint

NAMES = list(FUSIONS)


@pytest.fixture(scope="module")
def twins():
    loaded = {}

    def get(name):
        if name not in loaded:
            loaded[name] = load_model(f"zoo-{name}-untrained", device="cpu")
        return loaded[name]

    return get


@pytest.fixture(scope="module")
def examples():
    task = load_task("shapesqa", task_args={"n": 63})
    return [task.example(index) for index in range(12)]


def test_the_names_agree():
    assert list(FORMATS) == NAMES
    with pytest.raises(UnknownNameError, match=r"unknown fusion 'q-former'\. Did you mean qformer"):
        find_format("q-former")


@pytest.mark.parametrize("name", NAMES)
def test_the_frame_is_what_the_processor_writes(twins, examples, name):
    tokenizer, adapter = parts.tokenizer(), twins(name)
    frame = find_format(name).frame(tokenizer)
    batch = adapter.encode(examples)
    for example, tokens, prompt in zip(examples, batch.tokens, batch.prompts, strict=True):
        text = tokenizer(example.text.replace("<image>", ""), add_special_tokens=False)["input_ids"]
        assert list(tokens) == [*frame.before, *text, *frame.after]
        letters = adapter.choice_token_ids(prompt, example.choices)
        assert letters == tokenizer.convert_tokens_to_ids(list(example.choices))


@pytest.mark.parametrize("name", NAMES)
def test_the_pictures_are_what_the_processor_makes(twins, examples, name):
    media = find_format(name).media([np.asarray(example.images[0]) for example in examples])
    inputs = twins(name).encode(examples).inputs
    for key, value in media.items():
        made = inputs[key] if key in inputs else inputs["image_patches"]
        assert value.shape == made.shape
        torch.testing.assert_close(value, made.to(value.dtype), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(10, 64), (64, 10), (300, 20), (20, 300), (64, 64), (500, 400)])
def test_pictures_of_every_shape_are_taken(twins, name, size):
    text = "<image>Which shape is it?\nA. circle\nB. square\n"
    batch = twins(name).encode([Example("odd", text, (Image.new("RGB", size, "red"),))])
    assert (batch.labels == IMAGE).any()


@pytest.mark.parametrize("name", NAMES)
def test_logits_by_the_training_pass_are_those_of_the_adapter(twins, examples, name):
    """One lesson batch of one question, through the mask that training uses, against the plain forward pass."""
    known, adapter, tokenizer = find_format(name), twins(name), parts.tokenizer()
    example = examples[0]
    frame = known.frame(tokenizer)
    text = tokenizer(example.text.replace("<image>", ""), add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*frame.before, *text, *frame.after]])
    length = ids.shape[1]
    with torch.no_grad():
        logits = known.forward(
            adapter.model,
            input_ids=ids,
            attention_mask=torch.ones(1, 1, length, length, dtype=torch.bool).tril(),
            position_ids=torch.arange(length)[None],
            **known.media([np.asarray(example.images[0])]),
        )
    plain = adapter.forward(adapter.encode([example]), logits=True)
    torch.testing.assert_close(logits[:, -1], plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_each_twin_keeps_the_contract_of_an_adapter(twins, name):
    report = check(twins(name))
    assert report.passed, report


@pytest.mark.parametrize("name", NAMES)
def test_all_begin_with_the_same_language_model(twins, name):
    model = twins(name).model
    decoder = model.language_model.model if name in ("omnifusion", "qformer") else model.get_decoder()
    whole = parts.language_model(0)
    head = model.lm_head if hasattr(model, "lm_head") else model.language_model.lm_head
    assert torch.equal(head.weight, whole.lm_head.weight.half().float())
    expected, found = whole.model.state_dict(), decoder.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key].half().float()) for key in expected)


@pytest.mark.parametrize("name", ["llava", "llava-next", "omnifusion"])
def test_three_formats_have_the_same_tower(twins, name):
    tower = find_format(name).tower_of(twins(name).model)
    expected = parts.vision_tower("clip", 0).state_dict()
    found = tower.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key].half().float()) for key in expected)


def test_queries_of_the_q_former_are_not_all_the_same():
    queries = find_format("qformer").untrained(0).query_tokens[0]
    assert torch.pdist(queries).min() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bytes_every_time(name, tmp_path, monkeypatch):
    first = untrained_checkpoint(f"zoo-{name}-untrained")
    monkeypatch.setenv("MICROSCOPE_BENCH_CACHE", str(tmp_path))
    torch.manual_seed(99)
    again = untrained_checkpoint(f"zoo-{name}-untrained")
    assert again != first
    assert (again / "manifest.json").read_text() == (first / "manifest.json").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_is_another_model(name):
    known = find_format(name)
    first, second = (dict(known.untrained(seed).named_parameters()) for seed in (0, 1))
    assert all(
        not torch.equal(first[key], second[key]) for key in first if "norm" not in key.lower() and "bias" not in key
    )
