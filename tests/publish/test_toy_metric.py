"""A metric is one record: registered, it stands in a result and on every page without another line anywhere."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace

from microscope_bench.cli.main import main
from microscope_bench.metrics.record import Headline, Metric, ToleranceByDtype
from microscope_bench.metrics.registry import METRICS
from microscope_bench.publish.compare.tolerances import Tolerance, Tolerances
from microscope_bench.publish.leaderboard.board import board_of
from microscope_bench.publish.output_forms import render_citation, render_leaderboard
from microscope_bench.publish.report.page import render
from microscope_bench.publish.terminal import summary_table
from microscope_bench.results.plausibility import implausible
from microscope_bench.results.result import Result
from tests.publish.small import nothing
from tests.results.sample import forge, sample, with_scores

TOY = Metric(
    name="toy",
    version=7,
    title="toy spread",
    explanation="how far the toy spreads",
    estimators=("plain",),
    scores=lambda cloud: (),
    headlines=(
        Headline(estimator="plain", title="toy column", explanation="toys spread over the floor", extreme="max"),
    ),
    low=0,
    high=1,
    tolerance=ToleranceByDtype("0.125", "0.25", "0.5"),
    cited_as="counted by hand",
)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS._objects, "toy", TOY)


def with_toy(shift: float = 0.0, **identity: object) -> Result:
    """The example result with scores of the toy beside those of anisotropy."""
    base = sample(**identity)
    toys = [
        replace(score, metric="toy", estimator="plain", value=0.25 + shift)
        for score in base.scores
        if score.metric == "anisotropy"
    ]
    metrics = {**base.identity.metrics, "toy": 7}
    return replace(base, identity=replace(base.identity, metrics=metrics), scores=(*base.scores, *toys))


def write(result: Result, path: str | Path) -> None:
    Path(path).write_text(json.dumps(forge(result.to_dict())), encoding="utf-8")


def cells_of(text: str, form: str) -> Iterable[str]:
    if form == "csv":
        return [f"{row['metric']} {row['mean']}" for row in csv.DictReader(io.StringIO(text))]
    if form == "json":
        return [f"{row['metric']} {row['mean']}" for row in json.loads(text)["rows"]]
    return [text.replace("\N{NO-BREAK SPACE}", " ")]


@pytest.mark.parametrize("form", ["markdown", "html", "latex", "csv", "json"])
def test_it_is_a_column_of_every_form_of_the_leaderboard(form: str) -> None:
    text = render_leaderboard(form, board_of([("a.json", with_toy())]), nothing)
    wanted = "toy 0.25" if form in ("csv", "json") else "toy column"
    assert any(wanted in cell for cell in cells_of(text, form))
    if form in ("markdown", "html"):
        assert "toys spread over the floor" in text and "toy 7" in text
    assert "0.25" in text
    without = render_leaderboard(form, board_of([("a.json", sample())]), nothing)
    assert "toy" not in without


def test_it_is_explained_by_its_own_words_in_the_report() -> None:
    page = render([with_toy()])
    assert "toys spread over the floor" in page and "toy column over relative depth" in page
    assert "toy" not in render([sample()])


def test_terminal_and_citation_name_it() -> None:
    assert "toy column" in summary_table(with_toy())
    text = render_citation("text", [("a.json", with_toy())], nothing)
    assert "toy spread (counted by hand, version 7)" in text
    assert "toy column" in render_citation("latex", [("a.json", with_toy())], nothing)


def test_its_tolerance_and_its_range_are_those_of_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Tolerances().find("toy", "plain", ("float32", "float32")) == Tolerance(0.125)
    paths = [str(tmp_path / name) for name in ("a.json", "b.json", "c.json")]
    for path, shift in zip(paths, (0.0, 0.1, 0.2), strict=True):
        write(with_toy(shift), path)
    assert main(["compare", *paths[:2]]) == 0
    assert main(["compare", paths[0], paths[2]]) == 1
    assert "toy plain" in capsys.readouterr().out
    assert not any("toy" in problem for problem in implausible(with_toy()))
    assert any("toy" in problem for problem in implausible(with_toy(1.0)))


def test_it_is_drawn_with_the_others_and_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    write(with_toy(), tmp_path / "a.json")
    assert main(["plot", str(tmp_path / "a.json"), "-o", str(tmp_path / "plots")]) == 0
    assert [path.name for path in (tmp_path / "plots").glob("*.toy.svg")]
    assert main(["plot", str(tmp_path / "a.json"), "--metric", "toy", "-o", str(tmp_path / "toy.svg")]) == 0
    assert "toy column" in (tmp_path / "toy.svg").read_text(encoding="utf-8")


def test_a_metric_that_nobody_registers_is_listed_and_not_shown() -> None:
    base = sample()
    result = replace(base, identity=replace(base.identity, metrics={**base.identity.metrics, "elsewhere": 1}))
    assert "in the result file too: elsewhere" in summary_table(with_scores(result, lambda score: score))
    assert "elsewhere (version 1)" in render_citation("text", [("a.json", result)], nothing)
