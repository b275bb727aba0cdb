"""How results are cited: what is printed says what the file says, and parses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import microscope_bench
from microscope_bench.cli.main import main
from microscope_bench.publish.cite import PAPER, SOFTWARE, bibtex, sentence
from microscope_bench.publish.output_forms import CITATIONS, render_citation
from microscope_bench.publish.summary import plus_minus
from microscope_bench.results.replicates import stderr_of_sum
from microscope_bench.tasks import list_tasks
from tests.publish.hostile import HOSTILE, everywhere
from tests.publish.small import MODEL_B, nothing
from tests.results.sample import SAMPLE_FILE, failed, sample

CFF = yaml.safe_load((Path(__file__).resolve().parents[2] / "CITATION.cff").read_text(encoding="utf-8"))


def parse_bibtex(text: str) -> dict[str, dict[str, str]]:
    """Entries by key; braces must balance, keys must be unique, as BibTeX wants them."""
    entries: dict[str, dict[str, str]] = {}
    for key, body in re.findall(r"^@misc\{([^,\s{}]+),\n(.*?)^\}$", text, re.MULTILINE | re.DOTALL):
        assert key not in entries
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", body, re.MULTILINE))
        assert len(fields) == len(body.splitlines()), body
        for value in fields.values():
            depth = 0
            for character in value:
                depth += (character == "{") - (character == "}")
                assert depth >= 0
            assert depth == 0, value
        entries[key] = fields
    assert text.count("@misc{") == len(entries)
    return entries


def test_the_citation_file_says_the_same() -> None:
    assert CFF["cff-version"] == "1.2.0" and CFF["type"] == "software"
    assert CFF["version"] == microscope_bench.__version__
    assert CFF["title"] == SOFTWARE["title"]
    assert [author["name"] for author in CFF["authors"]] == [SOFTWARE["author"]]
    (paper,) = CFF["references"]
    assert paper["title"] == PAPER["title"]
    names = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
    assert names == PAPER["author"]
    assert paper["notes"] == f"arXiv:{PAPER['eprint']}"
    assert set(CFF) >= {"message", "authors", "title", "cff-version"}, "what the format requires"


def test_the_sentence_names_what_a_reader_must_know() -> None:
    result = sample()
    said = sentence(result)
    identity = result.identity
    for part in (
        identity.model.name,
        identity.model.revision[:8],
        identity.model.dtype,
        f"{identity.task.name}, version {identity.task.version}",
        f"{result.inputs.n_examples:,} examples",
        f"microscope_bench {result.environment.package_version}",
        "protocol geometry/1 with limit = 101",
        "twonn_discard10",
        f"seed {identity.protocol.seed}",
        result.signature,
    ):
        assert part in said
    assert "\n" not in said
    for metric, version in identity.metrics.items():
        assert metric.replace("_", " ") in said.replace("_", " ")
        assert f"version {version}" in said


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ({"trained": False}, "tiny-llava (untrained)"),
        ({"control": "shuffled_image"}, "control shuffled_image"),
        ({"quantization": "bnb-4bit"}, "quantisation bnb-4bit"),
        ({"options": {"tap": "vision"}}, "at every boundary of vision"),
    ],
)
def test_what_makes_a_model_another_is_said(model: dict[str, object], part: str) -> None:
    assert part in sentence(sample(model=model))


def test_bibtex_has_the_software_the_paper_the_data_and_the_result_once_each() -> None:
    entries = parse_bibtex(bibtex([sample(), MODEL_B], lambda _: "Lu et al., Learn, to Explain?, NeurIPS 2022"))
    assert list(entries) == [
        "microscope_bench-0.1.0",
        "mllm-microscope",
        "data-shapesqa",
        f"tiny-llava-shapesqa-{sample().short_id}",
        f"Beta-shapesqa-{MODEL_B.short_id}",
    ]
    assert entries["data-shapesqa"] == {
        "title": "{Learn, to Explain?}",
        "author": "Lu and others",
        "howpublished": "NeurIPS",
        "year": "2022",
    }
    note = entries[f"tiny-llava-shapesqa-{sample().short_id}"]["note"]
    plain = note.replace(r"\textbar\allowbreak{}", "|").replace("\\_", "_").replace(r"\%", "%")
    assert sample().signature in plain


def test_whom_to_cite_for_the_data_of_every_task_of_ours_is_understood() -> None:
    tasks = [task for task in list_tasks() if task.name != "shapesqa"]
    assert len(tasks) >= 10
    for task in tasks:
        (entry,) = [
            fields
            for key, fields in parse_bibtex(bibtex([sample()], lambda _, c=task.citation: c)).items()
            if key.startswith("data-")
        ]
        assert {"title", "author", "year"} <= set(entry), task.name


def test_a_citation_in_other_words_is_kept_whole() -> None:
    entries = parse_bibtex(bibtex([sample()], lambda _: "Ask the authors"))
    assert entries["data-shapesqa"] == {"title": "Ask the authors"}
    assert "data-shapesqa" not in parse_bibtex(bibtex([sample()], nothing))


def test_the_latex_table_has_the_numbers_with_their_errors() -> None:
    table = render_citation("latex", [("a.json", sample())], nothing)
    rows = sample().series("linearity", "cross_fitted", "update", "image")
    n = len(rows)
    mean = plus_minus(sum(r.value or 0 for r in rows) / n, stderr_of_sum(rows, [1 / n] * n) or 0)
    assert f"${mean.replace('±', chr(92) + 'pm')}$" in table
    body = [line for line in table.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in body} == {7}
    assert table.count(r"\toprule") == table.count(r"\bottomrule") == 1
    assert f"% tiny-llava: {sample().signature}" in table


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("form", CITATIONS)
def test_hostile_names_are_text_in_every_form(form: str, text: str) -> None:
    shown = render_citation(form, [("a.json", everywhere(text))], lambda _: text)
    assert "\x1b" not in shown and "\u202e" not in shown
    if form == "bibtex":
        parse_bibtex(shown)
    elif form == "text":
        parse_bibtex(shown[shown.index("@misc") :] if "@misc{" in shown else "")


@pytest.mark.parametrize("form", CITATIONS)
def test_the_verb(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", str(SAMPLE_FILE), "--format", form]) == 0
    first = capsys.readouterr().out
    assert sample().signature in first.replace(r"\textbar\allowbreak{}", "|").replace("\\_", "_").replace(r"\%", "%")
    assert main(["cite", str(SAMPLE_FILE), str(SAMPLE_FILE), "--format", form]) == 0
    if form != "latex":
        assert capsys.readouterr().out == first, "a result is cited once"


def test_a_failed_run_is_not_cited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed(sample()).save(tmp_path / "failed.json")
    assert main(["cite", str(tmp_path / "failed.json")]) == 2
    assert "failed run; there is nothing to cite" in capsys.readouterr().err
    assert main(["cite", str(tmp_path)]) == 2
    sample().save(tmp_path / "good.json")
    assert main(["cite", str(tmp_path)]) == 0


def test_an_empty_directory_has_nothing_to_cite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", str(tmp_path)]) == 2
    assert "no result files there" in capsys.readouterr().err
