"""``run`` with lm-eval's options, on tasks that the test writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from microscope_bench import load_result
from microscope_bench.cli.main import main
from microscope_bench.config import RunConfig
from microscope_bench.errors import MicroscopeError
from tests.toy import result_files

TOY = f"{Path(__file__).parent.parent / 'toy.py'}:ToyAdapter"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Two tasks of 40 rows in a group ``both``; runs a command line and returns its status and what it complained."""
    monkeypatch.chdir(tmp_path)
    for name, n_choices in (("lettered", "['A', 'B']"), ("continued", "['one way', 'another way']")):
        rows = [{"q": f"{name} question {i} of {i * i}?", "a": i % 2} for i in range(40)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        (tmp_path / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/{name}.json}}}}\n"
            f"test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{{{q}}}}'\ndoc_to_choice: {n_choices}\n"
            "doc_to_target: a\nmetadata: {version: 3}\n"
        )
    (tmp_path / "both.yaml").write_text("group: both\ntask: [lettered, continued]\n")

    def command(*more):
        metrics = ["--metrics", "anisotropy", "--include_path", "."]
        status = main(["run", "--model", TOY, "--tasks", "both", *metrics, *map(str, more)])
        return status, capsys.readouterr().err

    return command


def results():
    return {result.identity.task.name: result for result in map(load_result, result_files(Path("results")))}


def test_a_group_is_measured_and_the_result_says_how_it_was_asked(run, caplog):
    status, _ = run("--limit", "0.3", "--num_fewshot", "1", "--system_instruction", "Be brief.", "--seed", "0,1,2,3")
    assert status == 0 and "both: 2 tasks: lettered, continued" in caplog.text
    lettered, continued = (results()[name] for name in ("lettered", "continued"))
    assert lettered.identity.task.version.startswith("3+num_fewshot:1,fewshot_seed:3,system_instruction:")
    assert lettered.identity.n_examples == lettered.identity.protocol.limit == 12
    assert "|task:lettered@3+num_fewshot:1,fewshot_seed:3,system_instruction:" in lettered.signature
    assert "limit=12" in lettered.signature and lettered.identity.protocol.seed == 0
    assert lettered.accuracy.reason is None or "letter" not in lettered.accuracy.reason
    assert continued.accuracy.value is None and "more than a letter" in continued.accuracy.reason
    assert all(score.value is not None for score in continued.scores)


def test_sample_draws_rows_of_each_task_by_the_seed(run):
    assert run("--sample", "12")[0] == 0
    lettered, continued = (results()[name].identity for name in ("lettered", "continued"))
    assert lettered.n_examples == continued.n_examples == 12 and lettered.protocol.limit is None
    assert lettered.task.version == continued.task.version
    assert (
        lettered.task.version.startswith("3+sample:12@") and "--sample 12" in results()["lettered"].environment.command
    )
    assert run("--sample", "12", "--seed", "1")[0] == 0
    assert results()["lettered"].identity.example_ids_sha256 != lettered.example_ids_sha256


def test_samples_pick_rows_of_one_task_and_leave_the_other_whole(run, tmp_path):
    (tmp_path / "rows.txt").write_text('{"continued": [3, 1, 39]}')
    assert run("--samples", "rows.txt")[0] == 0
    found = results()
    assert {name: result.identity.n_examples for name, result in found.items()} == {"lettered": 40, "continued": 3}
    assert (
        found["continued"].identity.task.version.startswith("3+samples:3@") and "3+" not in found["lettered"].signature
    )


@pytest.mark.parametrize(
    "more, message",
    [
        (["--samples", '{"lettered": [1]}', "--limit", "3"], "exclude each other"),
        (["--sample", "3", "--limit", "3"], "sample draws the rows, which limit and samples choose otherwise"),
        (["--sample", "3", "--samples", '{"lettered": [1]}'], "sample draws the rows, which limit and samples"),
        (["--sample", "0"], "sample must be at least 1, not 0"),
        (["--samples", '{"letered": [1]}'], "Did you mean lettered"),
        (
            ["--apply_chat_template", "--model_args", "use_chat_template=false"],
            "are one setting, leave one of them out",
        ),
    ],
)
def test_contradictions_are_refused_before_anything_is_measured(run, more, message):
    status, err = run(*more)
    assert status == 2 and message in err and not Path("results").exists()


@pytest.mark.parametrize(
    "more, message",
    [
        (["--limit", "2.5"], "limit must be a positive whole number, or a share between 0 and 1"),
        (["--limit", "0"], "limit must be a positive whole number, or a share between 0 and 1"),
        (["--seed", "1,2"], "one seed, or four"),
        (["--seed", "none"], "seed must be a whole number"),
        (["--samples", "nowhere.json"], "neither JSON nor a file of JSON"),
        (["--samples", '{"lettered": 3}'], "is not of the form"),
        (["--num_fewshot", "-1"], "num_fewshot must be at least 0"),
        (["--apply_chat_template", "mistral"], "cannot be named"),
    ],
)
def test_values_that_mean_nothing_are_refused(run, more, message):
    status, err = run(*more)
    assert status == 2 and message in err and not Path("results").exists()


@pytest.mark.parametrize("option", [["--log_samples"], ["--gen_kwargs", "temperature=0"], ["--predict_only"]])
def test_options_about_answers_point_to_the_command_that_has_them(option, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "--model", "zoo-llava", "--tasks", "shapesqa", *option])
    assert ended.value.code == 2
    assert f"{option[0]} is about the answers" in (said := capsys.readouterr().err) and "microscope-lm-eval" in said


def test_a_nul_in_an_argument_is_told(capsys):
    for arguments in (["validate", "a\0b"], ["run", "--model", "zoo-llava", "--tasks", "a\0.yaml"], ["plot", "a\0"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2 and "holds a NUL character" in capsys.readouterr().err
    with pytest.raises(MicroscopeError, match=r"output_path: .* holds a NUL character"):
        RunConfig(output_path="a\0b")
