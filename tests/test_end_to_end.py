"""The whole way from a checkpoint in its real format to scores: what must not depend on how it is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from microscope_bench import evaluate
from microscope_bench.adapters.presets import load_model
from microscope_bench.tasks import load_task

SCIENCEQA = Path(os.environ.get("MICROSCOPE_BENCH_SCIENCEQA") or Path(__file__).parents[2] / "shared/data/scienceqa")
MODELS = ("zoo-llava-next-untrained", "zoo-omnifusion-untrained")


@pytest.fixture(scope="module")
def models():
    return {name: load_model(name, device="cpu") for name in MODELS}


def scores(model, task, **options):
    return evaluate(model, task, limit=24, progress=False, **options).scores


def assert_agree(ours, theirs, tolerance):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.metric, a.estimator, a.modality, a.layer) == (b.metric, b.estimator, b.modality, b.layer)
        assert a.n_tokens == b.n_tokens
        assert a.value is b.value is None or a.value == pytest.approx(b.value, rel=tolerance), a


@pytest.mark.parametrize("name", [MODELS[0], pytest.param(MODELS[1], marks=pytest.mark.heavy)])
def test_batch_size_changes_no_score_by_more_than_one_in_ten_thousand(models, name):
    task = load_task("shapesqa")
    one = scores(models[name], task, batch_size=1)
    for batch_size in (3, 8):
        assert_agree(one, scores(models[name], task, batch_size=batch_size), 1e-4)


@pytest.mark.skipif(
    not (SCIENCEQA / "problems.json").is_file(), reason="set MICROSCOPE_BENCH_SCIENCEQA to real ScienceQA data"
)
@pytest.mark.parametrize("name", [MODELS[0], pytest.param(MODELS[1], marks=pytest.mark.heavy)])
def test_the_same_with_real_pictures_of_every_size(models, name):
    task = load_task("scienceqa_img", task_args={"data_dir": str(SCIENCEQA)})
    assert_agree(scores(models[name], task, batch_size=1), scores(models[name], task, batch_size=8), 1e-4)


@pytest.mark.parametrize("family", ["llava", "llava_next", "llama"])
def test_any_checkpoint_directory_can_be_measured(tiny, family, tmp_path):
    (tmp_path / "text.yaml").write_text(
        "task: words\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {tmp_path / 'rows.jsonl'}\ntest_split: test\noutput_type: generate_until\n"
        "doc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\n"
    )
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"q": "What is {i} times {i}?", "a": "x"}}\n' for i in range(30)))
    task = str(tmp_path / "text.yaml") if family == "llama" else "shapesqa"
    result = evaluate("hf", task, limit=24, model_args={"pretrained": str(tiny(family))}, device="cpu", progress=False)
    modalities = {score.modality for score in result.scores}
    assert modalities == ({"text"} if family == "llama" else {"text", "image", "joint"})
    assert all(score.value is not None for score in result.scores if score.estimator == "in_sample")
    assert (result.accuracy is None) == (family == "llama")
