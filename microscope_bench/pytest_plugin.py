"""Fixture ``geometry_regression`` for pytest: a result held against a baseline that lies beside the test.

pytest loads this file at its start wherever the package is installed, so it imports nothing of weight until a test asks
for the fixture. ``docs/ci.md`` shows how to use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from microscope_bench.results.result import Result

UPDATE = "--update-geometry"
_WRITTEN = pytest.StashKey[list[Path]]()
_OWNERS = pytest.StashKey[dict[Path, str]]()
"""Baseline → the test it is named after: two tests of one name in a module would share one without knowing."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the flag that writes baselines."""
    group = parser.getgroup("microscope-bench", "geometry of multimodal LLMs")
    group.addoption(
        UPDATE,
        action="store_true",
        default=False,
        help="write what geometry_regression is given as the new baselines, instead of comparing",
    )


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Says which baselines were written: such a run has compared nothing."""
    for path in config.stash.get(_WRITTEN, []):
        from microscope_bench.system.printable import printable

        terminalreporter.write_line(f"geometry baseline written, not compared: {printable(path)}")


@pytest.fixture
def geometry_regression(request: pytest.FixtureRequest) -> GeometryRegression:
    """Holds a result against its baseline, ``<test module>/<test name>.json`` beside the test's file
    (``<class>.<test name>.json`` in a class).

    ::

        def test_inside(geometry_regression):
            geometry_regression(evaluate("zoo-llava", "shapesqa", limit=126))
    """
    return GeometryRegression(request)


class GeometryRegression:
    """What the fixture gives; call it with a result, or let it measure one."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._directory = request.path.parent / request.path.stem
        self._test = request.node.nodeid
        self._config = request.config
        self._used: set[Path] = set()

    def __call__(
        self,
        result: Result,
        *,
        name: str = "",
        tolerances: Mapping[str, str] | None = None,
        allow: Iterable[str] = (),
    ) -> None:
        """Fails the test unless the result is within tolerance of its baseline.

        Args:
            result: what was measured.
            name: of the baseline in place of the test's name, where a test has several or several tests have one.
            tolerances: as ``--tolerance`` has them: ``{"intrinsic_dimension": "3%"}``.
            allow: as ``--allow`` has them: ``["model.dtype"]``.
        """
        from microscope_bench.errors import MicroscopeError
        from microscope_bench.results.result import Result
        from microscope_bench.system.printable import printable_lines

        __tracebackhide__ = True
        if not isinstance(result, Result):
            raise TypeError(
                f"geometry_regression takes a Result (of evaluate or load_result), not {type(result).__name__}"
            )
        path = self._path(name)
        try:
            # as if it had been written and read: what no result file may hold (NaN, a row twice) is refused
            checked = Result.from_dict(result.to_dict())
            if self._config.getoption(UPDATE):
                problem = self._update(checked, path)
            else:
                problem = _problem(checked, path, tolerances, allow)
        except MicroscopeError as error:
            problem = f"not comparable: {error}"
        if problem:
            pytest.fail(printable_lines(f"{path.name}: {problem}"), pytrace=False)

    def evaluate(
        self,
        model: Any,
        task: Any,
        *,
        name: str = "",
        tolerances: Mapping[str, str] | None = None,
        allow: Iterable[str] = (),
        **options: Any,
    ) -> Result:
        """Measures a model on a task and holds the result against its baseline."""
        from microscope_bench.run.evaluate import evaluate

        __tracebackhide__ = True
        result = evaluate(model, task, **{"progress": False, **options})
        self(result, name=name, tolerances=tolerances, allow=allow)
        return result

    def _path(self, name: str) -> Path:
        from microscope_bench.results.result_files import safe_name

        own = self._test.partition("::")[2].replace("::", ".")
        path = self._directory / f"{safe_name(name or own)}.json"
        owner = self._test if name else self._config.stash.setdefault(_OWNERS, {}).setdefault(path, self._test)
        if path in self._used or owner != self._test:
            pytest.fail(f"two results for the baseline {path.name}; tell them apart with name=", pytrace=False)
        self._used.add(path)
        return path

    def _update(self, result: Result, path: Path) -> str:
        from microscope_bench.results.result import FAILED

        if result.status == FAILED:
            return "a run that failed cannot be a baseline"
        result.save(path)
        self._config.stash.setdefault(_WRITTEN, []).append(path)
        return ""


def _problem(result: Result, path: Path, tolerances: Mapping[str, str] | None, allow: Iterable[str]) -> str:
    """Why the result does not pass, or ""."""
    from microscope_bench.publish.compare.comparison import WITHIN
    from microscope_bench.publish.compare.forms import as_text
    from microscope_bench.publish.compare.paths import compare_to_file
    from microscope_bench.publish.compare.tolerances import Tolerance, Tolerances

    if not path.is_file():
        return f"there is no baseline {path}; look at the result, then write it with: pytest {UPDATE}"
    chosen = {of: Tolerance.parse(text) for of, text in (tolerances or {}).items()}
    found = compare_to_file(result, path, Tolerances(chosen), allow, accept=(f"pytest {UPDATE}",))
    return "" if found.status == WITHIN else as_text(found)
