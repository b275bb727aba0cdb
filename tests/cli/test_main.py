"""The command line as a user types it: verbs, exit statuses, messages."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from microscope_bench import load_result
from microscope_bench.capture.store import TokenStore
from microscope_bench.cli.main import main
from microscope_bench.results import provenance
from microscope_bench.system import signals
from tests.toy import result_files

TOY = f"{Path(__file__).parent.parent / 'toy.py'}:ToyAdapter"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command line in an empty directory; returns its status, what it printed, and what it complained."""
    monkeypatch.chdir(tmp_path)

    def command(*argv):
        status = main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def measure_toy(run, *more):
    return run("run", "--model", TOY, "--tasks", "shapesqa", "--limit", "24", *more)


def test_run_validate_leaderboard_and_check_that_it_is_current(run, tmp_path):
    status, out, _ = measure_toy(run)
    assert status == 0
    assert "linearity (hidden)" in out and "geometry/1|limit=24|model:toy" in out
    (file,) = result_files(Path("results"))
    assert file.name == "shapesqa.json"
    assert run("validate", "results")[0] == 0
    assert run("leaderboard", "results")[0] == 0
    assert "toy (untrained)" in (tmp_path / "leaderboard.md").read_text()
    assert run("leaderboard", "results", "--check")[0] == 0
    (tmp_path / "leaderboard.md").write_text("old")
    assert run("leaderboard", "results", "--check")[0] == 1


def test_measure_gives_the_scores_of_the_run_again(run):
    assert measure_toy(run, "--keep_store", "--store", "states")[0] == 0
    (file,) = result_files(Path("results"))
    first = load_result(file)
    file.unlink()
    assert run("measure", "states", "--quiet")[0] == 0
    assert load_result(file).scores == first.scores


def test_the_main_flow_is_captured_when_asked_for_and_a_model_without_one_says_so(run, caplog):
    assert measure_toy(run, "--mainflow", "--keep_store", "--store", "states")[0] == 0
    reason = TokenStore(Path("states")).mainflow.missing_because
    assert reason.startswith("block 1 (ToyBlock)") and reason in caplog.text


def test_the_command_is_noted_without_directories(run, tmp_path):
    measure_toy(run, "--output_path", tmp_path / "out")
    (file,) = result_files(tmp_path / "out")
    command = load_result(file).environment.command
    assert command.startswith("microscope-bench run --model toy.py:ToyAdapter --tasks shapesqa")
    assert str(tmp_path) not in file.read_text()


def test_several_tasks_in_one_call(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/questions.jsonl").write_text('{"q": "What is it?", "a": "this"}\n' * 30)
    (tmp_path / "mine/my_text.yaml").write_text(
        "task: my_text\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {tmp_path}/mine/questions.jsonl\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\n"
        "metadata:\n  version: 1\n"
    )
    status, _, _ = measure_toy(run, "--tasks", "shapesqa,my_text", "--include_path", "mine")
    assert status == 0
    assert [f.name for f in result_files(Path("results"))] == ["my_text.json", "shapesqa.json"]
    assert {s.modality for s in load_result(result_files(Path("results"))[0]).scores} == {"text"}


@pytest.mark.parametrize(
    "what, expected",
    [
        ("models", ["zoo-llava-next-untrained", "zoo-omnifusion-untrained", "hf"]),
        ("tasks", ["scienceqa_img", "scienceqa_text", "shapesqa"]),
        ("metrics", ["linearity", "intrinsic_dimension", "anisotropy", "twonn_mle"]),
        ("protocols", ["geometry/1", "tokens_per_example=32"]),
    ],
)
def test_ls(run, what, expected):
    status, out, _ = run("ls", what)
    assert status == 0
    assert all(word in out for word in expected)


def test_each_task_gets_the_arguments_it_knows(run, tmp_path):
    (tmp_path / "val").mkdir()
    status, _, err = measure_toy(run, "--tasks", "shapesqa,scienceqa_text", "--task_args", "n=30,data_dir=val")
    assert status == 2 and "problems.json" in err, "shapesqa took n, scienceqa_text took data_dir"


def test_check_prints_its_report(run):
    status, out, _ = run("check", TOY)
    assert "boundar" in out
    assert status in (0, 1)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--model", "zoo-lava-next"], "Did you mean zoo-llava-next"),
        (["--tasks", "shapeqa"], "shapesqa"),
        (["--metrics", "anisotrpy"], "anisotropy"),
        (["--protocol", "geometry/9"], "geometry/1"),
        (["--task_args", "data-dir=x"], "data-dir"),
        (["--task_args", "x"], "task_args: 'x' is not key=value"),
        (["--tasks", ","], "--tasks names none"),
        (["--tasks", "shapesqa,scienceqa_img", "--store", "s"], "--store holds one run"),
        (["--model", "nowhere.py:X"], "nowhere.py"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_status_2(run, argv, message):
    status, _, err = measure_toy(run, *argv)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert not result_files(Path())


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--limit", "0"], "limit must be a positive whole number"),
        (["--limit", "x"], "limit must be a number, not 'x'"),
        (["--batch_size", "-1"], "batch_size must be at least 1, not -1"),
        (["--seed", "-1"], "seed must be at least 0, not -1"),
        (["--max_skipped", "2"], "max_skipped must be a number from 0 to 1, not 2.0"),
        (["--measure_memory", "8"], "measure_memory: '8' is not a size in memory"),
        (["--tap", "visoin"], "Did you mean vision"),
        (["--split_by", "length"], "unknown split_by 'length'"),
        (["--control", "noise"], "Did you mean noise_image"),
        (["--device", "cudaa"], "Did you mean cuda"),
        (["--device", "xpu"], "device 'xpu' is not available here"),
        (["--model", "./none"], "A checkpoint goes by --model hf --model_args pretrained=DIR"),
        (["--model", "hf"], "hf needs a model"),
        (["--model", "hf", "--model_args", "pretrained=./none"], "pretrained=./none: there is no such directory"),
        (["--model", "zoo-llava", "--model_args", "dtyp=float16"], "Did you mean dtype"),
        (["--model", "zoo-llava", "--model_args", "dtype=flot16"], "Did you mean float16"),
        (["--model", "zoo-llava", "--model_args", "quantization=bnb-3bit"], "Did you mean bnb-"),
        (["--model", "zoo-llava", "--model_args", "use_chat_template=ture"], "must be true or false"),
        (["--model", "zoo-llava", "--model_args", "max_length=0"], "max_length must be at least 1"),
        (["--model", "zoo-llava", "--model_args", "revision=x"], "zoo-llava is one fixed model"),
        (["--model", "zoo-omnifusion", "--model_args", "max_length=9"], "unknown model arg 'max_length'"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_loaded(run, argv, message, monkeypatch):
    monkeypatch.setattr("microscope_bench.adapters.presets.load_model", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr("microscope_bench.tasks.task_loading.load_specs", lambda *_: pytest.fail("data read"))
    status, _, err = measure_toy(run, *argv)
    assert status == 2 and message in err


def test_an_option_that_is_none_is_refused_by_the_parser(run):
    with pytest.raises(SystemExit) as stop:
        measure_toy(run, "--nonsense")
    assert stop.value.code == 2


def test_an_option_that_is_misspelt_is_refused_with_the_one_that_is_meant(run, capsys):
    with pytest.raises(SystemExit):
        measure_toy(run, "--limt=3", "--tassk", "shapesqa", "surplus")
    said = "unrecognized arguments: --limt=3 --tassk shapesqa surplus. Did you mean --limit and --tasks?"
    assert capsys.readouterr().err.endswith(f"{said}\n")


@pytest.mark.parametrize(
    "argv, said",
    [
        (
            ["run", "--model", "zoo-llava", "--taks", "shapesqa"],
            "the following arguments are required: --tasks; unrecognized arguments: --taks. Did you mean --tasks?",
        ),
        (["run", "--model", "zoo-llava"], "the following arguments are required: --tasks"),
        (["rum", "--limit", "3"], ". Did you mean run?"),
        (["ls", "models", "\0"], "an argument holds a NUL character, which no path and no name has"),
        (["ls", "modles"], ". Did you mean models?"),
    ],
)
def test_a_mistake_names_what_is_misspelt_and_what_is_meant(run, capsys, argv, said):
    with pytest.raises(SystemExit) as stop:
        run(*argv)
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(f"{said}\n")


@pytest.mark.parametrize(("verb", "keeps"), [("check", False), ("run", True)])
def test_only_a_verb_that_captures_says_that_what_was_captured_is_kept(run, monkeypatch, verb, keeps):
    def ended(*_):
        raise signals.Stopped(signal.SIGTERM)

    monkeypatch.setattr("microscope_bench.run.resolve.load_adapter_for", ended)
    status, _, err = measure_toy(run) if verb == "run" else run("check", TOY)
    assert status == 143 and "terminated" in err
    assert ("what was captured is kept" in err) == keeps


def test_of_several_runs_one_that_fails_is_told_at_the_end_and_the_others_are_done(run, tmp_path):
    (tmp_path / "broken.yaml").write_text(
        f"task: broken\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.json}}}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: '{{ q }}'\ndoc_to_image: q\n"
        "doc_to_target: q\nmetadata: {version: 1}\n"
    )
    (tmp_path / "rows.json").write_text('[{"q": "no picture"}, {"q": "nor here"}]')
    (tmp_path / "empty.py").touch()
    models, tasks = f"{tmp_path}/empty.py:X,{TOY}", "broken,shapesqa"
    status, out, err = measure_toy(run, "--model", models, "--tasks", tasks, "--include_path", tmp_path)
    assert status == 2
    assert [file.name for file in result_files(Path("results"))] == ["broken.json", "shapesqa.json"]
    assert load_result(result_files(Path("results"))[0]).status == "failed"
    told = err[err.index("2 failed. The other runs are done") :]
    assert "empty.py:X: 'X' is not a subclass" in told
    assert f"{TOY} on broken: " in told and "on shapesqa" not in told
    assert "linearity (hidden)" in out


def test_a_misspelt_name_among_several_is_told_before_any_run(run):
    status, _, err = measure_toy(run, "--model", f"{TOY},nowhere.py:X")
    assert status == 2 and "nowhere.py:X: there is no file nowhere.py" in err and not Path("results").exists()


def test_an_interruption_is_status_130_and_the_same_command_resumes(run, tmp_path, monkeypatch):
    from microscope_bench.capture.loop import Capture

    fill = Capture.fill
    monkeypatch.setattr(Capture, "fill", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    status, _, err = measure_toy(run)
    assert status == 130 and "resumes" in err
    monkeypatch.setattr(Capture, "fill", fill)
    assert measure_toy(run)[0] == 0


def test_an_output_directory_that_cannot_be_made_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = measure_toy(run, "--output_path", "file/results")
    assert status == 2 and "file" in err


def test_a_file_that_is_no_store_is_refused(run, tmp_path):
    status, _, err = run("measure", tmp_path)
    assert status == 2 and "no token store" in err


def test_a_defect_shows_its_place_and_is_not_taken_for_a_no(run, monkeypatch):
    def defect(*_args, **_options):
        raise RuntimeError("out of something")

    monkeypatch.setattr("microscope_bench.capture.loop.Capture.fill", defect)
    status, _, err = measure_toy(run)
    assert status == 2
    assert "Traceback" in err and "RuntimeError: out of something" in err
    (file,) = result_files(Path("results"))
    assert load_result(file).error.type == "RuntimeError"


def test_quiet_prints_nothing(run, caplog):
    assert measure_toy(run, "--quiet", "--metrics", "anisotropy", "--keep_store", "--store", "states") == (0, "", "")
    assert run("measure", "states", "--metrics", "anisotropy", "--quiet") == (0, "", "")
    assert not caplog.text


def test_states_that_are_no_numbers_are_told_once_with_where_to_look_and_status_1(run, tmp_path):
    (tmp_path / "broken.py").write_text(
        "from tests.toy import ToyAdapter\n\n"
        "class Broken(ToyAdapter):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layers[1].mix.weight.data.fill_(float('nan'))\n"
    )
    command = ("run", "--model", "broken.py:Broken", "--tasks", "shapesqa", "--limit", "24")
    status, out, _ = run(*command)
    said = "hidden states at layers 2–3 hold NaN or infinity and have no values: `microscope-bench check` on the same"
    assert status == 1 and out.count(said) == 1 and out.count("not summarised") == 1
    status, out, err = run(*command, "--quiet", "--again")
    assert status == 1 and out == "" and err.count(said) == 1


def test_a_result_that_is_there_is_shown_and_measured_again_only_on_request(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(provenance, "_checkout", lambda package: (None, None))
    few = ["run", "--model", "zoo-llava", "--tasks", "shapesqa", "--limit", "8", "--metrics", "anisotropy"]
    _, first, _ = run(*few)
    (file,) = result_files(Path("results"))
    written = file.stat().st_mtime_ns

    status, out, _ = run(*few)
    assert status == 0 and file.stat().st_mtime_ns == written and out == first
    assert f"the result of this run is there: {file}. --again measures it anew" in caplog.text

    assert run(*few, "--again")[0] == 0
    assert file.stat().st_mtime_ns > written


def test_an_adapter_of_ones_own_is_measured_again_since_its_tokenizer_has_no_digest(run, monkeypatch):
    monkeypatch.setattr(provenance, "_checkout", lambda package: (None, None))
    written = []
    for _ in range(2):
        assert measure_toy(run, "--metrics", "anisotropy")[0] == 0
        written.append(result_files(Path("results"))[0].stat().st_mtime_ns)
    assert written[1] > written[0]


@pytest.mark.parametrize("changed", ["torch", "the task", "the code", "a store"])
def test_a_result_of_another_software_or_task_is_measured_again(run, tmp_path, monkeypatch, changed):
    monkeypatch.setattr(provenance, "_checkout", lambda package: (None, None))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"q": "What is it?", "a": "this"}\n' * 24)
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {rows}\ntest_split: test\n"
        "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\nmetadata:\n  version: 1\n"
    )
    command = ["run", "--model", "zoo-llava", "--tasks", "mine.yaml", "--metrics", "anisotropy", "--quiet"]
    assert run(*command)[0] == 0
    (file,) = result_files(Path("results"))
    written = file.stat().st_mtime_ns
    if changed == "torch":
        monkeypatch.setattr(provenance, "version", lambda name: "0")
    elif changed == "the code":
        monkeypatch.setattr(provenance, "_checkout", lambda package: ("0" * 40, True))
    elif changed == "a store":
        command += ["--keep_store"]
    else:
        (tmp_path / "mine.yaml").write_text((tmp_path / "mine.yaml").read_text().replace("{{q}}", "{{q}} Say it."))
    assert run(*command)[0] == 0
    assert any(path.stat().st_mtime_ns > written for path in result_files(Path("results")))
