"""The rooms of the package and the arrows between them, read from the import statements."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "microscope_bench"

FOUNDATION = {
    "errors",
    "registry",
    "examples",
    "protocol",
    "arguments",
    "hub",
    "devices",
    "disk",
    "memory",
    "processes",
    "signals",
}
ARROWS = {
    "cli": {
        "runner",
        "remeasure",
        "resolve",
        "check",
        "publish",
        "adapters",
        "tasks",
        "metrics",
        "results",
        "measure",
        "controls",
        "figures",
        "capture",
    },
    "runner": {
        "resolve",
        "capture",
        "remeasure",
        "measure",
        "tasks",
        "results",
        "adapters",
        "metrics",
        "assemble",
        "controls",
    },
    "figures": {"remeasure", "capture", "measure", "metrics", "adapters", "controls", "publish", "results"},
    "remeasure": {"capture", "measure", "assemble", "metrics", "results"},
    "resolve": {"tasks", "adapters"},
    "assemble": {"capture", "measure", "results", "metrics"},
    "check": {"capture", "adapters"},
    "controls": {"capture", "adapters"},
    "capture": {"adapters"},
    "measure": {"capture", "metrics", "adapters", "results"},
    "publish": {"results"},
    "pytest_plugin": {"publish", "results", "runner"},
    "adapters": set(),
    "zoo": {"adapters", "tasks"},
    "lm_eval_plugin": {"adapters", "capture", "measure", "assemble", "metrics", "results", "tasks", "publish"}
    | {"resolve"},
    "tasks": set(),
    "metrics": set(),
    "results": set(),
}
HEAVY = {"torch", "numpy", "transformers", "lm_eval", "datasets", "safetensors", "scipy", "sklearn"}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "microscope_bench":
                found |= {f"microscope_bench.{alias.name}" for alias in node.names}
    return found


def files():
    return [
        f for f in sorted(PACKAGE.rglob("*.py")) if f.name not in ("__main__.py",) and f.parent != PACKAGE / "_tasks"
    ]


@pytest.mark.parametrize("file", files(), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_imports_follow_the_arrows(file):
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("__init__",):
        return
    allowed = {room, ""} | FOUNDATION | ARROWS.get(room, set())
    ours = {room_of(name) for name in imports_of(file) if name.split(".")[0] == "microscope_bench"}
    forbidden = {name for name in ours - allowed if name != "__version__"}
    assert not forbidden, f"{room} must not import {sorted(forbidden)}"


@pytest.mark.parametrize(
    "file",
    [
        f
        for f in files()
        if f.relative_to(PACKAGE).parts[0] in ("results", "publish", "protocol.py", "registry.py", "errors.py")
    ],
    ids=lambda f: f.relative_to(PACKAGE).as_posix(),
)
def test_results_and_publish_never_see_a_tensor(file):
    assert not {name.split(".")[0] for name in imports_of(file)} & (HEAVY - {"numpy"} | {"torch"})


@pytest.mark.parametrize("file", files(), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_only_tasks_and_one_file_of_the_plugin_know_lm_eval(file):
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = room == "tasks" or file.relative_to(PACKAGE).as_posix() == "lm_eval_plugin/internals.py"
    assert allowed or not {n for n in imports_of(file) if n.split(".")[0] in ("lm_eval", "datasets")}


@pytest.mark.parametrize(
    "statement, forbidden",
    [
        ("import microscope_bench", HEAVY),
        ("import microscope_bench.cli.main", {"torch", "transformers", "lm_eval", "datasets"}),
        ("import microscope_bench.adapters.presets", {"torch", "transformers", "lm_eval", "datasets"}),
        ("import microscope_bench.publish.leaderboard", {"torch", "transformers", "lm_eval", "datasets"}),
        ("import microscope_bench.publish.compare.forms", HEAVY),
        ("import microscope_bench.pytest_plugin", HEAVY | {"jsonschema", "tabulate"}),
        ("import microscope_bench.capture.listing", HEAVY),
        ("import microscope_bench.metrics", {"transformers", "lm_eval", "datasets"}),
        (
            "import microscope_bench.capture.loop, microscope_bench.adapters.base, microscope_bench.measure",
            {"lm_eval", "datasets", "jsonschema", "tabulate", "accelerate", "jinja2", "matplotlib", "pandas"},
        ),
    ],
)
def test_importing_stays_light(statement, forbidden):
    code = f"import sys; {statement}; print(' '.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & forbidden


def test_results_are_read_where_there_are_no_unix_locks():
    names = "microscope_bench.results.result, microscope_bench.publish.leaderboard"
    code = f"import sys; sys.modules['fcntl'] = None; import {names}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
