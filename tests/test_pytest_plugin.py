"""The fixture ``geometry_regression`` as another project's tests would use it: pytest within pytest."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from msgspec.structs import replace

from microscope_bench.errors import ResultError
from microscope_bench.results.result import Result, load_result
from tests.publish.hostile import UNPRINTABLE, is_harmless
from tests.publish.small import SMALL, small
from tests.results.sample import failed, with_scores

pytest_plugins = ["pytester"]
PLUGIN = "microscope_bench.pytest_plugin"
TEST = """
from pathlib import Path
from microscope_bench import load_result

def test_inside(geometry_regression):
    geometry_regression(load_result(Path(__file__).parent / "new.json"))
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory with one test; its own plug-ins, whatever is installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(test_model=TEST)
    SMALL.save(pytester.path / "new.json")
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    return project.runpytest_inprocess("-p", PLUGIN, *options)


def baseline(project: pytest.Pytester) -> Path:
    return project.path / "test_model" / "test_inside.json"


def test_without_a_baseline_it_fails_and_says_how_to_write_one(project: pytest.Pytester) -> None:
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*there is no baseline *test_inside.json; look at the result*--update-geometry*"])
    assert not baseline(project).exists()


def test_update_writes_says_so_and_then_it_passes(project: pytest.Pytester) -> None:
    result = run(project, "--update-geometry")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["geometry baseline written, not compared: *test_inside.json"])
    assert load_result(baseline(project)) == SMALL
    before = baseline(project).read_bytes()
    result = run(project)
    result.assert_outcomes(passed=1)
    assert "baseline written" not in result.stdout.str()
    assert baseline(project).read_bytes() == before


def test_drift_fails_with_the_table_and_how_to_accept(project: pytest.Pytester) -> None:
    run(project, "--update-geometry")
    moved = with_scores(small(), lambda s: replace(s, value=0.5) if s.metric == "anisotropy" else s)
    moved.save(project.path / "new.json")
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["test_inside.json: the model changed: *", "*anisotropy top_share *", "If the change is meant, accept it*",
         "*pytest --update-geometry"]
    )  # fmt: skip
    assert "Traceback" not in result.stdout.str()
    run(project, "--update-geometry").assert_outcomes(passed=1)
    run(project).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (small(model={"dtype": "bfloat16"}), "not comparable: model.dtype differs"),
        (failed(small()), "not comparable: the new result is of a run that failed"),
    ],
)
def test_what_cannot_be_compared_fails(project: pytest.Pytester, new: Result, words: str) -> None:
    run(project, "--update-geometry")
    new.save(project.path / "new.json")
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{words}*"])


def test_a_failed_run_is_not_written_as_a_baseline(project: pytest.Pytester) -> None:
    failed(small()).save(project.path / "new.json")
    result = run(project, "--update-geometry")
    result.assert_outcomes(failed=1)
    assert not baseline(project).exists()


def test_a_broken_baseline_fails_and_is_not_replaced(project: pytest.Pytester) -> None:
    run(project, "--update-geometry")
    baseline(project).write_bytes(b"{}")
    run(project).assert_outcomes(failed=1)
    assert baseline(project).read_bytes() == b"{}"


def test_tolerances_fields_that_may_differ_and_names(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_model="""
        from msgspec.structs import replace
        import pytest
        from pathlib import Path
        from microscope_bench import load_result

        NEW = load_result(Path(__file__).parent / "new.json")
        SCORES = tuple(replace(s, value=s.value + 0.01) if s.metric == "anisotropy" else s for s in NEW.scores)
        MOVED = replace(NEW, scores=SCORES)
        BAD = replace(NEW, scores=tuple(replace(s, value=float("nan")) for s in NEW.scores))

        @pytest.mark.parametrize("number", [1, 2])
        def test_inside(geometry_regression, request, number):
            update = request.config.getoption("--update-geometry")
            geometry_regression(NEW if update else MOVED, tolerances={"anisotropy": "0.02"})
            other = replace(NEW.identity, model=replace(NEW.identity.model, dtype="float16"))
            signature = other.signature(NEW.environment.package_version)
            new = NEW if update else replace(NEW, identity=other, signature=signature)
            geometry_regression(new, name="half", allow=["model.dtype"])

        def test_typo(geometry_regression):
            geometry_regression(NEW, tolerances={"anisotropie": "0.02"})

        def test_nan(geometry_regression):
            geometry_regression(BAD)

        def test_twice(geometry_regression):
            geometry_regression(NEW)
            geometry_regression(NEW)
        """
    )
    run(project, "--update-geometry").assert_outcomes(passed=3, failed=2)
    assert {path.name for path in (project.path / "test_model").iterdir()} == {
        "test_inside_1_.json", "test_inside_2_.json", "half.json", "test_typo.json", "test_twice.json",
    }  # fmt: skip
    result = run(project)
    result.assert_outcomes(passed=2, failed=3)
    result.stdout.fnmatch_lines(["*Did you mean anisotropy*", "*two results for the baseline test_twice.json*"])


def test_tests_of_one_name_do_not_share_a_baseline_unless_they_say_so(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_model="""
        from pathlib import Path
        import pytest
        from microscope_bench import load_result

        NEW = load_result(Path(__file__).parent / "new.json")

        class TestA:
            def test_inside(self, geometry_regression):
                geometry_regression(NEW)

        class TestB:
            def test_inside(self, geometry_regression):
                geometry_regression(NEW)

        @pytest.mark.parametrize("text", ["a/b", "a__b"])
        def test_signs(geometry_regression, text):
            geometry_regression(NEW)

        @pytest.mark.parametrize("number", [1, 2])
        def test_shared(geometry_regression, number):
            geometry_regression(NEW, name="shared")
        """
    )
    result = run(project, "--update-geometry")
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["*two results for the baseline test_signs_a__b_.json*"])
    assert {path.name for path in (project.path / "test_model").iterdir()} == {
        "TestA.test_inside.json", "TestB.test_inside.json", "test_signs_a__b_.json", "shared.json",
    }  # fmt: skip


def test_it_is_an_entry_point_under_the_name_of_its_module() -> None:
    """So that a project may name it with -p, or turn it off with -p no:..., whether or not it is installed."""
    pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert pyproject["project"]["entry-points"]["pytest11"] == {PLUGIN: PLUGIN}
    found = [point for point in entry_points(group="pytest11") if point.name == PLUGIN]
    assert all(point.load().__name__ == PLUGIN for point in found)


def test_pytest_starts_without_torch(tmp_path: Path) -> None:
    (tmp_path / "test_light.py").write_text(
        "import sys\ndef test_light(pytestconfig):\n"
        "    assert pytestconfig.getoption('--update-geometry') is False\n"
        "    assert not {'torch', 'numpy', 'transformers', 'jsonschema'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", PLUGIN, "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_it_says_of_foreign_text_is_printable(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    def problem(*_: object) -> str:
        raise ResultError(UNPRINTABLE)

    monkeypatch.setattr(f"{PLUGIN}._problem", problem)
    result = run(project, "--tb=line", "-rN")
    said = [line for line in result.outlines if "test_inside.json: not comparable" in line or "owned" in line]
    assert len(said) > 1 and all(map(is_harmless, said))
