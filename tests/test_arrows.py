"""The rooms of the package and the arrows between them, read from the import statements."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "microscope_bench"

FOUNDATION = {"errors", "rgb_pictures", "example", "protocol", "identity", "system"}
"""What every room stands on."""

ARROWS = {
    "config": {"metrics", "controls", "adapters"},
    "cli": {
        "config",
        "run",
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
    "run": {"config", "capture", "causal", "measure", "tasks", "results", "adapters", "metrics", "controls"},
    "figures": {"run", "capture", "measure", "metrics", "adapters", "controls", "publish", "results"},
    "check": {"capture", "adapters"},
    "controls": {"capture", "adapters"},
    "capture": {"adapters"},
    "causal": {"capture", "adapters"},
    "measure": {"config", "capture", "metrics", "adapters", "results"},
    "publish": {"results", "metrics"},
    "pytest_plugin": {"publish", "results", "run"},
    "adapters": set(),
    "zoo": {"adapters", "tasks"},
    "lm_eval_plugin": {"config", "adapters", "capture", "run", "results", "tasks", "publish"},
    "callbacks": {"config", "adapters", "run", "results", "tasks", "publish"},
    "tasks": set(),
    "metrics": set(),
    "results": {"metrics"},
}
"""Room → the rooms that its files may import; of ``metrics``, publish and results see the records alone."""

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
        if f.relative_to(PACKAGE).parts[0] in ("results", "publish", "protocol.py", "identity.py", "errors.py")
    ],
    ids=lambda f: f.relative_to(PACKAGE).as_posix(),
)
def test_results_and_publish_never_see_a_tensor(file):
    assert not {name.split(".")[0] for name in imports_of(file)} & (HEAVY - {"numpy"} | {"torch"})


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows_between_files() -> dict[str, set[str]]:
    """Module → the modules of ours that it imports, those under TYPE_CHECKING and inside functions included."""
    modules = {module_of(file): file for file in files()}
    found: dict[str, set[str]] = {}
    for name, file in modules.items():
        wanted = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module in modules:
                inside = {f"{node.module}.{alias.name}" for alias in node.names} & modules.keys()
                wanted |= inside or {node.module}
            elif isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names} & modules.keys()
        found[name] = wanted - {name}
    return found


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Sets of files that can each be reached from each other (Tarjan's algorithm, by repeated reachability)."""

    def reached(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            for target in arrows[waiting.pop()] - seen:
                seen.add(target)
                waiting.append(target)
        return seen

    reach = {name: reached(name) for name in arrows}
    return [group for group in {frozenset(o for o in reach[n] if n in reach[o]) for n in arrows} if len(group) > 1]


def test_no_two_files_import_each_other_by_any_way():
    lazy = {"microscope_bench", "microscope_bench.metrics"}  # packages whose public names load on first use
    arrows = {name: targets - lazy for name, targets in arrows_between_files().items() if name not in lazy}
    assert not [sorted(group) for group in circles(arrows)]


def test_no_two_files_have_one_name():
    names: dict[str, list[str]] = {}
    for file in files():
        if file.name not in ("__init__.py", "base.py") and file.parent.name != "cli":
            names.setdefault(file.name, []).append(file.relative_to(PACKAGE).as_posix())
    assert not {name: found for name, found in names.items() if len(found) > 1}


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
        ("import microscope_bench.publish.leaderboard.markdown_page", {"torch", "transformers", "lm_eval", "datasets"}),
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
    names = "microscope_bench.results.result, microscope_bench.publish.leaderboard.markdown_page"
    code = f"import sys; sys.modules['fcntl'] = None; import {names}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tests_share_what_they_share_by_modules_that_hold_no_test():
    tests = Path(__file__).parent
    found = {
        file.relative_to(tests).as_posix(): shared
        for file in tests.rglob("*.py")
        if (shared := {name for name in imports_of(file) if name.startswith("tests.") and ".test_" in name})
    }
    assert not found
