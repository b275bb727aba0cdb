"""Any lm-eval task file becomes examples, or an error that says which file and field."""

from __future__ import annotations

import io
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from microscope_bench.errors import ExampleError, TaskError, UnknownNameError
from microscope_bench.example import WORD_MARK
from microscope_bench.tasks import TaskSettings, list_tasks, load_task
from microscope_bench.tasks.sounds import sounds_in


def test_a_task_of_the_include_path_is_loaded_by_name_and_by_file(write_task, tmp_path):
    path = write_task()
    by_name, by_file = load_task("toy", include_path=tmp_path), load_task(path)
    for task in (by_name, by_file):
        assert (task.name, task.version, list(task.ids)) == ("toy", "2", ["x", "y"])
        example = task.example(1)
        assert (example.id, example.text, example.choices, example.answer) == ("y", "Two?\nAnswer:", ("A", "B"), 1)
    assert by_name.dataset == by_file.dataset and by_name.dataset.path == "local"


def test_the_same_rows_have_the_same_identity_whatever_they_are_packed_in(write_task, tmp_path):
    as_json = load_task(write_task())
    datasets.Dataset.from_json(str(tmp_path / "toy.json")).to_parquet(str(tmp_path / "toy.parquet"))
    path = write_task("packed", dataset_path="dataset_path: parquet", test=f"    test: {tmp_path / 'toy.parquet'}")
    assert load_task(path).dataset == as_json.dataset
    changed = write_task("changed", rows=[{"key": "x", "question": "One!", "answer": 0}])
    assert load_task(changed).dataset.revision != as_json.dataset.revision


def test_an_open_question_has_no_choices(write_task):
    path = write_task(output_type="output_type: generate_until", doc_to_choice=None)
    example = load_task(path).example(0)
    assert example.choices is None and example.answer is None


def test_several_right_answers_give_choices_without_an_index(write_task):
    rows = [{"key": "x", "question": "Q", "answer": [0, 1]}]
    example = load_task(write_task(rows=rows)).example(0)
    assert example.choices == ("A", "B") and example.answer is None


def test_the_description_stands_before_every_prompt_in_any_order_of_access(write_task):
    path = write_task(extra='description: "Answer well.\\n\\n"\n')
    task = load_task(path)
    second = task.example(1).text
    assert task.example(0).text == "Answer well.\n\nOne?\nAnswer:" and task.example(1).text == second


@pytest.mark.parametrize(
    "replace, field, cause",
    [
        ({"doc_to_text": None}, "doc_to_text", "missing"),
        ({"doc_to_choice": None}, "doc_to_choice", "missing"),
        ({"dataset_path": None}, "dataset_path", "missing"),
        ({"test_split": None}, "test_split", "missing"),
        ({"task": "tisk: toy"}, "task", "missing"),
        ({"doc_to_text": "doc_to_text: '{{ qestion }}'"}, "doc_to_text", "'qestion' is undefined"),
        ({"doc_to_target": "doc_to_target: '{{ anser }}'"}, "doc_to_target", "'anser' is undefined"),
        ({"doc_to_target": "doc_to_target: 7"}, "doc_to_target", "7 is not the number of a choice"),
        ({"doc_to_choice": "doc_to_choice: [A, '']"}, "doc_to_choice", "a choice is empty"),
        (
            {"doc_to_choice": "doc_to_choice: chioces"},
            "doc_to_choice",
            "'chioces' is neither a column nor a list; the columns are 'key', 'question', 'answer'",
        ),
        (
            {"doc_to_text": "doc_to_text: '{{ qestion }}'"},
            "doc_to_text",
            "; the columns are 'key', 'question', 'answer'",
        ),
        ({"doc_to_text": "doc_to_text: ²"}, "doc_to_text", "'²' is all digits, and lm-eval cannot read it"),
        ({"doc_to_target": "doc_to_target: '{{ \"١٢\" }}'"}, "doc_to_target", "'١٢' is all digits"),
        ({"doc_to_target": "doc_to_target: '{{ \"007\" }}'"}, "doc_to_target", "'007' is all digits"),
        ({"dataset_path": "dataset_path: cvs"}, "", "Did you mean the file format csv?"),
        (
            {"doc_to_choice": "doc_to_choice: !function nowhere.f"},
            "doc_to_choice",
            "!function nowhere.f: ModuleNotFound",
        ),
        ({"doc_to_text": "process_docs: !function helper.boom\ndoc_to_text: q"}, "process_docs", "ValueError: boom"),
        ({"doc_to_text": "doc_to_text: !function helper.boom"}, "doc_to_text", "ValueError: boom"),
        ({"doc_to_text": "doc_to_text: !function helper.none"}, "doc_to_text", "no attribute 'none'"),
        ({"id_column": "  id_column: kee"}, "metadata.id_column", "unknown column 'kee'. Did you mean key"),
    ],
)
def test_a_broken_field_is_named_with_its_file(write_task, tmp_path, replace, field, cause):
    (tmp_path / "helper.py").write_text("def boom(_):\n    raise ValueError('boom')\n")
    path = write_task(**replace)
    with pytest.raises(TaskError) as raised:
        load_task(path)
    assert str(raised.value).startswith(f"{path}: field {field}: " if field else "") and cause in str(raised.value)


def test_an_empty_file_has_no_rows_and_a_row_without_an_answer_says_so(write_task):
    with pytest.raises(TaskError, match="split 'test' has no rows"):
        load_task(write_task(rows=[]))
    rows = [{"key": str(k), "question": "Q", "answer": k or None} for k in (1, 0)]
    task = load_task(write_task(rows=rows))
    with pytest.raises(ExampleError, match="example 0: the answer None is neither a choice nor the number of one"):
        task.example(1)


def test_a_misspelt_field_gets_the_nearest_names(write_task):
    with pytest.raises(TaskError, match=r"toy\.yaml: unknown field 'doc_to_txt'\. Did you mean doc_to_text"):
        load_task(write_task(extra="doc_to_txt: x\n"))


def test_ids_that_repeat_are_refused(write_task):
    row = {"key": "x", "question": "Q", "answer": 0}
    with pytest.raises(TaskError, match="ids must be unique, but key holds 'x' twice"):
        load_task(write_task(rows=[row, row]))


def test_a_broken_neighbour_spoils_nothing_until_it_is_asked_for(write_task, tmp_path):
    write_task()
    (tmp_path / "broken.yaml").write_text("task: broken_one\ndoc_to_text: [unclosed\n")
    (tmp_path / "_part.yaml").write_text("doc_to_text: only a part for others to include\n")
    assert len(load_task("toy", include_path=tmp_path)) == 2
    listed = {listing.name: listing for listing in list_tasks(tmp_path)}
    assert set(listed) == {"toy", "broken_one"} | {listing.name for listing in list_tasks()}
    assert listed["toy"].description == "a task of the tests" and listed["toy"].error is None
    assert "line 3" in listed["broken_one"].error
    with pytest.raises(TaskError, match=r"broken\.yaml: not valid YAML: .*line 3"):
        load_task("broken_one", include_path=tmp_path)


def test_whatever_is_called_yaml_is_listed_beside_the_tasks(write_task, tmp_path):
    write_task()
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "gone")
    (tmp_path / "circle.yaml").symlink_to(tmp_path / "circle.yaml")
    (tmp_path / "directory.yaml").mkdir()
    (tmp_path / "dated.yaml").write_text("task: dated_one\nx: 2020-13-45\n")
    errors = {listing.name: listing.error for listing in list_tasks(tmp_path) if listing.path.parent == tmp_path}
    assert set(errors) == {"toy", "dangling", "circle", "directory", "dated_one"} and errors["toy"] is None
    assert "dated.yaml: not valid YAML: month must be in 1..12" in errors["dated_one"]
    assert all("cannot be read" in errors[name] for name in ("dangling", "circle", "directory"))


def test_includes_merge_and_a_cycle_or_a_missing_part_is_named(write_task, tmp_path):
    (tmp_path / "part.yaml").write_text("doc_to_text: never\nsplit_of_nobody: x\n")
    (tmp_path / "_base.yaml").write_text("target_delimiter: ''\ndoc_to_text: overruled\n")
    assert load_task(write_task(extra="include: _base.yaml\n")).example(0).text == "One?\nAnswer:"
    (tmp_path / "_base.yaml").write_text("include: _base.yaml\n")
    with pytest.raises(TaskError, match=r"_base\.yaml: field include: .* includes itself"):
        load_task(write_task(extra="include: _base.yaml\n"))
    with pytest.raises(TaskError, match=r"toy\.yaml: field include: .*_none\.yaml cannot be read"):
        load_task(write_task(extra="include: _none.yaml\n"))


def test_yaml_cannot_build_arbitrary_objects(write_task):
    with pytest.raises(TaskError, match="not valid YAML: could not determine a constructor"):
        load_task(write_task(extra="description: !!python/object/apply:os.getcwd []\n"))


def test_unknown_task_arguments_and_splits_get_the_nearest_names(write_task, tmp_path):
    path = write_task()
    with pytest.raises(
        UnknownNameError, match=r"unknown task argument 'revison'. Did you mean revision\? \(task toy\)"
    ):
        load_task(path, task_args={"revison": "main"})
    with pytest.raises(UnknownNameError, match=r"unknown split 'tests'. Did you mean test\? The data set has: test"):
        load_task(path, task_args={"split": "tests"})
    with pytest.raises(TaskError, match=r"toy.yaml: field test_split: unknown split 'tset'. Did you mean test\?"):
        load_task(write_task(test_split="test_split: tset"))
    with pytest.raises(TaskError, match=r"include_path .*nowhere is not a directory"):
        load_task("toy", include_path=tmp_path / "nowhere")


PICTURES = """
task: pictures
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_image: [image]
doc_to_text: "<image>{{{{ question }}}}"
doc_to_target: ""
"""


def test_decoded_picture_columns_and_their_damaged_rows(tmp_path):
    png = tmp_path / "ok.png"
    Image.new("L", (5, 4)).save(png)
    features = datasets.Features({"image": datasets.Image(), "question": datasets.Value("string")})
    stored = [{"bytes": b"no picture", "path": None}, {"bytes": png.read_bytes(), "path": None}, None]
    rows = datasets.Dataset.from_dict({"image": stored, "question": ["a", "b", "<image>c"]}, features=features)
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    (tmp_path / "pictures.yaml").write_text(PICTURES.format(data=tmp_path / "rows.parquet"))
    task = load_task(tmp_path / "pictures.yaml")
    assert task.has_images and list(task.ids) == ["0", "1", "2"] and task.version == "unversioned"
    with pytest.raises(ExampleError, match="example 0: a picture does not open"):
        task.example(0)
    example = task.example(1)
    assert example.images[0].mode == "RGB" and example.converted_from == ("L",)
    with pytest.raises(ExampleError, match="example 2: 2 <image> in the prompt but 0 pictures"):
        task.example(2)


SOUNDS = """
task: sounds
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_audio: [sound]
doc_to_text: "{{{{ question }}}}"
doc_to_choice: ["A", "B"]
doc_to_target: "A"
"""


def wav(samples: np.ndarray, rate: int = 16000) -> bytes:
    file = io.BytesIO()
    wavfile.write(file, rate, samples)
    return file.getvalue()


def test_recordings_of_undecoded_columns(tmp_path):
    stereo = np.stack([np.full(8, 16384, np.int16), np.zeros(8, np.int16)], axis=1)
    stored = [
        wav(stereo),
        wav(np.array([0, 64, 128, 255], np.uint8), 8000),
        b"no wav",
        wav(np.zeros(0, np.int16)),
        None,
    ]
    # what an undecoded audio column holds; the feature itself writes only where torchcodec is installed
    column = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({"sound": column, "question": datasets.Value("string")})
    questions = ["<audio>a", "b<audio>", "<audio>c", "<audio>d", "<audio>e"]
    sounds = [None if content is None else {"bytes": content, "path": None} for content in stored]
    rows = datasets.Dataset.from_dict({"sound": sounds, "question": questions}, features=features)
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    (tmp_path / "sounds.yaml").write_text(SOUNDS.format(data=tmp_path / "rows.parquet"))
    task = load_task(tmp_path / "sounds.yaml")
    assert task.has_audio and not task.has_images
    (first,), (second,) = task.example(0).audios, task.example(1).audios
    assert first.sampling_rate == 16000 and first.samples.dtype == np.float32
    assert np.allclose(first.samples, 0.25)  # the mean of half and silence
    assert second.sampling_rate == 8000 and np.allclose(second.samples, [-1, -0.5, 0, 127 / 128])
    for index, message in ((2, "does not open as WAV"), (3, "is empty"), (4, "1 <audio> in the prompt but 0 sounds")):
        with pytest.raises(ExampleError, match=message):
            task.example(index)


def test_recordings_in_other_forms():
    ramp = np.linspace(-1, 1, 6)
    decoder = SimpleNamespace(get_all_samples=lambda: SimpleNamespace(data=np.stack([ramp, -ramp]), sample_rate=24000))
    (mixed,) = sounds_in(decoder)
    assert mixed.sampling_rate == 24000 and np.allclose(mixed.samples, 0)
    (plain, own) = sounds_in([{"array": ramp.tolist(), "sampling_rate": 16000}, mixed])
    assert np.allclose(plain.samples, ramp) and own is mixed
    for dtype in (np.int16, np.int32):
        (whole,) = sounds_in({"array": (ramp * np.iinfo(dtype).max).astype(dtype), "sampling_rate": 16000})
        assert np.allclose(whole.samples, ramp, atol=1e-4)
    cut = wav(np.zeros(1000, np.int16))[:-600]
    for found, message in (
        ({"array": [12, -300, 4], "sampling_rate": 16000}, "is of int64, whose range is unknown"),
        ({"array": np.zeros((2, 100)), "sampling_rate": 16000}, r"has shape \(2, 100\); give"),
        ({"array": np.zeros((1, 2, 100)), "sampling_rate": 16000}, "has shape"),
        ({"array": 300 * ramp, "sampling_rate": 16000}, "reaches 300; its samples must lie in"),
        ({"bytes": cut, "path": None}, "does not open as WAV"),
        ({"array": ramp * np.nan, "sampling_rate": 16000}, "holds NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            sounds_in(found)
    with pytest.raises(TypeError, match="doc_to_audio gives str"):
        sounds_in("file.wav")


def test_lm_evals_own_tasks_are_found_through_its_index(monkeypatch):
    """One search of the whole index serves a task, a group and an unknown name; no network is asked for."""
    with pytest.raises(TaskError, match=r"allenai/sciq@main is not in the local hub cache .*--task_args data_dir=DIR"):
        load_task("sciq")
    with pytest.raises(TaskError, match=r"'mmlu' stands for 57 tasks; name one of them, .*: mmlu_abstract_algebra, "):
        load_task("mmlu")
    with pytest.raises(UnknownNameError, match=r"unknown task 'scienceqa_imag'\. Did you mean scienceqa_img"):
        load_task("scienceqa_imag")
    with pytest.raises(TaskError, match="field class: "):
        load_task("squadv2")


WORDS = """
task: words
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
{image}
doc_to_text: "{before}{{{{ question }}}}{behind}"
doc_to_choice: ["A", "B"]
doc_to_target: "A"
"""


def placeholder_task(tmp_path, questions, pictures, before="<image>", behind="", image="doc_to_image: [image]"):
    png = tmp_path / "ok.png"
    Image.new("RGB", (5, 4)).save(png)
    stored = [{"bytes": png.read_bytes(), "path": None} if shown else None for shown in pictures]
    features = datasets.Features({"image": datasets.Image(), "question": datasets.Value("string")})
    rows = datasets.Dataset.from_dict({"image": stored, "question": questions}, features=features)
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    yaml = WORDS.format(data=tmp_path / "rows.parquet", before=before, behind=behind, image=image)
    (tmp_path / "words.yaml").write_text(yaml)
    return load_task(tmp_path / "words.yaml")


def test_a_placeholder_in_a_row_is_a_word(tmp_path):
    task = placeholder_task(tmp_path, ["What is <image>?", "a", "<image><image>"], [True] * 3)
    assert [task.example(i).text for i in range(3)] == ["<image>What is <image>?", "<image>a", "<image>" * 3]


def test_a_row_without_a_question_is_skipped_but_where_no_row_has_one(tmp_path):
    task = placeholder_task(tmp_path, ["a", "", " \n", "<image>"], [True] * 4)
    for index in (1, 2):
        with pytest.raises(ExampleError, match=f"example {index}: the question is empty"):
            task.example(index)
    assert task.example(3).text == "<image><image>"
    captions = placeholder_task(tmp_path, ["", ""], [True] * 2)
    assert [captions.example(i).text for i in range(2)] == ["<image>"] * 2


def test_a_placeholder_in_a_system_instruction_is_a_word(tmp_path):
    placeholder_task(tmp_path, ["a", "What is <image>?"], [True] * 2)
    task = load_task(tmp_path / "words.yaml", settings=TaskSettings(system_instruction="be <image> nice"))
    for index, asked in enumerate(("<image>a", "<image>What is <image>?")):
        (_, system), (_, question) = task.example(index).turns
        assert WORD_MARK in system and system.replace(WORD_MARK, "") == "be <image> nice" and question == asked


def test_a_placeholder_in_front_of_its_place_is_told_from_it(tmp_path):
    task = placeholder_task(tmp_path, ["What is <image>? ", "a"], [True] * 2, before="", behind="<image>")
    first, second = task.example(0).text, task.example(1).text
    assert first.count("<image>") == 1 and first.endswith("? <image>") and second == "a<image>"
    assert first.replace(WORD_MARK, "") == "What is <image>? <image>"


def test_a_row_without_a_picture_may_say_the_word(tmp_path):
    before = "{% if image %}<image>{% endif %}"
    task = placeholder_task(tmp_path, ["What is <image>?", "a"], [False, True], before=before)
    assert task.example(0).text == "What is <image>?" and task.example(0).images == ()
    assert task.example(1).text == "<image>a"


def test_a_picture_that_a_row_lacks_is_no_word(tmp_path):
    """Where the rows hold the places themselves, one without its picture is damaged."""
    task = placeholder_task(tmp_path, ["<image>a", "<image>b", "<image>c <image>"], [True, False, True], before="")
    assert task.example(0).text == "<image>a"
    for index, message in ((1, "1 <image> in the prompt but 0 pictures"), (2, "2 <image> in the prompt but 1")):
        with pytest.raises(ExampleError, match=message):
            task.example(index)


def test_in_a_task_without_pictures_all_of_it_is_words(tmp_path):
    task = placeholder_task(tmp_path, ["What is <image>?"], [False], before="<image> and ", image="")
    assert task.example(0).text == "<image> and What is <image>?"
