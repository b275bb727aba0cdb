"""What docs/ci.md offers, run as it stands there: the scripts of the GitHub Action, and every command of the page."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import yaml

from microscope_bench.cli.main import build_parser
from microscope_bench.metrics.record import USUAL_TOLERANCE
from microscope_bench.metrics.registry import METRICS
from microscope_bench.publish.compare.tolerances import DTYPES, default_tolerance
from microscope_bench.results.result import load_result
from tests.publish.small import small
from tests.results.sample import forge

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / ".github/actions/geometry/action.yml").read_text())
PAGE = (ROOT / "docs/ci.md").read_text()
BASELINES = ROOT / "tests/baselines"

Step = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def step(tmp_path: Path) -> Step:
    """Runs one step of the action, or another script, as a runner would: its environment, the inputs put in."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "microscope-bench"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m microscope_bench.cli.main "$@"\n')
    command.chmod(0o755)
    defaults = {name: entry.get("default") for name, entry in ACTION["inputs"].items()}

    def run(
        name: str = "", script: str = "", variables: dict[str, str] | None = None, **inputs: object
    ) -> subprocess.CompletedProcess[str]:
        listed = [{"name": "", "run": script, "env": {}}, *ACTION["runs"]["steps"]]
        (one,) = (entry for entry in listed if entry["name"] == name)
        values = {**defaults, **{key: str(value) for key, value in inputs.items()}}
        environment = {
            variable: values[re.fullmatch(r"\$\{\{ inputs\.(\w+) \}\}", text)[1]]
            for variable, text in one["env"].items()
        }
        path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        summary = {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", one["run"]],
            env={**os.environ, **path, **summary, **environment, **(variables or {})},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_action_on_a_model_of_the_zoo_and_its_committed_baseline(step: Step, tmp_path: Path) -> None:
    measured = step("Measure", model="zoo-llava", limit=126, device="cpu", batch_size=4)
    assert (measured.returncode, measured.stdout, measured.stderr) == (0, "", "")
    compared = step("Compare", baseline=BASELINES)
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert compared.stdout.startswith("nothing changed: all values agree")
    assert (tmp_path / "summary.md").read_text().startswith("### Geometry: within tolerance")
    assert step("Measure", model="zoo-llava", limit=126).returncode == 2, "old results are not measured over"


def test_the_action_installs_the_repository_it_is_of_or_what_is_named(step: Step, tmp_path: Path) -> None:
    python = tmp_path / "bin/python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    variables = {"GITHUB_ACTION_PATH": str(ROOT / ".github/actions/geometry")}
    *words, place = step("Install", variables=variables).stdout.splitlines()
    assert words == ["-m", "pip", "install"] and (Path(place) / "pyproject.toml").samefile(ROOT / "pyproject.toml")
    assert step("Install", install="a b.whl", variables=variables).stdout.splitlines()[3:] == ["a b.whl"]


@pytest.mark.heavy
def test_the_action_hands_its_inputs_to_the_run(step: Step, tmp_path: Path) -> None:
    """A task of one's own, other metrics, a device and a batch size: what the result says of itself."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/few.yaml").write_text(f"include: {ROOT}/tasks/shapesqa/shapesqa.yaml\ntask: few\n")
    inputs = {"include_path": "tasks", "task_args": "n=30", "metrics": "anisotropy", "device": "cpu", "batch_size": 3}
    measured = step("Measure", model="zoo-llava", tasks="few", limit=9, **inputs)
    assert measured.returncode == 0, measured.stderr
    (path,) = (tmp_path / "geometry-results").rglob("few.json")
    result = load_result(path)
    assert set(result.identity.metrics) == {"anisotropy"} and result.identity.n_examples == 9
    command = result.environment.command
    assert all(words in command for words in ("--task_args n=30", "--device cpu", "--batch_size 3"))


def test_the_gitlab_job_measures_and_compares(step: Step, tmp_path: Path) -> None:
    (job,) = (document["geometry"] for document in map(yaml.safe_load, blocks("yaml")) if "geometry" in document)
    install, *commands = job["script"]
    assert install == 'pip install "$GEOMETRY_PACKAGE"'
    options = job["variables"]["GEOMETRY_OPTIONS"]
    build_parser(["run"]).parse_args(["run", *shlex.split(options)])
    few = "--model zoo-llava --tasks shapesqa --limit 8 --metrics anisotropy --device cpu --batch_size 4"
    (tmp_path / "tests").mkdir()
    step(script=f"{commands[0]} && mv results tests/geometry", variables={"GEOMETRY_OPTIONS": few})
    compared = step(script="set -e\n" + "\n".join(commands), variables={"GEOMETRY_OPTIONS": few})
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert compared.stdout.startswith("nothing changed: all values agree")


def test_the_steps_end_with_the_status_of_the_comparison(step: Step, tmp_path: Path) -> None:
    for folder in ("base", "new"):
        small().save(tmp_path / folder / "x.json")
    assert step("Compare", baseline="base", results="new", tolerance="anisotropy=0.01 linearity=3%").returncode == 0
    document = small().to_dict()
    for score in document["scores"]:
        score["value"] += 0.005 if score["metric"] == "anisotropy" else 0
    (tmp_path / "new/x.json").write_text(json.dumps(forge(document)))
    drift = step("Compare", baseline="base", results="new")
    assert drift.returncode == 1 and "anisotropy top_share" in drift.stdout
    assert "### Geometry: drift" in (tmp_path / "summary.md").read_text()
    assert step("Compare", baseline="base", results="new", tolerance="anisotropy=0.01").returncode == 0
    assert step("Compare", baseline="base", results="new", tolerance="anisotropie=0.01").returncode == 2
    assert step("Compare", baseline="none", results="new").returncode == 2
    small(model={"dtype": "float16"}).save(tmp_path / "new/x.json")
    assert step("Compare", baseline="base", results="new").returncode == 2
    assert step("Compare", baseline="base", results="new", allow="model.dtype").returncode == 0


def test_no_input_can_become_a_command(step: Step, tmp_path: Path) -> None:
    for folder in ("base", "new"):
        small().save(tmp_path / folder / "x.json")
    evil = '"; touch broken; $(touch broken) `touch broken` *'
    for names in (("tolerance", "allow"), ("baseline", "results")):
        assert step("Compare", **{"baseline": "base", "results": "new", **dict.fromkeys(names, evil)}).returncode == 2
    assert not (tmp_path / "broken").exists()
    assert all("${{" not in entry["run"] for entry in ACTION["runs"]["steps"])


def test_the_committed_baseline_is_a_valid_result() -> None:
    (path,) = BASELINES.rglob("*.json")
    assert load_result(path).identity.protocol.limit == 126


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_every_command_of_the_page_is_one_that_the_program_takes() -> None:
    lines = [line.strip() for block in [*blocks("sh"), *blocks("yaml")] for line in block.splitlines()]
    joined = "\n".join(lines).replace("\\\n", " ")
    commands = [line.removeprefix("- ") for line in joined.splitlines() if "microscope-bench " in line]
    commands = [line.partition("||")[0] for line in commands if line.startswith("microscope-bench ")]
    assert len(commands) >= 5
    for command in commands:
        # the options of the GitLab job are those of a variable
        options = "--model zoo-llava --tasks shapesqa"
        arguments = shlex.split(command.replace("$GEOMETRY_OPTIONS", options), comments=True)[1:]
        build_parser(arguments).parse_args(arguments)


def test_the_pages_snippets_are_yaml_and_give_the_action_what_it_takes() -> None:
    documents: list[Any] = [yaml.safe_load(block) for block in blocks("yaml")]
    uses = [
        entry
        for document in documents
        for job in document.get("jobs", {}).values()
        for entry in job["steps"]
        if "actions/geometry" in entry.get("uses", "")
    ]
    assert uses
    required = {name for name, entry in ACTION["inputs"].items() if entry.get("required")}
    for entry in uses:
        assert required <= entry["with"].keys() <= ACTION["inputs"].keys()
    assert sum("geometry" in document for document in documents) == 1


def test_the_pages_tolerances_are_the_ones_in_the_code() -> None:
    metrics = [METRICS.get(name) for name in METRICS]
    records = {metric.name: metric for metric in metrics if metric.tolerance != USUAL_TOLERANCE}
    named = [(name, "") for name in [*records, "accuracy", "skipped", "sinks"]]
    named += [(name, estimator) for name, record in records.items() for estimator in record.estimator_tolerances]
    known = {".".join(filter(None, name)): [str(default_tolerance(*name, dtype)) for dtype in DTYPES] for name in named}
    known[""] = list(astuple(USUAL_TOLERANCE))
    assert not [m.name for m in metrics if m.estimator_tolerances and m.name not in records]
    rows = re.findall(r"^\| (`.+?`|any other metric) \| (\S+) \| (\S+) \| (\S+) \|$", PAGE, re.MULTILINE)
    listed = {name.strip("`") if name.startswith("`") else "": values for name, *values in rows}
    assert listed == known
