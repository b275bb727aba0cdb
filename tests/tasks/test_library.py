"""The task library on small copies of the hub's data sets: prompts, pictures, answers, identity, scoring, and a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from microscope_bench.errors import ExampleError, TaskError
from microscope_bench.tasks import builtin_task_dir, list_tasks, load_task
from microscope_bench.tasks.task_files import read_task_file
from tests.tasks.hub_copies import CHARTQA, COMMIT, COPIES, MMBENCH, picture

LETTER = "Answer with the option's letter from the given choices directly."
WORD = "Answer the question using a single word or phrase."
SIDES = (
    "<image><image>The first picture is on the left, the second on the right. Is this statement about them true or "
    "false?\n"
)
YES_NO, SEVEN = ("Yes", "No"), "".join(f"\n{letter}. <image>" for letter in "ABCDEFG")

# task → id → prompt, choices, index of the right one, widths of the pictures; None: the row cannot be rendered
EXPECTED = {
    "pope": {
        "0": (f"<image>Is there a dog in the image?\n{WORD}", YES_NO, 0, [31]),
        "1": (f"<image>Is there a sofa in the image?\n{WORD}", YES_NO, 1, [31]),
        "2": "'maybe' is not in list",
    },
    "mme": {"0": (f"<image>Is it 7?\n{WORD}", YES_NO, 0, [31]), "1": (f"<image>Is it 8?\n{WORD}", YES_NO, 1, [31])},
    "ai2d": {
        "0": (f"<image>Which eats grass?\nA. hawk\nB. cow\nC. fox\nD. owl\n{LETTER}", tuple("ABCD"), 1, [31]),
        "1": (f"<image>Is A above B?\nA. yes\nB. no\n{LETTER}", tuple("AB"), 0, [31]),
        "2": "the answer 3 is neither a choice",
    },
    "mmbench_en_dev": {
        "241": (
            f"<image>Look. Which? There are several options:\nA. w\nB. x\nC. y\nD. z\n\n{LETTER}",
            tuple("ABCD"),
            2,
            [31],
        ),
        "252": (f"<image>Two? There are several options:\nA. 1\nB. 2\n\n{LETTER}", tuple("AB"), 1, [31]),
        "253": (f"<image>Three? There are several options:\nA. 1\nB. 2\nC. 3\n\n{LETTER}", tuple("ABC"), 0, [31]),
    },
    "textvqa_val": {
        "34602": (f"<image>What is the brand?\n{WORD}", None, None, [31]),
        "34603": (f"<image>What time?\n{WORD}", None, None, [31]),
    },
    "chartqa_short": {
        "0": ("<image>How many bars?\nAnswer the question with a single word.", None, None, [31]),
        "1": ("<image>Which country?\nAnswer the question with a single word.", None, None, [31]),
    },
    "nlvr2": {
        "0": (f"{SIDES}Both show dogs.\nA. True\nB. False\n{LETTER}", tuple("AB"), 0, [31, 32]),
        "1": (f"{SIDES}The left one is a cat.\nA. True\nB. False\n{LETTER}", tuple("AB"), 1, [31, 32]),
    },
    "mmmu_val_choice": {
        "validation_Art_1": (f"Who made <image> ?\nA. Goya\nB. O'Keeffe\n\n{LETTER}", tuple("AB"), 1, [31]),
        "validation_Art_2": (
            f"<image> before <image> and <image>: why?\nA. one\nB. two\nC. three\n\n{LETTER}",
            tuple("ABC"),
            0,
            [32, 31, 32],
        ),
        "validation_Math_4": (f"Which one?{SEVEN}\n\n{LETTER}", tuple("ABCDEFG"), 2, [*range(31, 38)]),
        "validation_Bio_6": "marks image_3, which the row does not have",
        "validation_Bio_7": "where its picture belongs",
    },
    "mmmu_val_open": {
        "validation_Math_3": (f"How much? <image>\n\n{WORD}", None, None, [31]),
        "validation_Bio_5": (f"Name it: <image>\n\n{WORD}", None, None, [31]),
    },
}


@pytest.fixture(scope="module", autouse=True)
def hub(tmp_path_factory):
    """Repository → its snapshot in the hub cache, which holds nothing else."""
    from huggingface_hub import constants

    cache = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        yield {copy.repository: copy.write_to_cache(cache) for copy in COPIES}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_row_renders_exactly(name):
    task = load_task(name)
    assert list(task.ids) == list(EXPECTED[name])
    for index, expected in enumerate(EXPECTED[name].values()):
        if isinstance(expected, str):
            with pytest.raises(ExampleError, match=expected):
                task.example(index)
            continue
        example = task.example(index)
        widths = [image.width for image in example.images]
        assert (example.text, example.choices, example.answer, widths) == expected
        assert {image.mode for image in example.images} == {"RGB"}


def metadata_of(name):
    (path,) = (listing.path for listing in list_tasks() if listing.name == name)
    return read_task_file(path)["metadata"]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_task_is_pinned_to_the_commit_and_says_whose_it_is(name):
    task = load_task(name)
    copies = {copy.repository: copy for copy in COPIES}
    assert (task.dataset.path in copies, task.dataset.revision) == (True, COMMIT)
    assert task.dataset.name == ("en" if name == "mmbench_en_dev" else None)
    assert task.has_images and task.version == "1"
    assert all(metadata_of(name)[field] for field in ("licence", "citation", "description"))


def test_path_configuration_split_and_revision_are_arguments(hub):
    chinese = load_task("mmbench_en_dev", task_args={"dataset_name": "cn"})
    assert (chinese.dataset.name, chinese.example(0).choices) == ("cn", ("A", "B"))
    adversarial = load_task("pope", task_args={"dataset_name": "Full", "split": "adversarial", "revision": COMMIT})
    assert (adversarial.dataset.split, adversarial.example(0).answer) == ("adversarial", 1)
    assert load_task("mmmu_val_choice", task_args={"split": "dev"}).ids == ["dev_Art_1"]
    assert load_task("nlvr2", task_args={"split": "unbalanced_dev"}).example(0).answer == 1
    renamed = load_task("chartqa_short", task_args={"dataset_path": str(hub[CHARTQA.repository])})
    assert renamed.dataset.path == "local" and renamed.example(0).text == load_task("chartqa_short").example(0).text
    with pytest.raises(TaskError, match="not in the local hub cache"):
        load_task("pope", task_args={"revision": "no-such-branch"})


def test_a_split_that_keeps_its_answers_back_can_still_be_measured_where_the_question_is_open():
    assert load_task("textvqa_val", task_args={"split": "test"}).example(0).text == f"<image>What is it?\n{WORD}"
    with pytest.raises(ExampleError):  # a choice needs its right answer: nothing is scored against a guess
        load_task("mmbench_en_dev", task_args={"split": "test"}).example(0)


def test_local_copies_of_one_folder_name_are_told_apart_and_an_edit_is_seen(tmp_path):
    def load(directory):
        task = load_task("mmbench_en_dev", task_args={"data_dir": str(directory)})
        return task.example(0).text.split(".")[0], task.dataset

    first, second = MMBENCH.write(tmp_path / "a" / "copy"), MMBENCH.write(tmp_path / "b" / "copy")
    before = load(first)
    assert load(second) == before and before[1].path == "local", "the same rows are the same data wherever they lie"
    row = {**MMBENCH.rows["en"]["dev"][0], "hint": "Listen.", "image": picture(40)}
    file = next(second.glob("en/dev-*"))
    edited = type(MMBENCH)(MMBENCH.repository, MMBENCH.features, {"en": {"dev": [row]}}).write(tmp_path / "c" / "copy")
    file.write_bytes(next(edited.glob("en/dev-*")).read_bytes())
    assert load(first) == before
    assert load(second)[0] == "<image>Listen" and load(second)[1].revision != before[1].revision


@pytest.fixture
def of_lm_eval(hub, monkeypatch, tmp_path):
    """Name → lm-eval's own object of one of our tasks, on the copies."""
    import datasets
    from lm_eval.tasks import TaskManager

    def from_copies(plain):
        return lambda path, name=None, **options: plain(
            str(hub[path]), name, cache_dir=str(tmp_path / path.replace("/", "--"))
        )

    manager = TaskManager(include_path=str(builtin_task_dir()), include_defaults=False)

    def load(name):
        with monkeypatch.context() as patched:
            for function in ("load_dataset", "load_dataset_builder"):  # the second where the plug-in is at work
                patched.setattr(datasets, function, from_copies(getattr(datasets, function)))
            return manager.load([name])["tasks"][name]

    return load


def test_plain_lm_eval_renders_and_scores_the_same(of_lm_eval):
    for name, rows in EXPECTED.items():
        theirs = of_lm_eval(name)
        for doc, expected in zip(theirs.eval_docs, rows.values(), strict=True):
            if isinstance(expected, str):
                continue
            text, choices, answer, widths = expected
            assert theirs.fewshot_context(doc=doc, num_fewshot=0) == text
            assert [image.width for image in theirs.doc_to_image(doc)] == widths
            if choices is not None:
                scores = [(float(index == answer), False) for index in range(len(choices))]
                assert tuple(theirs.doc_to_choice(doc)) == choices
                assert theirs.process_results(doc, scores)["acc"] == 1.0
                assert theirs.process_results(doc, scores[1:] + scores[:1])["acc"] == 0.0


@pytest.mark.parametrize(
    "name, row, said, metric, value",
    [
        ("chartqa_short", 0, "14.6", "relaxed_accuracy", 1.0),
        ("chartqa_short", 0, "14.8", "relaxed_accuracy", 0.0),
        ("chartqa_short", 0, "1400%", "relaxed_accuracy", 1.0),
        ("chartqa_short", 0, "fourteen", "relaxed_accuracy", 0.0),
        ("chartqa_short", 1, " peru", "relaxed_accuracy", 1.0),
        ("textvqa_val", 0, "A Nokia!", "vqa_accuracy", 1.0),
        ("textvqa_val", 1, "10", "vqa_accuracy", 0.9 / 3),
        ("textvqa_val", 1, "eleven", "vqa_accuracy", 0.0),
        ("mmmu_val_open", 0, "3.429", "exact_match", 1.0),
        ("mmmu_val_open", 0, "24/7", "exact_match", 1.0),
        ("mmmu_val_open", 0, "3", "exact_match", 0.0),
        ("mmmu_val_open", 1, "Cell", "exact_match", 1.0),
    ],
)
def test_open_answers_are_scored_by_lm_eval(of_lm_eval, name, row, said, metric, value):
    scored = of_lm_eval(name).process_results(load_task(name).rows[row], [said])
    assert scored[metric] == pytest.approx(value)


def test_an_answer_that_is_kept_back_is_never_scored(of_lm_eval):
    kept_back = load_task("textvqa_val", task_args={"split": "test"})
    with pytest.raises(ValueError, match="39602 has no answers"):
        of_lm_eval("textvqa_val").process_results(kept_back.rows[0], ["nokia"])


def test_the_page_about_the_tasks_has_each_with_its_licence_version_and_source():
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    shipped = [listing.name for listing in list_tasks()]
    assert sorted(rows) == sorted(shipped)  # the other tables of the page do not put a name in code type first
    for name in EXPECTED:
        task = load_task(name)
        assert f"| {task.version} |" in rows[name]
        assert metadata_of(name)["licence"].split(" (")[0] in rows[name] and task.dataset.path in rows[name]


@pytest.fixture(scope="module")
def zoo_model():
    from microscope_bench.adapters.presets import load_model

    return load_model("zoo-llava-next", device="cpu")


@pytest.mark.parametrize("name", EXPECTED)
def test_a_run_measures_it_end_to_end(name, zoo_model):
    from microscope_bench import evaluate

    # a third of three rows cannot be rendered, which is more than the protocol lets pass
    result = evaluate(
        zoo_model, load_task(name), limit=3, metrics="anisotropy", batch_size=2, max_skipped=0.5, progress=False
    )
    measured = sum(not isinstance(expected, str) for expected in [*EXPECTED[name].values()][:3])
    scores = {score.modality: score.n_examples for score in result.scores if score.tokens == "all"}
    assert scores["image"] == scores["text"] == measured
    choices = [e[1] for e in EXPECTED[name].values() if not isinstance(e, str)]
    if choices[0] is None:
        assert result.accuracy is None
    elif choices[0] == YES_NO:
        assert result.accuracy.value is None and "Yes, No are not one token each" in result.accuracy.reason
    else:
        assert result.accuracy.n == measured and 0 <= result.accuracy.value <= 1


@pytest.mark.parametrize("token", [lambda choice: ord(choice[0]), lambda choice: 0])
def test_yes_and_no_are_scored_in_the_same_pass_where_each_is_a_token_of_its_own(token):
    from microscope_bench import evaluate
    from tests.toy import ToyAdapter

    class AlwaysYes(ToyAdapter):
        def choice_token_ids(self, prompt, choices):
            return [token(choice) for choice in choices]

        def forward(self, batch, *, logits):
            found = super().forward(batch, logits=logits)
            if found is not None:
                found[:, ord("Y")], found[:, ord("N")] = 2.0, 1.0
            return found

    accuracy = evaluate(AlwaysYes(), load_task("mme"), metrics="anisotropy", progress=False).accuracy
    if token("Yes") == token("No"):
        assert accuracy.value is None and "Yes, No are the same token" in accuracy.reason
    else:
        assert (accuracy.value, accuracy.n, accuracy.reason) == (0.5, 2, None)


@pytest.mark.heavy
def test_lm_eval_validates_each_and_none_takes_a_name_of_lm_evals_own(tmp_path):
    from lm_eval.tasks import TaskManager

    names = [listing.name for listing in list_tasks()]
    command = [sys.executable, "-m", "lm_eval", "validate", "--tasks", ",".join(names)]
    done = subprocess.run(
        [*command, "--include_path", str(builtin_task_dir())], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0 and "All tasks found and valid" in done.stdout, done.stdout + done.stderr
    assert not set(names) & set(TaskManager().task_index)
