from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from msgspec.structs import replace

from microscope_bench.metrics.linearity_metric import LINEARITY
from microscope_bench.metrics.registry import headlines
from microscope_bench.protocol import named_protocol
from microscope_bench.publish.summary import summarise
from microscope_bench.publish.terminal import summary_table
from microscope_bench.results.records import Accuracy, Score
from microscope_bench.results.replicates import stderr_of_sum
from microscope_bench.results.result import Result
from tests.publish.small import MODEL_B, render, replace_no_sinks
from tests.results.sample import failed, sample, with_scores

NAMED = named_protocol("geometry/1")


def section(page: str, title: str) -> str:
    """The text below a heading, up to the next heading of the same or a higher level."""
    level = len(title.split(" ")[0])
    below = page.split(f"\n{title}\n", 1)[1]
    return re.split(rf"^#{{1,{level}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]


def table(page: str, modality: str) -> list[list[str]]:
    """The rows below the heading of a modality, or of ``models``."""
    lines = [line for line in section(page, f"#### {modality}").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[2:]]


def cells(page: str, modality: str, label: str) -> list[str]:
    """The cells of one row of one modality's table, or of ``models``."""
    rows = [row for row in table(page, modality) if row[0] == label]
    assert len(rows) == 1, rows
    return [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in rows[0]]


def test_the_numbers_are_those_of_the_file() -> None:
    result = sample()
    page = render([("results/a.json", result)])
    rows = result.series("linearity", "cross_fitted", "update", "image")
    mean = sum(row.value or 0 for row in rows) / 4
    stderr = stderr_of_sum(rows, [1 / 4] * 4)
    lowest = min(rows, key=lambda row: row.value or 0)
    shown = cells(page, "image", "tiny-llava")
    assert shown[2] == (
        f"mean {mean:.4f} ± {stderr:.4f}<br>min {lowest.value:.4f} ± {lowest.stderr:.4f} @ {lowest.layer}"
    )
    highest = max(result.series("anisotropy", "top_share", None, "image"), key=lambda row: row.value or 0)
    assert f"max {highest.value:.4f} ± {highest.stderr:.4f} @ {highest.layer}" in shown[4]
    assert shown[5:] == ["0", "1,536", "48"]
    assert cells(page, "text", "tiny-llava")[3].endswith("<br>n 1,879–3,200"), "n of intrinsic dimension is its own"
    assert cells(page, "models", "tiny-llava") == [
        "tiny-llava",
        "100 (234660)",
        "4",
        "96",
        "1.23M",
        "float32",
        "3b0c8f0f",
        "0.610 ± 0.049 (n = 100)",
        "`3c8702c350fc`",
        "[JSON](./results/a.json)",
    ]
    assert f"- tiny-llava: `{result.signature}`" in page


def test_where_there_are_sinks_a_second_row_shows_the_values_without_them() -> None:
    halved = replace_no_sinks(sample(), lambda s: replace(s, value=None if s.value is None else s.value / 2))
    page = render([("a.json", halved)])
    whole, without = cells(page, "text", "tiny-llava"), cells(page, "text", "tiny-llava, no sinks")
    assert (whole[5:], without[5:]) == (["6", "3,200", "100"], ["0", "3,194–3,200", "100"])
    mean, half = (float(row[4].split()[1]) for row in (whole, without))
    assert half == pytest.approx(mean / 2, rel=0.01)
    assert [row[0] for row in table(page, "image")] == ["tiny-llava"], "no sinks, no second row"


def test_a_value_that_needs_care_refers_to_a_note() -> None:
    few = with_scores(sample(), lambda s: replace(s, flags=("few_examples",)) if s.metric == "linearity" else s)
    page = render([("a.json", few)])
    caution = LINEARITY.cautions["few_examples"]
    assert page.count(caution) == 1
    number = re.search(rf"<sup>(\d+)</sup> {caution}", page)
    assert number is not None
    shown = cells(page, "image", "tiny-llava")
    assert all(cell.endswith(f"<sup>{number[1]}</sup>") for cell in shown[1:3]) and "<sup>" not in shown[4]
    assert f"beware, text; text, no sinks; image; joint; joint, no sinks: {caution}" in summary_table(few)
    assert caution not in render([("a.json", sample())])


def test_a_value_that_few_tokens_make_carries_a_caution_wherever_it_is_shown() -> None:
    def one_layer(score: Score) -> Score:
        return replace(score, flags=("concentrated=0.83",)) if score.layer == 2 else score

    found = with_scores(sample(), lambda s: one_layer(s) if s.metric == "anisotropy" else s)
    page = render([("a.json", found)])
    caution = "5 % of the tokens carry more than half of the variance along the widest direction: it is theirs"
    number = re.search(rf"<sup>(\d+)</sup> {caution}", page)
    assert number is not None
    for modality in ("text", "image", "joint"):
        assert cells(page, modality, "tiny-llava")[4].endswith(f"<sup>{number[1]}</sup>")
    assert cells(page, "text", "tiny-llava, no sinks")[4].endswith(f"<sup>{number[1]}</sup>")
    assert caution in summary_table(found) and caution not in render([("a.json", sample())])


def test_it_describes_and_does_not_rank() -> None:
    entries = [(name, sample(model={"name": name})) for name in ("b", "C", "a")]
    page = render(entries)
    assert "These describe, they do not rank" in page
    assert [row[0] for row in table(page, "image")] == ["a", "b", "C"]
    assert "**" not in page.split("## Protocol", 1)[1], "nothing is set in bold"
    for headline in headlines():
        assert f"| {headline.title} | " in page, "every column is explained"


def test_the_order_of_files_does_not_matter() -> None:
    entries = [
        ("a.json", sample()),
        ("b.json", MODEL_B),
        ("c.json", failed(MODEL_B)),
        ("e.json", failed(sample())),
        ("d.json", sample(protocol=NAMED)),
    ]
    assert len({render(order) for order in itertools.permutations(entries)}) == 1


def test_protocols_and_deviations_are_never_mixed() -> None:
    named = sample(protocol=NAMED, model={"name": "named"})
    limited = sample(protocol=replace(NAMED, limit=50, seed=3), model={"name": "limited"})
    page = render([("x.json", limited), ("y.json", named)])
    assert page.index("## Protocol geometry/1\n") < page.index("## Protocol geometry/1 with limit = 50, seed = 3\n")
    assert "limited" not in section(page, "## Protocol geometry/1")
    assert "| named |" not in section(page, "## Protocol geometry/1 with limit = 50, seed = 3")


@pytest.mark.parametrize(
    "identity",
    [
        {"dataset": replace(sample().identity.dataset, revision="b" * 40)},
        {"dataset": replace(sample().identity.dataset, split="train")},
        {"task": replace(sample().identity.task, version="2")},
        {"metrics": {"anisotropy": 2, "intrinsic_dimension": 1, "linearity": 1}},
    ],
)
def test_other_data_or_metric_versions_make_another_table(identity: dict[str, object]) -> None:
    page = render([("a.json", sample()), ("b.json", sample(**identity))])
    assert page.count("\n### ") == 2
    page = render([("a.json", sample()), ("b.json", sample(**identity, model={"name": "other"}))])
    assert all(("| other |" in part) != ("| tiny-llava |" in part) for part in page.split("\n### ")[1:])


def test_a_tap_has_a_table_of_its_own() -> None:
    page = render([("a.json", sample()), ("b.json", sample(model={"options": {"tap": "vision"}}))])
    task = sample().identity.task
    assert page.count(f"{task.name}, version {task.version}\n") == 1
    assert page.count(f"{task.name}, version {task.version}, tap vision\n") == 1


def drop_value(score: Score) -> Score:
    if (score.metric, score.modality, score.layer) in (("anisotropy", "text", 2), ("anisotropy", "text", 3)):
        return replace(score, value=None, stderr=None, reason="3 of 3200 tokens hold NaN | or infinity")
    return score


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop_value, "no value at layers 2–3 (3 of 3200 tokens hold NaN &#124; or infinity)"),
        (lambda s: None if (s.metric, s.layer) == ("anisotropy", 4) else s, "no scores of layers 4"),
        (lambda s: None if s.metric == "anisotropy" else s, "no scores of layers 0–4"),
        (lambda s: replace(s, stderr=None) if s.metric == "anisotropy" else s, "no standard error at layers 0–4"),
    ],
    ids=["null", "a layer missing", "a metric missing", "no standard error"],
)
def test_no_mean_over_what_happens_to_be_there(change: object, reason: str) -> None:
    result = with_scores(sample(), change)  # type: ignore[arg-type]
    page = render([("a.json", result)])
    shown = cells(page, "text", "tiny-llava")
    assert shown[4] == "—<sup>1</sup>"
    assert f"<sup>1</sup> anisotropy: {reason}" in page
    assert shown[1].startswith("mean "), "the other columns stand"


def test_a_metric_that_was_not_asked_for() -> None:
    result = with_scores(sample(metrics={"linearity": 1}), lambda s: s if s.metric == "linearity" else None)
    page = render([("a.json", result)])
    assert cells(page, "text", "tiny-llava")[3:5] == ["—<sup>1</sup>", "—<sup>2</sup>"]
    assert "<sup>1</sup> intrinsic_dimension was not measured" in page


def test_a_model_without_a_modality_is_not_in_its_table() -> None:
    text_only = with_scores(MODEL_B, lambda s: s if s.modality == "text" else None)
    page = render([("a.json", sample()), ("b.json", text_only)])
    assert "| Beta |" in section(page, "#### text")
    assert "| Beta |" not in section(page, "#### image")


def test_failures_and_controls_are_listed_not_shown() -> None:
    control = sample(model={"name": "shuffled", "control": "permuted weights"})
    page = render([("a.json", sample()), ("b.json", failed(MODEL_B)), ("c.json", control)])
    listed = section(page, "## Not shown")
    assert "| Beta" not in page
    assert "| shuffled" not in page
    assert "- [Beta](./b.json) on shapesqa: failed in capture: CaptureError: boundary 3 came" in listed
    assert "- [shuffled](./c.json) on shapesqa: control: permuted weights" in listed


def test_untrained_models_say_so_everywhere() -> None:
    page = render([("a.json", sample(model={"trained": False}))])
    for modality in ("text", "image", "joint", "models"):
        assert cells(page, modality, "tiny-llava (untrained)")
    assert "| tiny-llava |" not in page


def test_two_results_of_one_model_are_told_apart() -> None:
    first, second = sample(), sample(model={"dtype": "bfloat16"})
    page = render([("a.json", first), ("b.json", second), ("c.json", MODEL_B)])
    for result in (first, second):
        assert cells(page, "models", f"tiny-llava {result.identity.model.dtype}")
    assert cells(page, "models", "Beta")
    page = render([("a.json", first), ("b.json", sample(n_examples=99))])
    assert cells(page, "models", f"tiny-llava `{first.short_id[:8]}`")
    twice = render([("a/x.json", first), ("b/x.json", first)])
    for path in ("a/x.json", "b/x.json"):
        assert cells(twice, "text", f"tiny-llava `{first.short_id[:8]}` {path}")


def test_accuracy_is_shown_withheld_or_absent() -> None:
    def shown(accuracy: Accuracy | None) -> str:
        return cells(render([("a.json", replace(sample(), accuracy=accuracy))]), "models", "tiny-llava")[7]

    assert shown(Accuracy(0.5, 0.05, 100, None)) == "0.500 ± 0.050 (n = 100)"
    assert shown(None) == ""
    assert shown(Accuracy(1.0, None, 1, None)) == "—<sup>1</sup>", "no number without its uncertainty"
    assert shown(Accuracy(None, None, 100, "two tokens")) == "—<sup>1</sup>"


def test_no_results() -> None:
    assert "no results yet" in render([])


def test_absurd_numbers_do_not_break_the_page() -> None:
    huge: Result = with_scores(sample(), lambda s: replace(s, value=1.7e308, stderr=1e300))
    assert "not finite" in render([("a.json", huge)])
    large = with_scores(sample(), lambda s: replace(s, value=-1e40 + s.layer, stderr=1e-12))
    assert max(len(line) for line in render([("a.json", large)]).splitlines()) < 700


def test_the_mean_needs_every_layer_to_be_exact() -> None:
    summary = summarise(sample(), headlines()[3], "joint")
    rows = sample().series("anisotropy", "top_share", None, "joint")
    assert summary.mean == pytest.approx(sum(r.value or 0 for r in rows) / 5, rel=1e-12)  # type: ignore[union-attr]
    means = np.mean([row.replicates for row in rows], axis=0)
    spread = np.sqrt((len(means) - 1) / len(means) * np.sum((means - means.mean()) ** 2))
    assert summary.mean_stderr == pytest.approx(spread)  # type: ignore[union-attr]
    bare = with_scores(sample(), lambda s: replace(s, replicates=()))
    bound = summarise(bare, headlines()[3], "joint")
    assert bound.mean_stderr == pytest.approx(sum(r.stderr or 0 for r in rows) / 5)  # type: ignore[union-attr]
    assert "an upper bound" in bound.cautions[-1]  # type: ignore[union-attr]
