"""What a comparison says, and its exit status, through the command line's own entry."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from microscope_bench.cli.main import main
from microscope_bench.results.records import Skipped
from microscope_bench.results.result import Result, load_result
from microscope_bench.results.result_files import result_path
from tests.publish.small import SMALL as SAMPLE
from tests.publish.small import small as sample
from tests.results.sample import SAMPLE_FILE, failed, forge, with_scores

Compare = Callable[..., tuple[int, str, str]]


def commands(out: str) -> list[list[str]]:
    """The shell commands that a report ends with."""
    lines = [line.strip() for line in out.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(("cp --", "mkdir -p --", "rm --"))]


@pytest.fixture
def compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    """Holds one result, file or directory against another; gives exit status, output, complaints."""

    def path(thing: Result | str | Path, name: str) -> str:
        if isinstance(thing, Result):
            thing.save(tmp_path / name)
            return str(tmp_path / name)
        return str(thing)

    def command(baseline: Any, new: Any, *options: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main(["compare", path(baseline, "baseline.json"), path(new, "new.json"), *options])
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err

    return command


def shifted(by: float, metric: str = "anisotropy", layer: int = 1, **only: str) -> Result:
    def change(score: Any) -> Any:
        asked = {"metric": metric, "layer": layer, **only}
        hit = score.value is not None and all(getattr(score, name) == value for name, value in asked.items())
        return replace(score, value=score.value + by) if hit else score

    changed = with_scores(sample(), change)
    assert changed.scores != SAMPLE.scores
    return changed


def test_equal_results(compare: Compare) -> None:
    status, out, err = compare(SAMPLE_FILE, SAMPLE_FILE)
    assert (status, err) == (0, "")
    assert out.startswith("nothing changed: all values agree within tolerance\n")
    assert "accuracy: " in out
    assert "accept" not in out


@pytest.mark.parametrize("by", [0.5, -0.5])
def test_a_move_in_either_direction_is_drift(compare: Compare, by: float) -> None:
    status, out, _ = compare(sample(), shifted(by, modality="image", tokens="all"))
    assert status == 1
    assert out.startswith("the model changed: 1 of ")
    assert "anisotropy top_share image all" in out and f"{by:+.3g}" in out


def test_it_ends_with_commands_that_accept_the_change(compare: Compare, tmp_path: Path) -> None:
    new = shifted(0.5)
    status, out, _ = compare(sample(), new)
    assert status == 1 and out.splitlines()[-2].startswith("If the change is meant, accept it")
    (command,) = commands(out)
    subprocess.run(command, check=True)
    assert load_result(tmp_path / "baseline.json") == new
    assert compare(tmp_path / "baseline.json", tmp_path / "new.json")[0] == 0


@pytest.mark.parametrize(("kind", "words"), [("drop", "missing"), ("null", "became null")])
def test_a_value_that_is_gone_or_null_is_drift_both_ways(compare: Compare, kind: str, words: str) -> None:
    def change(score: Any) -> Any:
        if (score.metric, score.modality, score.tokens, score.layer) != ("anisotropy", "text", "all", 1):
            return score
        return None if kind == "drop" else replace(score, value=None, stderr=None, replicates=(), reason="all NaN")

    less = with_scores(sample(), change)
    status, out, _ = compare(sample(), less)
    assert status == 1 and f"1 {words}" in out
    status, out, _ = compare(less, sample())
    assert status == 1
    assert ("1 without a baseline" if kind == "drop" else "1 null in the baseline") in out


def test_null_in_both_is_no_drift_but_nothing_but_nulls_is_no_comparison(compare: Compare) -> None:
    def null(score: Any) -> Any:
        return replace(score, value=None, stderr=None, replicates=(), reason="all NaN")

    one = with_scores(sample(), lambda score: null(score) if score.metric == "anisotropy" else score)
    status, out, _ = compare(one, one)
    assert status == 0 and "null in both" in out
    nothing = with_scores(sample(), null)
    status, out, _ = compare(nothing, nothing)
    assert status == 2 and "no score has a value" in out
    assert compare(sample(), nothing)[0] == 1


def test_worst_first_by_excess_over_tolerance(compare: Compare) -> None:
    new = shifted(0.9, metric="anisotropy", modality="image", tokens="all")
    new = replace(
        new,
        scores=tuple(
            replace(s, value=s.value + 0.02)
            if (s.metric, s.estimator, s.stream, s.modality, s.tokens, s.layer)
            == ("linearity", "cross_fitted", "hidden", "text", "all", 0)
            else s
            for s in new.scores
        ),
    )
    out = compare(sample(), new, "--tolerance", "anisotropy=0.3", "--tolerance", "linearity=0.001")[1]
    rows = [line.split()[0] for line in out.splitlines() if line.startswith(("anisotropy", "linearity"))]
    assert rows == ["linearity", "anisotropy"]
    out = compare(sample(), new, "--tolerance", "anisotropy=0.01", "--tolerance", "linearity=0.01")[1]
    rows = [line.split()[0] for line in out.splitlines() if line.startswith(("anisotropy", "linearity"))]
    assert rows == ["anisotropy", "linearity"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": {"dtype": "bfloat16"}}, "model.dtype"),
        ({"model": {"quantization": "int8/00000000"}}, "model.quantization"),
        ({"model": {"attention": "eager"}}, "model.attention"),
        ({"model": {"trained": False}}, "model.trained"),
        ({"model": {"control": "untrained"}}, "model.control"),
        ({"model": {"options": {"tap": "vision"}}}, "model.options.tap"),
        ({"protocol": replace(SAMPLE.identity.protocol, seed=7)}, "protocol.seed"),
        ({"task": replace(SAMPLE.identity.task, version="2")}, "task.version"),
        ({"dataset": replace(SAMPLE.identity.dataset, revision="x")}, "dataset.revision"),
        ({"n_examples": 99}, "n_examples"),
        ({"example_ids_sha256": "0" * 64}, "example_ids_sha256"),
        ({"prompt_sha256": "0" * 64}, "prompt_sha256"),
        ({"selection": "other/1"}, "selection"),
        ({"metrics": {**SAMPLE.identity.metrics, "linearity": 99}}, "metrics.linearity"),
        ({"metrics": {**SAMPLE.identity.metrics, "linearity.mainflow": 1}}, "metrics.linearity.mainflow"),
        ({"metric_code": {"theirs": "package-1.0"}}, "metric_code.theirs"),
    ],
)
def test_another_identity_is_not_compared_unless_allowed(compare: Compare, change: dict[str, Any], field: str) -> None:
    status, out, _ = compare(sample(), sample(**change))
    assert status == 2
    assert out.startswith(f"not comparable: {field} differs\n") and f"must agree, {field}: " in out
    status, out, _ = compare(sample(), sample(**change), "--allow", f"model.name,{field}")
    assert status == 0 and f"though {field} differs" in out
    section = field.partition(".")[0]
    assert compare(sample(), sample(**change), "--allow", section)[0] == 0


def test_which_weights_may_differ(compare: Compare) -> None:
    other = sample(model={"name": "tuned", "repo": "org/tuned", "revision": "f" * 40})
    status, out, _ = compare(sample(), other)
    assert status == 0
    assert "though model.name, model.repo, model.revision differ" in out


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        ("mine.py:Mine@00000001", "mine.py:Mine@00000002", 0),
        ("plug@package-1.0", "plug@package-1.1.00000001", 0),
        ("mine.py:Mine@00000001", "mine.py:Other@00000001", 2),
        ("hf", "hf@00000001", 2),
        ("hf", "omnifusion", 2),
    ],
)
def test_the_code_of_an_adapter_may_differ(compare: Compare, before: str, after: str, status: int) -> None:
    found = compare(sample(model={"adapter": before}), sample(model={"adapter": after}))
    assert found[0] == status and "model.adapter" in found[1]


def test_every_differing_field_is_named(compare: Compare) -> None:
    new = sample(model={"dtype": "float16", "attention": "eager"}, prompt_sha256="0" * 64)
    out = compare(sample(), new)[1]
    assert out.startswith("not comparable: model.dtype, model.attention, prompt_sha256 differ\n")
    assert "--allow model.dtype,model.attention,prompt_sha256" in out


def test_a_changed_processor_is_told_from_a_changed_model(compare: Compare) -> None:
    inputs = replace(SAMPLE.inputs, tokens_sha256="0" * 64, tokens_seen={**SAMPLE.inputs.tokens_seen, "text": 1})
    status, out, _ = compare(sample(), replace(sample(), inputs=inputs))
    assert status == 0
    assert out.startswith("the processor changed (tokens_sha256, tokens_seen.text): all values agree")
    status, out, _ = compare(sample(), replace(shifted(0.5), inputs=inputs))
    assert status == 1
    assert out.startswith("the processor changed (tokens_sha256, tokens_seen.text): ")
    media = replace(SAMPLE.inputs, media_sha256="0" * 64)
    assert compare(sample(), replace(sample(), inputs=media))[1].startswith("the processor changed (media_sha256)")
    # pictures are handed over in the model's dtype: their hash says nothing then
    cast = replace(sample(model={"dtype": "bfloat16"}), inputs=media)
    assert compare(sample(), cast, "--allow", "model.dtype")[1].startswith("no drift: all values agree within")


def test_other_weights_are_never_called_no_change(compare: Compare) -> None:
    status, out, _ = compare(sample(), sample(model={"revision": "sha256-0123456789abcdef"}))
    assert status == 0
    assert out.startswith("no drift: all values agree within tolerance, though model.revision differs\n")


def test_another_number_of_tokens_is_told(compare: Compare) -> None:
    other = with_scores(sample(), lambda s: replace(s, n_tokens=s.n_tokens - 1) if s.layer == 1 else s)
    status, out, _ = compare(sample(), other)
    assert status == 0
    assert f"\n{sum(s.layer == 1 for s in SAMPLE.scores)} values are of another number of tokens" in out


def test_other_packages_are_named_and_are_no_drift(compare: Compare) -> None:
    packages = {**SAMPLE.environment.packages, "torch": "99.0"}
    status, out, _ = compare(sample(), replace(sample(), environment=replace(SAMPLE.environment, packages=packages)))
    assert status == 0
    assert 'environment differs, packages.torch: "' in out and '→ "99.0"' in out


def test_accuracy_and_skipped_examples(compare: Compare) -> None:
    accuracy = SAMPLE.accuracy
    assert accuracy is not None and accuracy.value is not None
    moved = replace(sample(), accuracy=replace(accuracy, value=accuracy.value - 0.01))
    status, out, _ = compare(sample(), moved)
    assert status == 1 and "\naccuracy " in out
    assert compare(sample(), moved, "--tolerance", "accuracy=0.02")[0] == 0
    assert compare(sample(), replace(sample(), accuracy=None))[0] == 1
    skipped = replace(
        sample(), inputs=replace(SAMPLE.inputs, skipped=(*SAMPLE.inputs.skipped, Skipped("99", "truncated")))
    )
    status, out, _ = compare(sample(), skipped)
    assert status == 1 and "\nskipped " in out
    assert compare(sample(), skipped, "--tolerance", "skipped=1")[0] == 0


def test_more_sinks_are_drift(compare: Compare) -> None:
    assert SAMPLE.sinks
    first, *rest = SAMPLE.sinks
    more = replace(first, n_sinks=first.n_sinks + first.n_tokens // 4)
    status, out, _ = compare(sample(), replace(sample(), sinks=(more, *rest)))
    assert status == 1 and f"sinks {first.modality}" in out


def test_a_failed_run_is_not_compared(compare: Compare) -> None:
    for pair, which in (
        ((sample(), failed(sample())), "the new result"),
        ((failed(sample()), sample()), "the baseline"),
    ):
        status, out, _ = compare(*pair)
        assert status == 2
        assert out.startswith(f"not comparable: {which} is of a run that failed (CaptureError)")
    assert compare(failed(sample()), failed(sample()))[0] == 2


def test_a_nan_written_by_hand(compare: Compare, tmp_path: Path) -> None:
    """Neither as NaN nor, with all hashes made to fit, as null without a reason."""
    document = SAMPLE.to_dict()
    document["scores"][3]["value"] = float("nan")
    for text in (json.dumps(document), json.dumps(forge(document))):
        (tmp_path / "nan.json").write_text(text)
        status, out, _ = compare(SAMPLE_FILE, tmp_path / "nan.json")
        assert status == 2 and "not complete JSON" in out
        assert compare(tmp_path / "nan.json", SAMPLE_FILE)[0] == 2


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ("none.json", "no such file or directory"),
        ("HEAD~1:results/x.json", "not supported yet"),
        ("hf://org/name/x.json", "references to the hub or to git are not supported yet"),
        ("https://example.org/x.json", "not supported yet"),
        ("x\0y", "an argument holds a NUL character"),
        (".", "one is a file, the other a directory"),
    ],
)
def test_what_is_not_there(compare: Compare, new: str, words: str) -> None:
    status, out, err = compare(SAMPLE_FILE, new)
    assert (status, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--allow", "model.dtpye"], "Did you mean model.dtype"),
        (["--allow", "dtype"], "unknown field of identity 'dtype'"),
        (["--tolerance", "anisotropie=1"], "Did you mean anisotropy"),
        (["--tolerance", "anisotropy=lots"], "is not a tolerance"),
        (["--tolerance", "anisotropy"], "not of the form METRIC=TOLERANCE"),
        (["--tolerances", "none.txt"], "cannot read the tolerances"),
        (["--format", "html"], "invalid choice"),
        (["more.json"], "a baseline and a new result, not 3 paths"),
        (["--spread", "--format", "json"], "--spread makes tolerances"),
    ],
)
def test_options_that_say_nothing_are_refused(compare: Compare, options: list[str], words: str) -> None:
    status, out, err = compare(SAMPLE_FILE, SAMPLE_FILE, *options)
    assert (status, out) == (2, "")
    assert words in err


class TestDirectories:
    @pytest.fixture
    def trees(self, tmp_path: Path) -> tuple[Path, Path]:
        for tree in ("base", "new"):
            for name in ("alpha", "beta"):
                result = sample(model={"name": name, "repo": name})
                result.save(result_path(tmp_path / tree, result))
        return tmp_path / "base", tmp_path / "new"

    def test_pairs_by_relative_path(self, compare: Compare, trees: tuple[Path, Path]) -> None:
        status, out, _ = compare(*trees)
        assert status == 0
        assert out.startswith("2 results: 2 within tolerance, 0 drifted, 0 not comparable\n")

    def test_a_file_without_its_partner_counts_on_either_side(self, compare: Compare, trees: tuple[Path, Path]) -> None:
        base, new = trees
        (gone,) = (new / "beta").rglob("*.json")
        gone.unlink()
        status, out, _ = compare(base, new)
        assert status == 2 and "the new results lack it" in out and "1 within tolerance" in out
        status, out, _ = compare(new, base)
        assert status == 2 and "there is no baseline for it" in out
        for command in commands(out):
            subprocess.run(command, check=True)
        assert compare(new, base)[0] == 0

    def test_the_worst_decides(self, compare: Compare, trees: tuple[Path, Path]) -> None:
        base, new = trees
        (file,) = (new / "beta").rglob("*.json")
        drifted = with_scores(load_result(file), lambda s: replace(s, value=0.5) if s.metric == "anisotropy" else s)
        drifted.save(file)
        assert compare(base, new)[0] == 1
        file.write_bytes(file.read_bytes()[:-50])
        status, out, _ = compare(base, new)
        assert status == 2 and "the new file is not a valid result" in out
        assert not commands(out), "a broken file is no baseline"

    def test_another_revision_of_a_model_finds_its_baseline(self, compare: Compare, trees: tuple[Path, Path]) -> None:
        base, new = trees
        (file,) = (new / "beta").rglob("*.json")
        file.unlink()
        result = sample(model={"name": "beta", "repo": "beta", "revision": "e" * 40})
        result = with_scores(result, lambda s: replace(s, value=0.5) if s.metric == "anisotropy" else s)
        result.save(result_path(new, result))
        status, out, _ = compare(base, new)
        assert status == 1 and "2 results: 1 within tolerance, 1 drifted" in out
        for command in commands(out):
            subprocess.run(command, check=True)
        assert compare(base, new)[0] == 0
        # two revisions on one side: nobody knows which is meant
        again = sample(model={"name": "beta", "repo": "beta", "revision": "d" * 40})
        again.save(result_path(new, again))
        (base / "beta" / ("e" * 40)).rename(base / "beta" / ("c" * 40))
        status, out, _ = compare(base, new)
        assert status == 2 and "4 results" in out

    def test_nothing_on_both_sides_is_not_agreement(self, compare: Compare, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        status, _, err = compare(tmp_path / "a", tmp_path / "b")
        assert status == 2 and "nothing was compared" in err


class TestSpread:
    def spread(self, capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["compare", "--spread", *map(str, argv)])
        said = capsys.readouterr()
        return status, said.out, said.err

    def test_learned_tolerances_hold_among_the_repeats(
        self, compare: Compare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        repeats = [sample(), shifted(0.01), shifted(-0.02)]
        for number, result in enumerate(repeats):
            result.save(tmp_path / f"{number}.json")
        paths = [tmp_path / f"{number}.json" for number in range(3)]
        assert compare(paths[1], paths[2])[0] == 1
        status, out, _ = self.spread(capsys, *paths, "-o", tmp_path / "learned.txt")
        assert (status, out) == (0, "")
        assert self.spread(capsys, tmp_path)[1] == (tmp_path / "learned.txt").read_text()
        learned = (tmp_path / "learned.txt").read_text()
        # the widest range is 0.03, rounded up where the sum of floats lies just above
        value = float(next(line for line in learned.splitlines() if "top_share" in line).partition("=")[2])
        assert 0.09 <= value <= 0.091
        assert "linearity.cross_fitted=0\n" in learned
        for ours in paths:
            for theirs in paths:
                assert compare(ours, theirs, "--tolerances", str(tmp_path / "learned.txt"))[0] == 0
        assert compare(paths[0], shifted(0.5), "--tolerances", str(tmp_path / "learned.txt"))[0] == 1

    def test_what_are_no_repeats(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        sample(model={"dtype": "float16"}).save(tmp_path / "half.json")
        with_scores(sample(), lambda s: None if s.layer == 1 else s).save(tmp_path / "less.json")
        for argv, words in (
            ([SAMPLE_FILE], "at least two repeats"),
            ([SAMPLE_FILE, tmp_path / "half.json"], "not repeats of one run: not comparable: model.dtype differs"),
            ([SAMPLE_FILE, tmp_path / "less.json"], "is in one alone"),
            ([SAMPLE_FILE, tmp_path / "none.json"], "no such file or directory"),
        ):
            status, out, err = self.spread(capsys, *argv)
            assert (status, out) == (2, "")
            assert words in err
