"""Groups, tags and patterns become their tasks; naming one of ours reads none of lm-eval's task files."""

from __future__ import annotations

import logging

import pytest

from microscope_bench.errors import TaskError, UnknownNameError
from microscope_bench.tasks import list_tasks, lm_eval_layer, load_task, load_tasks
from microscope_bench.tasks.expansion import TaskNames
from microscope_bench.tasks.lm_eval_layer import LmEvalNames


@pytest.fixture
def no_index(monkeypatch):
    """lm-eval's index cannot be built."""

    def built(*_, **__):
        raise AssertionError("lm-eval's 14,000 task files were indexed")

    for module in ("expansion", "task_files"):
        monkeypatch.setattr(f"microscope_bench.tasks.{module}.lm_eval_names", built)


@pytest.fixture
def tree(write_task, tmp_path):
    """Tasks red, green and blue; green and blue carry a tag; a group in a file of its own."""
    for name in ("red", "green", "blue"):
        write_task(name, extra="" if name == "red" else "tag: cold\n")
    (tmp_path / "_colours.yaml").write_text(
        "group: colours\ntask:\n  - red\n  - cold\n  - group: warm\n    task: [{task: red, description: 'Warm. '}]\n"
    )
    return tmp_path


def names(tree, *given):
    return [spec.name for spec in TaskNames(tree).expand(given)]


def test_groups_and_tags_expand_in_their_order_without_repetition_and_say_so(tree, caplog, no_index):
    caplog.set_level(logging.INFO)
    (tree / "_all.yaml").write_text("group: everything\ntask: [red, cold, blue]\n")
    assert names(tree, "everything") == names(tree, "everything", "green", "red") == ["red", "blue", "green"]
    assert names(tree, "cold") == ["blue", "green"]
    assert "everything: 4 tasks: red, blue, green, blue" in caplog.text
    assert [task.name for task in load_tasks(["cold"], include_path=tree)] == ["blue", "green"]
    with pytest.raises(TaskError, match=r"'cold' stands for 2 tasks; .*load_tasks: blue, green"):
        load_task("cold", include_path=tree)


def test_a_groups_own_fields_hold_for_its_members(tree, no_index):
    (tree / "group.yaml").write_text(
        "group: changed\ndescription: 'All. '\ntask:\n  - red\n  - {task: green, description: 'Green. '}\n"
    )
    (red, green) = load_tasks(["changed"], include_path=tree)
    assert red.example(0).text.startswith("All. One?") and green.example(0).text.startswith("Green. One?")


def test_a_task_written_out_in_a_group(tree, monkeypatch):
    body = (tree / "red.yaml").read_text().replace("task: red", "task: inner").strip().splitlines()
    member = "\n".join(f"    {line}" for line in body).replace("    task", "  - task", 1)
    (tree / "group.yaml").write_text(f"group: outer\ntask:\n{member}\n")
    # lm-eval has no task called inner
    monkeypatch.setattr("microscope_bench.tasks.expansion.lm_eval_names", lambda: LmEvalNames({}, {}, {}))
    (task,) = load_tasks(["outer"], include_path=tree)
    assert task.name == "outer::inner" and len(task) == 2


def test_one_task_in_two_ways_is_refused(tree, no_index):
    with pytest.raises(TaskError, match="task red is asked for twice with different settings, once as colours"):
        names(tree, "colours")


def test_broken_groups_are_refused(tree, no_index):
    (tree / "a.yaml").write_text("group: a\ntask: [b]\n")
    (tree / "b.yaml").write_text("group: b\ntask: [a]\n")
    (tree / "c.yaml").write_text("group: c\ntask: [[red]]\n")
    (tree / "d.yaml").write_text("group: d\ntask: red\n")
    for name, message in {"a": "holds itself: a > b > a", "c": "neither a name", "d": "must list the members"}.items():
        with pytest.raises(TaskError, match=message):
            names(tree, name)


def test_listing_and_loading_ours_reads_no_file_of_lm_eval(no_index, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a TaskManager was made")

    monkeypatch.setattr("lm_eval.tasks.TaskManager.__init__", refused)
    assert {"shapesqa", "scienceqa_img"} <= {listing.name for listing in list_tasks()}
    (task,) = load_tasks(["shapesqa"], task_args={"n": "7"})
    assert len(task) == 7


def test_lm_evals_groups_tags_and_patterns():
    """The index is built once for all of these; that costs seconds."""
    everything = TaskNames()
    mmmu = [spec.name for spec in everything.expand(["mmmu_val"])]
    assert len(mmmu) == len(set(mmmu)) == 30 and mmmu[0] == "mmmu_val_art"
    assert [spec.name for spec in everything.expand(["chartqa", "hellaswag"])] == ["chartqa", "hellaswag"]
    assert [spec.name for spec in everything.expand(["ai2_arc"])] == ["arc_challenge", "arc_easy"]
    assert [spec.name for spec in everything.expand(["mmmu_val_art*"])] == [
        *["mmmu_val_art", "mmmu_val_design", "mmmu_val_music", "mmmu_val_art_theory"]
    ]
    shots = {spec.name: spec.changes.get("num_fewshot") for spec in everything.expand(["openllm"])}
    assert shots["arc_challenge"] == 25 and shots["mmlu_anatomy"] == 5 and shots["gsm8k"] == 5
    with pytest.raises(UnknownNameError, match="Did you mean hellaswag"):
        everything.expand(["hellaswagg"])
    with pytest.raises(TaskError, match="no task, group or tag has a name like nothing_"):
        everything.expand(["nothing_*"])


def test_the_index_is_kept_for_the_version_that_is_installed(monkeypatch, tmp_path):
    built = []

    def indexed():
        built.append(1)
        return LmEvalNames({"a": "/x/a.yaml"}, {"g": "/x/g.yaml"}, {"t": ["a"]})

    def names():
        lm_eval_layer.lm_eval_names.cache_clear()
        return lm_eval_layer.lm_eval_names()

    monkeypatch.setenv("MICROSCOPE_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(lm_eval_layer, "_indexed", indexed)
    try:
        assert names() == names() and names().tasks == {"a": "/x/a.yaml"} and len(built) == 1
        (file,) = tmp_path.iterdir()
        file.write_text(file.read_text()[:-9])  # damaged
        assert names() == names() and len(built) == 2
        monkeypatch.setattr(lm_eval_layer, "version", lambda package: "9.9")
        assert names() and len(built) == 3
        (tmp_path / "lm-eval-9.9.json").write_text(file.read_text().replace('"root":"', '"root":"/elsewhere'))
        assert names() and len(built) == 4
    finally:
        lm_eval_layer.lm_eval_names.cache_clear()
