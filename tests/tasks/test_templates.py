"""lm-eval compiles each template of a task once, and what is rendered from it stays what it was."""

from __future__ import annotations

import lm_eval.utils
from lm_eval.utils import apply_template

from microscope_bench.tasks import load_task
from microscope_bench.tasks.lm_eval_layer import keep_compiled_templates


def test_templates_are_compiled_once_and_each_row_is_rendered_anew() -> None:
    task = load_task("shapesqa", task_args={"n": "20"})
    keep_compiled_templates()  # again: it does not wrap what is wrapped
    kept = lm_eval.utils.env.from_string
    assert not hasattr(kept.__wrapped__, "cache_info")
    texts = [task.example(index).text for index in range(2)]
    compiled = kept.cache_info().misses
    texts += [task.example(index).text for index in range(2, 20)]
    assert kept.cache_info().misses == compiled
    kept.cache_clear()
    assert [task.example(index).text for index in range(20)] == texts and len(set(texts)) > 5
    assert [apply_template("{{a}} {{a + 1}}", {"a": a}) for a in (1, 2)] == ["1 2", "2 3"]
