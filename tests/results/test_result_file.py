from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from microscope_bench.errors import ResultError
from microscope_bench.results.records import Accuracy, SinkLayer
from microscope_bench.results.result import LARGEST_FILE, SCHEMA_VERSION, Result, load_result
from tests.results.sample import SAMPLE_FILE, digest, failed, forge, sample

HISTORIC = Path(__file__).resolve().parents[1] / "historic"


def document() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(SAMPLE_FILE.read_text(encoding="utf-8"))
    return parsed


@pytest.mark.parametrize("path", sorted(HISTORIC.glob("*.json")), ids=lambda path: path.name)
def test_every_historic_file_loads_for_ever(path: Path) -> None:
    assert load_result(path).scores


def test_the_example_says_what_its_sinks_are() -> None:
    result = sample()
    assert [s.modality for s in result.sinks] == ["text", "image", "joint"]
    text = result.sinks[0]
    assert (text.n_tokens, text.n_sinks, text.n_examples) == (3200, 6, 4)
    assert text.layers[2] == SinkLayer(2, 6, (17,), 0.9712)
    assert result.series("anisotropy", "top_share", None, "text", "no_sinks")[0].n_tokens == 3194


def test_the_example_holds_right_and_wrong_answers_against_each_other() -> None:
    result = sample()
    assert result.identity.metrics["split_by.correct"] == 1
    wanted = ("linearity", "cross_fitted", "hidden", "image")
    right, wrong = (result.series(*wanted, tokens=half)[0] for half in ("correct", "wrong"))
    assert (right.value, wrong.value) == (0.86856, 0.834161) and right.n_tokens == wrong.n_tokens == 599
    assert result.series(*wanted)[0].value == 0.85996
    assert {"correct_no_sinks", "wrong_no_sinks"} < {score.tokens for score in result.scores}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda sinks: sinks[0].update(n_sinks=9999), "9999 sinks of 4 examples among 3200 tokens"),
        (lambda sinks: sinks[0]["layers"].pop(), "one entry per boundary"),
        (lambda sinks: sinks.append(sinks[0]), "a second entry for text"),
        (lambda sinks: sinks[0]["layers"][0].update(top_variance_share=1.5), "top_variance_share"),
    ],
)
def test_sinks_that_cannot_be(change: Callable[[Any], object], said: str) -> None:
    changed = document()
    change(changed["sinks"])
    with pytest.raises(ResultError, match=said):
        Result.from_dict(forge(changed))


def test_saving_again_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    load_result(SAMPLE_FILE).save(path)
    assert path.read_bytes() == SAMPLE_FILE.read_bytes()


@pytest.mark.parametrize(
    "result",
    [
        sample(),
        failed(sample()),
        replace(sample(), accuracy=None),
        replace(sample(), accuracy=Accuracy(None, None, 100, "'A' is two tokens after this prompt")),
        sample(model={"name": "модель ≈ \U0001f600", "repo": "модель ≈ \U0001f600", "control": "permuted weights"}),
    ],
    ids=["complete", "failed", "no answers", "accuracy withheld", "names beyond ASCII"],
)
def test_what_is_saved_is_what_is_loaded(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "a" / "b.json")
    assert load_result(tmp_path / "a" / "b.json") == result
    assert Result.from_dict(result.to_dict()) == result


def test_one_score_per_line_and_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    sample().save(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum('"metric":' in line for line in lines) == len(sample().scores)
    assert path.stat().st_mode & stat.S_IRUSR
    assert list(tmp_path.iterdir()) == [path], "no temporary file is left"


def test_series_is_ordered_by_layer() -> None:
    result = sample()
    shuffled = replace(result, scores=result.scores[::-1])
    layers = [score.layer for score in shuffled.series("anisotropy", "top_share", None, "text")]
    assert layers == [0, 1, 2, 3, 4]
    assert shuffled.series("anisotropy", "top_share", None, "audio") == []


# ---- what is refused, and how it is said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "truncated"),
        (SAMPLE_FILE.read_bytes()[:5000], "truncated"),
        (b"\xff\xfe{}", "not complete JSON"),
        (b"[1, 2]", "not a microscope_bench result"),
        (b'{"results": {"acc": 1}}', "not a microscope_bench result"),
        (b"[" * 200_000, "not a microscope_bench result"),
        (SAMPLE_FILE.read_bytes().replace(b"0.85996", b"NaN"), "not complete JSON"),
        (SAMPLE_FILE.read_bytes().replace(b"0.85996", b"1e999"), "out of range"),
        (SAMPLE_FILE.read_bytes().replace(b"1536", b"9" * 5000), "not complete JSON|out of range|Expected"),
    ],
)
def test_files_that_are_no_results(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ResultError, match=said) as caught:
        load_result(path)
    assert str(path) in str(caught.value)


def test_missing_files_and_directories(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path, "a\0b"):
        with pytest.raises(ResultError, match="cannot read"):
            load_result(path)


def test_a_file_larger_than_any_result_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(ResultError, match="50,000,001 bytes are more than any such file has"):
        load_result(path)


def test_a_newer_schema_asks_for_an_upgrade() -> None:
    with pytest.raises(ResultError, match=rf"newer than {SCHEMA_VERSION}.*[Uu]pgrade microscope_bench"):
        Result.from_dict(document() | {"schema_version": SCHEMA_VERSION + 1})


@pytest.mark.parametrize("version", [0, -1, True, "1", None, 1.0])
def test_no_schema_version_of_ours(version: object) -> None:
    with pytest.raises(ResultError, match="schema_version"):
        Result.from_dict(document() | {"schema_version": version})


def edit(path: str, value: object) -> dict[str, Any]:
    """The example with one field changed, or removed where the value is ``...``; checksum and signature fit again."""
    changed = document()
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    at: Any = changed
    for step in parents:
        at = at[step]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return forge(changed)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("scores.3.value", "0.9", r"scores\[3\]\.value: Expected `float \| null`, got `str`"),
        ("scores.3.layer", 1.0, r"scores\[3\]\.layer: Expected `int`, got `float`"),
        ("scores.3.layer", 5, r"scores\[3\]\.layer: 5 lies outside 0\.\.4"),
        ("scores.3.layer", -1, r"scores\[3\]\.layer: Expected `int` >= 0"),
        ("scores.3.stderr", -0.1, r"scores\[3\]\.stderr: Expected `float` >= 0"),
        ("scores.3.modality", "smell", r"scores\[3\]\.modality: Invalid enum value 'smell'"),
        ("scores.3.flags", ..., r"scores\[3\]: Object missing required field `flags`"),
        ("scores.3.flags", ["a\nb"], r"scores: 'a\\nb' is not one line of text"),
        ("scores.3.reason", "why", r"scores\[3\]: either a value or a reason, both"),
        ("scores.3.value", None, r"scores\[3\]: either a value or a reason, neither"),
        ("scores.3.metric", "beauty", r"scores\[3\]\.metric: 'beauty' has no version"),
        ("scores.3.value", float("nan"), r"scores\[3\]\.value: Expected `float` >="),
        ("timing.seconds.load", float("inf"), r"timing\.seconds\[\.\.\.\]: Expected `float` <="),
        ("scores", [], "at least one"),
        ("accuracy.value", None, "accuracy: either"),
        ("accuracy.value", 1.5, r"accuracy\.value: Expected `float` <= 1"),
        ("identity.extra", 1, r"identity: Object contains unknown field `extra`"),
        ("identity.model.n_layers", True, r"identity\.model\.n_layers: Expected `int`, got `bool`"),
        ("identity.model.n_layers", 10**17, r"identity\.model\.n_layers: Expected `int` <= 10000"),
        ("identity.protocol.folds", 1, r"identity\.protocol\.folds: Expected `int` >= 2"),
        ("identity.prompt_sha256", None, r"identity\.prompt_sha256: Expected `str`, got `null`"),
        ("inputs.tokens_sha256", None, r"inputs\.tokens_sha256: null only in a failed"),
        ("identity.prompt_sha256", "abc", r"identity\.prompt_sha256: Expected `str` matching regex"),
        ("identity.model.name", "a\x1b[2J\n::error::", r"identity\.model\.name: Expected text without unseen"),
        ("environment.command", "x" * 10_001, r"environment\.command: Expected `str` of length <= 10000"),
        ("status", "failed", "says why; .*has none"),
        ("environment.packages.torch", 2, r"environment\.packages\[\.\.\.\]: Expected `str`, got `int`"),
    ],
)
def test_violations_name_the_place_and_the_rule(path: str, value: object, said: str) -> None:
    with pytest.raises(ResultError, match=said):
        Result.from_dict(edit(path, value))


def test_a_standard_error_without_a_value() -> None:
    changed = document()
    assert changed["scores"][3]["stderr"] is not None
    changed["scores"][3].update(value=None, reason="no variance")
    with pytest.raises(ResultError, match=r"scores\[3\]\.stderr: a standard error without a value"):
        Result.from_dict(forge(changed))


def test_a_row_twice() -> None:
    changed = document()
    changed["scores"].append(changed["scores"][7] | {"value": 0.5})
    with pytest.raises(ResultError, match=r"scores\[864\]: the same .* as scores\[7\]"):
        Result.from_dict(forge(changed))


def test_many_violations_are_counted_not_listed() -> None:
    changed = document()
    for row in changed["scores"]:
        row["layer"] = 99
    with pytest.raises(ResultError, match=r"\(and \d{3,} more\)") as caught:
        Result.from_dict(forge(changed))
    assert len(str(caught.value)) < 2000


def test_what_a_file_holds_instead_is_not_repeated_at_length_nor_raw() -> None:
    changed = document()
    changed["scores"][3]["modality"] = "\x1b[2J" + "x" * 100_000
    with pytest.raises(ResultError, match=r"scores\[3\]\.modality: Invalid enum value") as caught:
        Result.from_dict(forge(changed))
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()


def test_a_number_edited_by_hand() -> None:
    text = SAMPLE_FILE.read_text(encoding="utf-8")
    assert "0.85996" in text
    with pytest.raises(ResultError, match="checksum"):
        Result.from_dict(json.loads(text.replace("0.85996", "0.95996")))


def test_an_identity_edited_by_hand_even_with_a_fitting_checksum() -> None:
    changed = document()
    changed["identity"]["model"]["dtype"] = "bfloat16"
    changed["checksum"] = digest({key: value for key, value in changed.items() if key != "checksum"})
    with pytest.raises(ResultError, match="identity does not belong to the signature"):
        Result.from_dict(changed)


def test_a_signature_of_another_task() -> None:
    result = sample()
    task = f"task:{result.identity.task.name}@"
    forged = replace(result, signature=result.signature.replace(task, "task:famous@"))
    with pytest.raises(ResultError, match=f"makes .*{task}.*, the file says .*famous"):
        Result.from_dict(forged.to_dict())


def test_whitespace_and_key_order_are_no_edit() -> None:
    text = json.dumps(document(), sort_keys=True, indent=7)
    assert Result.from_dict(json.loads(text)) == load_result(SAMPLE_FILE)


def test_an_invalid_result_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("before")
    result = sample()
    broken = replace(result, scores=(replace(result.scores[0], value=float("nan")),))
    with pytest.raises(ResultError, match=r"not written: .*scores\[0\]\.value: Expected `float` >="):
        broken.save(path)
    assert path.read_text() == "before"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_write_keeps_what_was_there_and_says_what_to_do(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    path.write_text("before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"os.{call}", full)
    with pytest.raises(ResultError, match=r"No space left on device.*another place"):
        sample().save(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
