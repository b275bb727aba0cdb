"""A comparison as text, markdown and JSON: what is in it, and that no text of a file escapes from it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from microscope_bench.cli.main import main
from microscope_bench.publish.compare.comparison import compare_results
from microscope_bench.publish.compare.forms import FORMS
from microscope_bench.publish.compare.paths import Comparisons, FilePair
from microscope_bench.publish.compare.table import SHOWN, rows_of
from microscope_bench.publish.compare.tolerances import Tolerances
from microscope_bench.results.result import Result
from tests.publish.hostile import HOSTILE, rendered
from tests.publish.small import SMALL, small
from tests.results.sample import sample, with_scores


def drifted(by: float = 0.5) -> Result:
    return with_scores(
        small(), lambda s: replace(s, value=(s.value or 0) + by) if s.metric == "anisotropy" and s.layer < 2 else s
    )


def report(baseline: Result, new: Result, name: str = "x.json", allow: tuple[str, ...] = ()) -> Comparisons:
    accept = (f"cp -- new/{name} base/{name}",)
    pair = FilePair(name, Path("base") / name, Path("new") / name, accept)
    return Comparisons(((pair, compare_results(baseline, new, Tolerances(), allow)),))


DRIFT = report(SMALL, drifted())
REPORTS = {
    "within": report(SMALL, SMALL),
    "drift": DRIFT,
    "refused": report(SMALL, small(n_examples=3)),
    "several": Comparisons((*DRIFT.outcomes, *report(SMALL, SMALL, "y.json").outcomes)),
}


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("name", sorted(REPORTS))
def test_the_same_results_give_the_same_text(form: str, name: str) -> None:
    text = FORMS[form](REPORTS[name])
    assert text == FORMS[form](REPORTS[name])
    assert text.endswith("\n") and not text.endswith("\n\n")


def test_json_holds_everything() -> None:
    document = json.loads(FORMS["json"](DRIFT))
    assert (document["status"], document["exit_status"]) == ("drift", 1)
    (pair,) = document["results"]
    moved = {(s.modality, s.layer): s.value for s in drifted().scores if s.metric == "anisotropy" and s.layer < 2}
    assert {(row["modality"], row["layer"]): row["new"] for row in pair["drifts"]} == moved
    assert all(row["new"] - row["baseline"] == pytest.approx(0.5) for row in pair["drifts"])
    assert pair["n_values"] == pair["n_compared"] == len(SMALL.scores) + 1 + 1 + len(SMALL.sinks)
    assert pair["baseline"]["signature"] == SMALL.signature
    assert pair["baseline"]["accuracy"]["value"] == SMALL.accuracy.value
    assert pair["accept"] == ["cp -- new/x.json base/x.json"]
    # an infinite excess is null: JSON has no infinity
    gone = json.loads(FORMS["json"](report(SMALL, replace(SMALL, scores=SMALL.scores[1:]))))
    assert gone["results"][0]["drifts"][0]["excess"] is None
    identity = json.loads(FORMS["json"](REPORTS["refused"]))["results"][0]["identity"]
    assert identity == [
        {"field": "n_examples", "baseline": str(SMALL.identity.n_examples), "new": "3", "allowed": False}
    ]


def test_markdown_is_a_table_with_the_worst_first_and_how_to_accept() -> None:
    text = FORMS["markdown"](DRIFT)
    assert text.startswith("### Geometry: drift\n\nthe model changed: 6 of ")
    page = rendered(text)
    assert page.tags.count("table") == 1 and page.tags.count("tr") == 1 + 3
    assert "```sh\ncp -- new/x.json base/x.json\n```" in text


def test_a_long_table_is_cut_and_says_so() -> None:
    many = [replace(s, metric=f"m{i}") for i in range(SHOWN + 5) for s in SMALL.scores[:1]]
    metrics = {**SMALL.identity.metrics, **{score.metric: 1 for score in many}}
    result = replace(SMALL, scores=tuple(many), identity=replace(SMALL.identity, metrics=metrics))
    moved = replace(result, scores=tuple(replace(s, value=99.0) for s in many))
    for form in ("text", "markdown"):
        text = FORMS[form](report(result, moved))
        assert "... and 5 more; --format json lists all of them" in text
    assert len(json.loads(FORMS["json"](report(result, moved)))["results"][0]["drifts"]) == SHOWN + 5


def test_the_same_tokens_are_shown_once_and_headlines_first() -> None:
    (score,) = sample().series("linearity", "cross_fitted", "hidden", "image", "all")[:1]
    kinds = [("in_sample", "all"), ("cross_fitted", "all"), ("cross_fitted", "no_sinks")]
    rows = [
        replace(score, estimator=estimator, tokens=tokens, layer=layer, value=0.5)
        for estimator, tokens in kinds
        for layer in (0, 1, 2)
    ]
    base = replace(sample(), scores=tuple(rows))

    def shown(moves: tuple[float, float, float]) -> list[tuple[str, str]]:
        moved = [replace(row, value=0.5 + moves[kinds.index((row.estimator, row.tokens))]) for row in rows]
        drifts = compare_results(base, replace(base, scores=tuple(moved))).drifts
        assert len(drifts) == len(rows)
        return [row[:2] for row in rows_of(drifts)]

    headline, other = "linearity cross_fitted hidden image all", "linearity in_sample hidden image all"
    assert shown((0.4, 0.1, 0.1)) == [(headline, "0–2"), (other, "0–2")]
    without = "linearity cross_fitted hidden image no_sinks"
    assert shown((0.4, 0.1, 0.2)) == [(without, "0–2"), (headline, "0–2"), (other, "0–2")]


def everywhere(text: str) -> Comparisons:
    """A comparison in which ``text`` stands wherever a file can put text."""
    result = small(model={"name": text, "repo": text, "options": {text: text}})
    base = replace(
        with_scores(result, lambda s: replace(s, metric=text, estimator=text) if s.metric == "anisotropy" else None),
        signature=text,
    )
    null = with_scores(
        base, lambda s: replace(s, value=None, stderr=None, replicates=(), reason=text) if s.layer == 1 else s
    )
    packages = {**base.environment.packages, text: text}
    null = replace(null, environment=replace(base.environment, packages=packages, processor=text), signature=text)
    other = replace(null, identity=replace(null.identity, task=replace(null.identity.task, name=text + "2")))
    pairs = [report(base, null, text), report(base, other, text)]
    return Comparisons(tuple(outcome for one in pairs for outcome in one.outcomes))


PLAIN = rendered(FORMS["markdown"](everywhere("plain")))


@pytest.mark.parametrize("text", [*HOSTILE, "```\n<script>", "\x1b[2J\x1b]0;x\x07", "]]><a/>", "\ufffe\0"])
def test_hostile_text_stays_text(text: str) -> None:
    hostile = everywhere(text)
    assert rendered(FORMS["markdown"](hostile)).tags == PLAIN.tags
    for form in FORMS:
        written = FORMS[form](hostile)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", written), form
        written.encode()
    json.loads(FORMS["json"](hostile))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.text(max_size=10))
def test_any_text_gives_a_document_that_can_be_read(text: str) -> None:
    hostile = everywhere(f"x{text}x")
    assert len(json.loads(FORMS["json"](hostile))["results"]) == 2
    FORMS["text"](hostile).encode()


def test_a_file_is_written_and_the_verdict_still_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SMALL.save(tmp_path / "a.json")
    drifted().save(tmp_path / "b.json")
    out = tmp_path / "made" / "geometry.json"
    assert (
        main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--format", "json", "-o", str(out)]) == 1
    )
    assert capsys.readouterr().out.startswith("the model changed: 6 of ")
    assert json.loads(out.read_text())["status"] == "drift"
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "-o", str(tmp_path)]) == 2
