"""Tasks that the tests write themselves, and evaluations of them by lm-eval on tiny checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

UTILS = """
import datasets
import numpy as np
from PIL import Image

WORDS = ["red", "a green one", "blue", "none of them"]


def load(n=12, **_):
    rows = [
        {"key": f"q{i}", "question": "Which " + "very " * (i % 5) + f"colour, {i}?", "choices": WORDS[: 2 + i % 3],
         "answer": i % 2, "seed": i}
        for i in range(n)
    ]
    return {"test": datasets.Dataset.from_list(rows)}


def load_many(**_):
    return load(26)


def pictures(doc):
    rng = np.random.default_rng(doc["seed"])
    return [Image.fromarray(rng.integers(0, 256, (40 + 8 * (doc["seed"] % 4), 60, 3), dtype=np.uint8))]


def sometimes(doc):
    return pictures(doc) if doc["seed"] % 2 else []


def none(doc):
    return []


def mark(doc):
    return ("<image>" if doc["seed"] % 2 else "") + doc["question"]
"""
TASK = """
task: {name}
custom_dataset: !function utils.load
test_split: test
output_type: {kind}
doc_to_text: {text}
doc_to_target: {target}
num_fewshot: 0
fewshot_config:
  samples: []
metadata:
  version: 3
  id_column: key
{extra}
"""
CHOICES = "doc_to_choice: choices\nmetric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
LETTERS = CHOICES.replace("choices", "\"{{ 'ABCD'[:choices | length] | list }}\"", 1)
SAYS = (
    "generation_kwargs:\n  until: ['.']\n  max_gen_toks: 4\n  do_sample: false\n"
    "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
)
SHOWS = "doc_to_image: !function utils.pictures\n"
ASK, SHOW = '"{{ question }}\\nAnswer:"', '"<image>{{ question }}\\nAnswer:"'


@pytest.fixture(scope="session")
def task_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks with pictures (letters, words, said, mixed, shots) and without (text_words, text_said, ...)."""
    root = tmp_path_factory.mktemp("lm_eval_tasks")
    (root / "utils.py").write_text(UTILS)
    for name, kind, text, target, extra in (
        ("letters", "multiple_choice", SHOW, "answer", SHOWS + LETTERS),
        ("words", "multiple_choice", SHOW, "answer", SHOWS + CHOICES),
        ("said", "generate_until", SHOW, "question", SHOWS + SAYS),
        (
            "mixed",
            "multiple_choice",
            "!function utils.mark",
            "answer",
            "doc_to_image: !function utils.sometimes\n" + LETTERS,
        ),
        ("text_words", "multiple_choice", ASK, "answer", CHOICES),
        ("no_pictures", "multiple_choice", ASK, "answer", "doc_to_image: !function utils.none\n" + LETTERS),
        ("text_no_prompt", "multiple_choice", "''", "answer", CHOICES),
        ("text_said", "generate_until", ASK, "question", SAYS),
        ("text_rolling", "loglikelihood_rolling", "''", "question", "metric_list:\n  - metric: bits_per_byte\n"),
    ):
        content = TASK.format(name=name, kind=kind, text=text, target=target, extra=extra)
        (root / f"{name}.yaml").write_text(content)
    many = TASK.format(name="text_many", kind="generate_until", text=ASK, target="question", extra=SAYS)
    (root / "text_many.yaml").write_text(many.replace("utils.load", "utils.load_many"))
    shots = TASK.format(name="shots", kind="multiple_choice", text=SHOW, target="answer", extra=SHOWS + LETTERS)
    (root / "shots.yaml").write_text(
        shots.replace("num_fewshot: 0", "num_fewshot: 1\nfewshot_split: test").replace(
            "fewshot_config:\n  samples: []\n", ""
        )
    )
    melting = TASK.format(name="melting", kind="multiple_choice", text=SHOW, target="answer", extra=SHOWS + CHOICES)
    (root / "melting.yaml").write_text(melting.replace("Answer:", "Answer: ") + "target_delimiter: ''\n")
    solved = TASK.format(name="text_shots", kind="multiple_choice", text=ASK, target="answer", extra=CHOICES)
    (root / "text_shots.yaml").write_text(
        solved.replace("num_fewshot: 0\nfewshot_config:\n  samples: []\n", "fewshot_split: test\n")
    )
    return root


@pytest.fixture(scope="session")
def run_lm_eval(task_dir: Path) -> Callable[..., dict[str, Any]]:
    """``run_lm_eval(model, "task", ...)``: what ``lm_eval.simple_evaluate`` returns."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(task_dir), include_defaults=False)

    def run(model: Any, *tasks: str, output_path: Path | None = None, **options: Any) -> dict[str, Any]:
        tracker = None
        if output_path is not None:
            log = SimpleNamespace(log_experiment_args=lambda **_: None)
            tracker = SimpleNamespace(output_path=str(output_path), general_config_tracker=log)
        found: dict[str, Any] = simple_evaluate(
            model=model,
            tasks=list(tasks),
            task_manager=manager,
            bootstrap_iters=0,
            evaluation_tracker=tracker,
            **options,
        )
        return found

    return run


@pytest.fixture(scope="session")
def load(tiny: Callable[[str], Path]) -> Callable[..., Any]:
    """``load("llava_next", batch_size=8, geometry=False)``: the backend with that tiny checkpoint."""
    from microscope_bench.lm_eval_plugin.backend import Microscope

    def make(family: str, **args: Any) -> Any:
        return Microscope.create_from_arg_obj({"pretrained": str(tiny(family)), "device": "cpu", **args})

    return make
