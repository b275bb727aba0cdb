from __future__ import annotations

import json
import re
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
from msgspec import structs

from microscope_bench import RunConfig, evaluate, load_result
from microscope_bench.errors import CaptureError, MetricError, MicroscopeError, ResultError, StoreError
from microscope_bench.run.measure_store import measure_store
from microscope_bench.run.pipeline import run_resolved
from microscope_bench.run.resolve import Stopwatch, resolve_loaded
from tests.toy import LAYERS, PATCHES, ToyAdapter, ToyTask, result_files, run

ONE = {"metrics": "anisotropy"}
"""Where the test is of the states and not of what is made of them."""


@pytest.fixture(scope="module")
def reference():
    """A run that nothing disturbs."""
    return run(None)


def test_a_run_writes_one_valid_file_that_loads_as_the_result_and_leaves_no_store(tmp_path):
    result = run(tmp_path)
    (file,) = result_files(tmp_path)
    revision = result.identity.model.revision
    assert revision.startswith("sha256-0000000000000000+weights-"), "the toy names no weights that it has"
    assert file.relative_to(tmp_path).as_posix() == f"toy/{revision}/toy_task.json"
    assert load_result(file) == result
    assert not list(tmp_path.rglob("*.safetensors"))
    assert result.status == "complete"
    assert result.identity.n_examples == 40
    assert result.identity.model.trained is False
    assert "untrained" in result.signature
    assert {s.layer for s in result.scores} == set(range(LAYERS + 1))


def test_inputs_and_accuracy_are_counted(tmp_path):
    task = ToyTask(40, broken={})
    result = run(None, task=task)
    text = sum(len(task.example(i).text) - len("<image>") for i in range(40))
    assert result.inputs.tokens_seen == {"image": 40 * PATCHES, "special": 40, "text": text}
    assert result.inputs.images_converted == {"P": 40}
    adapter = ToyAdapter()
    right = 0
    for i in range(40):
        example = task.example(i)
        logits = adapter.forward(adapter.encode([example]), logits=True)[0]
        right += int(logits[[ord(c) for c in example.choices]].argmax()) == example.answer
    assert (result.accuracy.value, result.accuracy.n) == (right / 40, 40)
    assert result.accuracy.stderr == pytest.approx((right / 40 * (1 - right / 40) / 39) ** 0.5)


def test_accuracy_is_null_with_a_reason_when_a_letter_cannot_be_scored():
    result = run(task=ToyTask(10, broken={4: "unscorable"}), **ONE)
    assert result.accuracy.value is None
    assert "q4: two tokens" in result.accuracy.reason


@pytest.mark.parametrize("break_at", [1, 2, 4, 5])
def test_an_interrupted_run_resumes_and_gives_the_same_scores(tmp_path, break_at, reference):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", ToyAdapter(break_at=break_at))
    assert result_files(tmp_path / "b") == []
    resumed = run(tmp_path / "b")
    assert resumed.scores == reference.scores
    assert resumed.identity == reference.identity
    assert resumed.inputs == reference.inputs
    assert resumed.accuracy == reference.accuracy


def test_deviations_show_in_the_signature_and_do_not_overwrite_the_standard_result(tmp_path):
    standard = run(tmp_path, **ONE)
    fewer = run(tmp_path, limit=20, tokens_per_example=3, seed=1, **ONE)
    for text in ("limit=20", "tokens_per_example=3", "seed=1"):
        assert text in fewer.signature and text not in standard.signature
    assert len(result_files(tmp_path)) == 2


def test_a_kept_store_can_be_measured_again_without_the_model(tmp_path):
    first = run(tmp_path, keep_store=True)
    (store,) = (tmp_path / ".stores").iterdir()
    again = measure_store(store, progress=False)
    assert again.scores == first.scores
    assert again.signature == first.signature
    only = measure_store(store, metrics=["anisotropy"], progress=False)
    assert {s.metric for s in only.scores} == {"anisotropy"}


def test_an_unfinished_store_is_not_measured(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "r", ToyAdapter(break_at=4), store=tmp_path / "s")
    with pytest.raises(StoreError, match="of part 1 of 3, 8 of 16 examples are there"):
        measure_store(tmp_path / "s", progress=False)


def test_a_failed_run_leaves_its_error_and_no_table(tmp_path):
    broken = ToyTask(40, broken=dict.fromkeys(range(5), "picture"))
    with pytest.raises(CaptureError):
        run(tmp_path, task=broken)
    (file,) = result_files(tmp_path)
    failed = load_result(file)
    assert failed.status == "failed" and failed.scores == ()
    assert failed.error.type == "CaptureError" and failed.error.where == "capture"
    assert "its picture does not open" in failed.error.message


def test_a_failure_does_not_replace_a_complete_result(tmp_path):
    complete = run(tmp_path, **ONE)
    (file,) = result_files(tmp_path)
    with pytest.raises(CaptureError):
        run(tmp_path, task=ToyTask(40, broken=dict.fromkeys(range(5), "picture")))
    assert load_result(file) == complete


def test_skipped_examples_are_named_in_the_result():
    result = run(task=ToyTask(200, broken={7: "picture"}), **ONE)
    assert [(s.id, s.reason) for s in result.inputs.skipped] == [("q7", "its picture does not open")]
    assert (result.identity.n_examples, result.inputs.n_examples) == (200, 199)


def test_a_store_that_does_not_fit_the_disk_is_refused_before_the_first_pass(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 1000))
    adapter = ToyAdapter()
    with pytest.raises(StoreError, match="--tokens_per_example"):
        run(tmp_path, adapter)
    assert adapter.passes == 0


def test_a_results_directory_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="file"):
        evaluate("no such model", "no such task", output_path=tmp_path / "file")


def test_two_runs_at_once_in_one_store_are_refused(tmp_path):
    class Nested(ToyAdapter):
        def forward(self, batch, *, logits):
            run(None, ToyAdapter(), store=tmp_path / "s")

    with pytest.raises(StoreError, match="another run is writing"):
        run(None, Nested(), store=tmp_path / "s")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"limit": 0}, "limit"),
        ({"tokens_per_example": 0}, "tokens_per_example"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_skipped": 2.0}, "max_skipped"),
        ({"protocol": "geometry/2"}, "geometry/1"),
        ({"metrics": ["anisotropie"]}, "anisotropy"),
        ({"metrics": []}, "no metric"),
    ],
)
def test_wrong_options_are_refused_with_their_name(options, message):
    with pytest.raises(MicroscopeError, match=message):
        run(**options)


def test_the_result_holds_no_path_of_this_machine(tmp_path):
    result = run(tmp_path / "secret-directory", store=tmp_path / "secret-store")
    assert str(tmp_path.parent) not in json.dumps(result.to_dict())


def test_a_task_whose_wording_changed_is_not_served_from_an_old_store(tmp_path):
    class Reworded(ToyTask):
        def example(self, index):
            example = super().example(index)
            return replace(example, text=example.text + " Please.")

    first = run(tmp_path / "a", store=tmp_path / "s", keep_store=True, **ONE)
    with pytest.raises(StoreError, match="inputs_sha256"):
        run(tmp_path / "a", task=Reworded(40), store=tmp_path / "s", **ONE)
    reworded = run(tmp_path / "a", task=Reworded(40), **ONE)
    assert reworded.identity.prompt_sha256 != first.identity.prompt_sha256
    assert reworded.scores != first.scores
    assert reworded.inputs.media_sha256 == first.inputs.media_sha256, "the pictures are the same"


@pytest.mark.parametrize("change", [{"text": "<image>late"}, {"answer": 0}, {"choices": ("A", "B", "C", "D")}])
def test_an_edit_that_concerns_late_examples_alone_has_their_parts_captured_again(tmp_path, change):
    class Edited(ToyTask):
        def example(self, index):
            example = super().example(index)
            return replace(example, **change) if index >= 34 else example

    run(None, store=tmp_path / "s", keep_store=True, **ONE)
    adapter = ToyAdapter()
    again = run(None, adapter, Edited(40), store=tmp_path / "s", keep_store=True, **ONE)
    assert adapter.passes == 1, "the last part of eight examples, in one batch"
    fresh = run(None, task=Edited(40), **ONE)
    assert again.scores == fresh.scores and again.accuracy == fresh.accuracy
    assert again.identity == fresh.identity


def test_an_edit_that_concerns_the_first_part_alone_has_it_captured_again(tmp_path):
    """Behind the examples by which a store is known, and before the second part."""

    class Edited(ToyTask):
        def example(self, index):
            example = super().example(index)
            return replace(example, text="<image>early") if 8 <= index < 16 else example

    run(None, store=tmp_path / "s", keep_store=True)
    adapter = ToyAdapter()
    again = run(None, adapter, Edited(40), store=tmp_path / "s", keep_store=True)
    assert adapter.passes == 2, "one part of sixteen examples, in batches of eight"
    assert again.scores == run(None, task=Edited(40)).scores


def test_stores_of_one_model_lie_apart_where_anything_else_differs(tmp_path):
    whole, few = (run(tmp_path, keep_store=True, limit=limit) for limit in (None, 20))
    stores = sorted((tmp_path / ".stores").iterdir())
    assert len(stores) == 2
    assert {measure_store(store, progress=False).short_id for store in stores} == {whole.short_id, few.short_id}


def test_the_time_to_load_what_is_given_loaded_is_noted():
    config = RunConfig(metrics="anisotropy", progress=False)
    resolved = resolve_loaded(ToyAdapter(), ToyTask(40), config, Stopwatch(load=7.0))
    assert 7 <= run_resolved(resolved).timing.seconds["load"] < 8


def test_a_store_measured_again_says_who_captured_it(tmp_path):
    first = run(None, store=tmp_path / "s", keep_store=True, **ONE)
    again = measure_store(tmp_path / "s", progress=False, metrics="anisotropy")
    assert first.environment.captured_with is None
    assert again.environment.command == "microscope-bench measure --metrics anisotropy"
    assert again.environment.captured_with["command"] == first.environment.command
    assert again.timing.seconds["capture"] == pytest.approx(first.timing.seconds["capture"], abs=1e-3)


def test_options_of_a_model_are_part_of_its_identity(tmp_path):
    plain, changed = ToyAdapter(), ToyAdapter()
    changed.info = structs.replace(changed.info, options={"use_chat_template": "false"})
    first, second = run(tmp_path, plain, **ONE), run(tmp_path, changed, **ONE)
    assert "|use_chat_template=false|" in second.signature
    assert first.short_id != second.short_id
    assert len(result_files(tmp_path)) == 2


def test_raising_max_skipped_goes_on_where_the_run_stopped(tmp_path):
    task = ToyTask(40, broken=dict.fromkeys(range(36, 40), "picture"))
    with pytest.raises(CaptureError, match="raise max_skipped"):
        run(tmp_path, task=task, **ONE)
    adapter = ToyAdapter()
    assert run(tmp_path, adapter, task, max_skipped=0.5, **ONE).inputs.n_examples == 36
    assert adapter.passes == 1, "only the last part of eight examples was missing"


@pytest.mark.parametrize(
    ("key", "value"), [("about", 3), ("run", {}), ("n_examples", -4), ("part_examples", 0), ("sha256", None)]
)
def test_a_damaged_manifest_is_refused(tmp_path, key, value):
    run(None, store=tmp_path / "s", keep_store=True, **ONE)
    file = tmp_path / "s/manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(StoreError, match="damaged"):
        measure_store(tmp_path / "s")
    with pytest.raises(StoreError, match="damaged"):
        run(None, store=tmp_path / "s")


def test_a_store_where_none_can_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--store"):
        run(None, store=tmp_path / "file")


def test_when_nothing_could_be_measured_the_first_reason_is_told(tmp_path):
    with pytest.raises(StoreError, match="First: q0: its picture does not open"):
        run(tmp_path, task=ToyTask(10, broken=dict.fromkeys(range(10), "picture")), max_skipped=1.0)


def test_arguments_may_be_text_or_a_mapping_and_one_metric_a_name():
    adapter = ToyAdapter()
    results = [
        evaluate(adapter, "shapesqa", limit=20, task_args=arguments, metrics="anisotropy", progress=False)
        for arguments in ("n=30", {"n": 30})
    ]
    assert results[0].scores == results[1].scores
    assert results[0].identity.dataset.revision.endswith("n30-size64")


def test_a_device_that_is_not_there_is_refused(tmp_path):
    run(None, store=tmp_path / "s", keep_store=True, **ONE)
    with pytest.raises(MicroscopeError, match=r"unknown device 'gpu'\. Did you mean cuda"):
        measure_store(tmp_path / "s", device="gpu", progress=False)


def test_a_bound_on_memory_that_nothing_fits_is_refused_before_the_first_pass():
    adapter = ToyAdapter(break_at=1)
    with pytest.raises(MetricError, match=r"the least is \d+MB\. Give at least that$") as refused:
        run(None, adapter, measure_memory="1KB")
    least = re.search(r"\d+MB", str(refused.value))
    assert run(None, measure_memory=least[0])


@pytest.mark.parametrize(
    "model, task, said",
    [
        (None, "shapesqa", "model must be a name, FILE.py:NAME, a model of transformers or a loaded Adapter, not None"),
        (object(), "shapesqa", "model must be a name, .* or a loaded Adapter, not <object"),
        (ToyAdapter(), ["shapesqa"], r"task must be one name, .* not \['shapesqa'\]"),
    ],
)
def test_what_is_no_model_and_what_is_no_task_is_refused_by_name(model, task, said):
    with pytest.raises(MicroscopeError, match=said):
        evaluate(model, task)
