"""Few-shot examples, system instruction, samples and seeds mean what they mean in lm-eval: prompts equal lm-eval's."""

from __future__ import annotations

import json

import pytest

from microscope_bench.errors import ExampleError, TaskError, UnknownNameError
from microscope_bench.tasks import TaskSettings, load_task, load_tasks
from microscope_bench.tasks.settings import Seeds

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{train: {folder}/train.json, validation: {folder}/validation.json, test: {folder}/test.json}}
training_split: train
validation_split: validation
output_type: multiple_choice
description: "Choose well.\\n\\n"
doc_to_text: "{{{{ question }}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metadata: {{version: 1.0}}
"""


def rows(kind, n):
    return [{"question": f"{kind} {i}?", "choices": [f"this {i}", "that"], "answer": i % 2} for i in range(n)]


@pytest.fixture
def write(tmp_path):
    """Writes a task whose rows have one context and several continuations, with lines of its own."""

    def written(name="continued", extra="", without=""):
        for split, n in (("train", 12), ("validation", 9), ("test", 7)):
            (tmp_path / f"{split}.json").write_text(json.dumps(rows(split, n)))
        lines = [x for x in TASK.format(name=name, folder=tmp_path).splitlines() if not without or without not in x]
        path = tmp_path / f"{name}.yaml"
        path.write_text("\n".join(lines) + f"\n{extra}\n")
        return path

    return written


def lm_evals(path, num_fewshot, *, seed=1234, samples=None, limit=None, system=None, chat=None):
    """The contexts that lm-eval itself builds, in its order, one a row."""
    from lm_eval.tasks import TaskManager

    (task,) = TaskManager(include_defaults=False).load([str(path)])["tasks"].values()
    task.set_config(key="num_fewshot", value=num_fewshot)
    task.set_fewshot_seed(seed=seed)
    more = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": chat} if chat else {}
    task.build_all_requests(limit=limit, samples=samples, system_instruction=system, **more)
    return [instance.args[0] for instance in task.instances if instance.idx == 0]


def prompts(task, order=None):
    texts = {index: task.example(index).text for index in order or range(len(task))}
    return [texts[index] for index in range(len(task))]


@pytest.mark.parametrize(
    "extra, without",
    [
        ("", ""),  # drawn from the training split
        ("fewshot_split: test", ""),
        ("fewshot_split: validation\ntest_split: validation", "validation_split"),  # the row itself is left out
        ("fewshot_config: {sampler: first_n}\nfewshot_split: train", ""),
        ("fewshot_config: {samples: [{question: 'A?', choices: [x, y], answer: 1}, {question: 'B?', choices: [x, y], "
         "answer: 0}, {question: 'C?', choices: [x, y], answer: 0}]}", ""),
        ("", "training_split"),
    ],
)  # fmt: skip
def test_prompts_equal_lm_evals_whatever_the_order_of_rendering(write, extra, without):
    path = write(extra=extra, without=without)
    task = load_task(path, settings=TaskSettings(num_fewshot=2))
    expected = lm_evals(path, 2)
    assert prompts(task, order=[3, 0, 8, *range(len(task))]) == expected
    assert expected[0].count("?") == 3 and task.version == "1.0+num_fewshot:2"


def test_the_few_shot_seed_is_the_last_of_four(write):
    path = write()
    task = load_task(path, settings=TaskSettings(num_fewshot=2, seeds=Seeds(fewshot=7)))
    assert prompts(task) == lm_evals(path, 2, seed=7) != lm_evals(path, 2)
    assert task.version == "1.0+num_fewshot:2,fewshot_seed:7"


def test_samples_are_rows_in_the_order_of_the_data_with_draws_of_their_own(write, caplog):
    path = write()
    task = load_task(path, settings=TaskSettings(num_fewshot=1, samples={"continued": [5, 2, 5]}))
    assert prompts(task) == lm_evals(path, 1, samples=[5, 2])
    assert list(task.ids) == ["2", "5"] and task.sampled
    assert "samples of continued names a row twice; each is measured once: 2 examples" in caplog.text
    assert task.version.startswith("1.0+num_fewshot:1,samples:2@")
    other = load_task(path, settings=TaskSettings(num_fewshot=1, samples={"continued": [5, 3]}))
    assert other.version != task.version


@pytest.mark.parametrize(
    "samples, error, message",
    [
        ({"continued": [9]}, TaskError, "holds 9; its rows are 0 to 8"),
        ({"continued": [-1]}, TaskError, "holds -1"),
        ({"continued": [True]}, TaskError, "holds True"),
        ({"continued": []}, TaskError, "is empty"),
        ({"continue": [1]}, UnknownNameError, "Did you mean continued"),
    ],
)
def test_samples_that_lm_eval_would_misread_are_refused(write, samples, error, message):
    with pytest.raises(error, match=message):
        load_tasks([str(write())], settings=TaskSettings(samples=samples))


@pytest.mark.parametrize("extra", ["", "gen_prefix: 'I say'"])
def test_system_instruction_and_turns_equal_lm_evals(write, extra):
    path = write(extra=extra)
    task = load_task(path, settings=TaskSettings(num_fewshot=2, system_instruction="Be brief."))
    assert prompts(task) == lm_evals(path, 2, system="Be brief.")

    def chat(history, add_generation_prompt):
        return json.dumps([history, add_generation_prompt])

    (turns, generate) = json.loads(lm_evals(path, 2, system="Be brief.", chat=chat)[0])
    example = task.example(0)
    assert [{"role": role, "content": content} for role, content in example.turns] == turns
    assert generate == (example.turns[-1][0] == "user") == (not extra)
    assert example.turns[0] == ("system", "Be brief.\n\nChoose well.\n\n")
    assert "system_instruction:" in task.version
    other = load_task(path, settings=TaskSettings(num_fewshot=2, system_instruction="Be quick."))
    assert other.version != task.version


def test_a_plain_question_is_one_turn(write):
    assert load_task(write(without="description")).example(0).turns == ()


def test_the_task_file_has_its_say_about_few_shot_examples(write, caplog):
    own = load_task(write(extra="num_fewshot: 3"))
    assert own.version == "1.0+num_fewshot:3" and own.example(0).text.count("?") == 4
    assert load_task(write(extra="num_fewshot: 3"), settings=TaskSettings(num_fewshot=0)).version == "1.0"
    never = load_task(write(extra="num_fewshot: 0"), settings=TaskSettings(num_fewshot=3))
    assert never.version == "1.0" and "overrules --num_fewshot, as in lm-eval" in caplog.text
    with pytest.raises(TaskError, match="13 few-shot examples cannot be drawn"):
        load_task(write(), settings=TaskSettings(num_fewshot=13))


def test_few_shot_examples_with_pictures_are_refused_with_the_reason(write):
    path = write(extra="doc_to_image: !function pictures.none")
    (path.parent / "pictures.py").write_text("def none(row):\n    return []\n")
    with pytest.raises(TaskError, match="3 few-shot examples and doc_to_image: lm-eval cannot give the pictures"):
        load_task(path, settings=TaskSettings(num_fewshot=3))
    assert load_task(path, settings=TaskSettings(num_fewshot=0)).version == "1.0"
    with pytest.raises(TaskError, match="1 few-shot examples and doc_to_image"):  # though its file says 0
        load_task("shapesqa", settings=TaskSettings(num_fewshot=1))


def test_choices_that_are_no_letters_are_measured_without_accuracy(write):
    example = load_task(write()).example(1)
    assert example.choices == ("this 1", "that") and example.answer == 1
    assert "more than a letter" in example.unscored


def test_one_context_per_choice_gives_the_first_context(write):
    path = write(extra="doc_to_text: '{{ answer }}'\ndoc_to_target: question", without="doc_to_t")
    task = load_task(path, settings=TaskSettings(num_fewshot=1))
    contexts = lm_evals(path, 1)
    example = task.example(0)
    assert example.text == contexts[0] and example.text.endswith("this 0")
    assert example.choices is None and "one context per choice" in example.unscored


def test_a_text_to_be_scored_is_its_own_prompt(write):
    lines = "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: question"
    path = write(extra=lines)
    body = [x for x in path.read_text().splitlines() if not x.startswith(("doc_to_", "output_type", "description"))]
    path.write_text("\n".join([*body, lines]) + "\n")
    assert load_task(path).example(4).text == "validation 4?"


def test_an_empty_prompt_is_an_error_of_its_row(write):
    path = write()
    path.write_text(path.read_text().replace("{{ question }}\\nAnswer:", "").replace("Choose well.\\n\\n", ""))
    with pytest.raises(ExampleError, match="example 0: its prompt is empty"):
        load_task(path).example(0)


def test_what_a_task_shuffles_hangs_on_the_seeds_alone(write):
    path = write(extra="process_docs: !function shuffling.shuffled\ndoc_to_text: !function shuffling.text")
    path.write_text(path.read_text().replace('doc_to_text: "{{ question }}\\nAnswer:"\n', ""))
    (path.parent / "shuffling.py").write_text(
        "import random\nimport numpy as np\n\n\n"
        "def shuffled(rows):\n    order = list(range(len(rows)))\n    random.shuffle(order)\n"
        "    return rows.select(order)\n"
        "\n\ndef text(row):\n    return f\"{row['question']} {random.random()} {np.random.rand()}\"\n"
    )
    first, again = load_task(path), load_task(path)
    assert prompts(first, order=range(8, -1, -1)) == prompts(again)
    assert len(set(prompts(first))) == 9
    assert prompts(load_task(path, settings=TaskSettings(seeds=Seeds(python=5)))) != prompts(first)
