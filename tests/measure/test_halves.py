"""Scores split by correct and wrong answers, held against the public functions on the tokens of those examples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from microscope_bench import metrics
from microscope_bench.adapters.base import IMAGE, TEXT
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.store import TokenStore
from microscope_bench.measure.correctness import halves
from microscope_bench.metrics.core.estimate import NoValue
from microscope_bench.protocol import named_protocol
from tests.measure.stores import measurement_of, noise, noise_layers, write_store

PROTOCOL = named_protocol("geometry/1").with_changes(tokens_per_example=8, id_tokens=160)
METRICS = ("linearity", "intrinsic_dimension", "anisotropy")
N, EACH, BOUNDARIES = 120, 8, 3
ANSWERS = {"right": ([-1.0, -2.0], 0), "wrong": ([-2.0, -1.0], 0), "several": ([-1.0, -2.0], None), "open": (None, 0)}


def record(name: str, kind: str) -> ExampleRecord:
    logprobs, answer = ANSWERS[kind]
    return ExampleRecord(id=name, media_sha256=f"picture {name}", choice_logprobs=logprobs, answer=answer)


def store_of(path, kinds, states=None):
    states = states or {
        "image": noise_layers(N * EACH, 6, BOUNDARIES),
        "text": noise_layers(N * EACH, 6, BOUNDARIES, 1),
    }
    store = write_store(path, states, EACH)
    file = safe_open(store.tensor_file(0), framework="pt")
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    other = TokenStore.open_or_create(path.with_name("answered"), {}, n_examples=N, part_examples=N)
    other.write_part(0, tensors, [record(f"q{k}", kinds[k]) for k in range(N)])
    return other


def scores_of(store):
    return measurement_of(store, PROTOCOL, METRICS, n_layers=BOUNDARIES - 1, split_by="correct").scores


KINDS = [("right", "wrong", "right", "several", "right", "open")[k % 6] for k in range(N)]


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    return scores_of(store_of(tmp_path_factory.mktemp("halves") / "s", KINDS))


def test_as_many_examples_of_each_are_drawn_and_none_without_an_answer(scores):
    parts = halves([record(f"q{k}", KINDS[k]) for k in range(N)], seed=0)
    assert {name: int(kept.sum()) for name, kept in parts.items()} == {"correct": 20, "wrong": 20}
    assert all(KINDS[k] == "right" for k in np.flatnonzero(parts["correct"]))
    assert all(KINDS[k] == "wrong" for k in np.flatnonzero(parts["wrong"]))
    counted = {
        (s.tokens, s.n_tokens, s.n_examples) for s in scores if s.metric == "anisotropy" and s.modality == "text"
    }
    assert {c for c in counted if c[0] in ("correct", "wrong")} == {("correct", 160, 20), ("wrong", 160, 20)}


@pytest.mark.parametrize("half", ["correct", "wrong"])
@pytest.mark.parametrize("modality, codes", [("text", [TEXT]), ("image", [IMAGE]), ("joint", [TEXT, IMAGE])])
def test_a_half_is_scored_as_its_tokens_alone(tmp_path, scores, half, modality, codes):
    kept = set(np.flatnonzero(halves([record(f"q{k}", KINDS[k]) for k in range(N)], seed=0)[half]).tolist())
    file = safe_open(store_of(tmp_path / "s", KINDS).tensor_file(0), framework="pt")
    example = file.get_tensor("example")
    of_half = torch.tensor([int(e) in kept for e in example])
    of_half &= torch.isin(file.get_tensor("modality"), torch.tensor(codes, dtype=torch.int8))
    x, y = (file.get_tensor(f"boundary.{layer}")[of_half] for layer in (1, 2))
    groups = [f"picture q{e}" for e in example[of_half].tolist()]

    def mine(**wanted):
        (row,) = [
            s
            for s in scores
            if (s.tokens, s.modality, s.layer) == (half, modality, 1)
            and all(getattr(s, k) == v for k, v in wanted.items())
        ]
        return row

    for estimator in ("cross_fitted", "in_sample", "held_out"):
        row = mine(metric="linearity", estimator=estimator, stream="hidden")
        theirs = metrics.linearity(x, y, estimator=estimator, groups=groups)
        assert (row.value, row.stderr) == (pytest.approx(theirs.value), pytest.approx(theirs.stderr))
    row, theirs = mine(metric="anisotropy"), metrics.anisotropy(x, groups=groups)
    assert (row.value, row.stderr) == (pytest.approx(theirs.value), pytest.approx(theirs.stderr))
    row = mine(metric="intrinsic_dimension", estimator="twonn_discard10")
    theirs = metrics.intrinsic_dimension(x, "twonn_discard10", groups=groups, n=160)
    one_draw = modality != "joint"  # of two it hangs on the order in which they are drawn
    assert row.n_tokens == theirs.n_tokens == len(x)
    assert (row.value, row.stderr) == pytest.approx((theirs.value, theirs.stderr), rel=1e-6 if one_draw else 0.5)


def test_the_whole_is_what_it_is_without_a_split(tmp_path, scores):
    store = store_of(tmp_path / "s", KINDS)
    whole = measurement_of(store, PROTOCOL, METRICS, n_layers=BOUNDARIES - 1).scores
    assert scores[: len(whole)] == whole
    assert {s.tokens for s in scores[len(whole) :]} == {"correct", "wrong", "correct_no_sinks", "wrong_no_sinks"}


def test_a_sink_of_the_whole_is_a_sink_of_its_half(tmp_path):
    states = {"text": noise_layers(N * EACH, 6, BOUNDARIES)}
    for layer in states["text"]:
        layer[8, 2] = 5000.0  # of q1, answered wrongly
    found = scores_of(store_of(tmp_path / "s", KINDS, states))
    counted = {s.tokens: s.n_tokens for s in found if s.metric == "anisotropy"}
    n = 1 if "q1" in drawn("wrong") else 0
    assert counted["no_sinks"] == N * EACH - 1 and counted["wrong_no_sinks"] == 160 - n
    assert counted["correct_no_sinks"] == counted["correct"] == 160


def drawn(half):
    kept = halves([record(f"q{k}", KINDS[k]) for k in range(N)], seed=0)[half]
    return {f"q{k}" for k in np.flatnonzero(kept)}


def test_a_half_of_too_few_distinct_tokens_has_no_intrinsic_dimension(tmp_path):
    copied = noise(N * EACH, 6, 3)
    for k in np.flatnonzero([kind == "wrong" for kind in KINDS]):
        copied[8 * k + 4 : 8 * k + 8] = copied[8 * k : 8 * k + 4]  # half of the tokens of wrong answers are copies
    found = scores_of(store_of(tmp_path / "s", KINDS, {"text": [copied, copied * 2, copied * 3]}))
    rows = {s.tokens: s for s in found if s.estimator == "twonn_mle" and s.layer == 1}
    assert rows["correct"].n_tokens == 160 and rows["correct"].value is not None
    assert rows["wrong"].flags == ("few_distinct=80/160",) and rows["wrong"].value is None


@pytest.mark.parametrize(
    "kinds, said",
    [
        (["right"] * N, "all 120 scored answers are right: there is no wrong one"),
        (["wrong"] * N, "all 120 scored answers are wrong: there is no right one"),
        (["open"] * N, "no answer was scored: the task has no choices"),
    ],
)
def test_where_there_is_nothing_to_hold_against_each_other_the_rows_say_why(tmp_path, kinds, said):
    found = scores_of(store_of(tmp_path / "s", kinds))
    rows = [s for s in found if s.tokens.startswith(("correct", "wrong"))]
    assert len(rows) == 2 * len([s for s in found if s.tokens in ("all", "no_sinks")])
    assert all(s.value is None and s.stderr is None and said in s.reason and s.n_tokens == 0 for s in rows)


@given(st.lists(st.sampled_from(sorted(ANSWERS)), min_size=1, max_size=40), st.randoms())
def test_what_is_drawn_hangs_neither_on_the_order_nor_on_chance(kinds, random):
    records = [record(f"q{k}", kind) for k, kind in enumerate(kinds)]
    shuffled = records.copy()
    random.shuffle(shuffled)
    if not {"right", "wrong"} <= set(kinds):
        reasons = []
        for some in (records, shuffled):
            with pytest.raises(NoValue) as none:
                halves(some, seed=3)
            reasons.append(str(none.value))
        assert reasons[0] == reasons[1]
        return
    a, b = halves(records, seed=3), halves(shuffled, seed=3)
    for half in a:
        chosen = {r.id for r, keep in zip(records, a[half], strict=True) if keep}
        assert chosen == {r.id for r, keep in zip(shuffled, b[half], strict=True) if keep}
        assert len(chosen) == min(kinds.count("right"), kinds.count("wrong"))


def test_an_unscored_answer_names_its_reason():
    records = [replace(record("a", "open"), unscored="choices of more than a letter")]
    with pytest.raises(NoValue, match="no answer was scored: choices of more than a letter"):
        halves(records, seed=0)
