from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from microscope_bench import metrics
from microscope_bench.adapters.base import IMAGE, TEXT
from microscope_bench.capture.loop import Capture
from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import StoreError, UnknownNameError
from microscope_bench.measure.tokens import StoredTokens
from microscope_bench.protocol import named_protocol
from tests.measure.stores import distinct_rows, measurement_of
from tests.toy import LAYERS, ToyAdapter, ToyTask

METRICS = ("linearity", "intrinsic_dimension", "anisotropy")
PROTOCOL = named_protocol("geometry/1").with_changes(tokens_per_example=6, id_tokens=120)
CPU = torch.device("cpu")


def store_of(path, task=None, batch_size=1, part_examples=16):
    task = task or ToyTask(60)
    store = TokenStore.open_or_create(path, {}, n_examples=len(task), part_examples=part_examples)
    Capture(ToyAdapter(), task, PROTOCOL, batch_size).fill(store, store.missing_parts(), lambda n: None)
    return store


def scores_of(store, protocol=PROTOCOL, names=METRICS):
    return list(measurement_of(store, protocol, names, n_layers=LAYERS).scores)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("measure") / "s")


@pytest.fixture(scope="module")
def scores(store):
    return scores_of(store)


def pick(scores, **wanted):
    wanted = {"tokens": "all"} | wanted
    (found,) = [s for s in scores if all(getattr(s, k) == v for k, v in wanted.items())]
    return found


def raw(store, layer, modality):
    """States of one modality straight from the files, and what makes their folds: the picture they belong to.

    Of the tokens that several examples share each is there once.
    """
    x, groups = [], []
    distinct = distinct_rows(store, PROTOCOL.seed)
    for part in range(store.n_parts):
        file = safe_open(store.tensor_file(part), framework="pt")
        keep = torch.isin(file.get_tensor("modality"), torch.tensor(modality, dtype=torch.int8))
        keep &= torch.isin(torch.arange(len(keep)), torch.tensor(distinct[part]))
        x.append(file.get_tensor(f"boundary.{layer}")[keep])
        records = store.part_records(part)
        groups += [records[i].media_sha256 for i in file.get_tensor("example")[keep].tolist()]
    return torch.cat(x), groups


@pytest.mark.parametrize("modality, codes", [("text", [TEXT]), ("image", [IMAGE]), ("joint", [TEXT, IMAGE])])
@pytest.mark.parametrize("layer", [0, LAYERS - 1])
def test_scores_are_those_of_the_public_functions_on_the_stored_arrays(store, scores, modality, codes, layer):
    (x, groups), (y, _) = raw(store, layer, codes), raw(store, layer + 1, codes)
    for estimator in ("cross_fitted", "in_sample", "adjusted", "held_out"):
        for stream in ("hidden", "update"):
            mine = pick(scores, metric="linearity", estimator=estimator, stream=stream, modality=modality, layer=layer)
            theirs = metrics.linearity(x, y, stream=stream, estimator=estimator, groups=groups)
            assert (mine.value, mine.stderr) == pytest.approx((theirs.value, theirs.stderr), rel=1e-8)
            assert (mine.n_tokens, mine.n_examples) == (theirs.n_tokens, theirs.n_examples) == (len(x), 60)
    mine = pick(scores, metric="anisotropy", modality=modality, layer=layer)
    theirs = metrics.anisotropy(x, groups=groups)
    assert (mine.value, mine.stderr) == pytest.approx((theirs.value, theirs.stderr), rel=1e-8)
    for estimator in ("twonn_mle", "twonn_regression20", "twonn_discard10"):
        theirs = metrics.intrinsic_dimension(x, estimator=estimator, groups=groups)
        # in one draw of all tokens, so that it does not hang on their order
        one_draw = scores_of(store, PROTOCOL.with_changes(id_tokens=theirs.n_tokens), ("intrinsic_dimension",))
        mine = pick(one_draw, metric="intrinsic_dimension", estimator=estimator, modality=modality, layer=layer)
        assert mine.n_tokens == theirs.n_tokens
        assert (mine.value, mine.stderr) == pytest.approx((theirs.value, theirs.stderr), rel=1e-8)


def test_every_modality_and_boundary_is_there_once(scores):
    rows = [(s.metric, s.estimator, s.stream, s.modality, s.tokens, s.layer) for s in scores]
    assert len(rows) == len(set(rows))
    assert {row[:4] + row[5:] for row in rows if row[4] == "all"} == {r[:4] + r[5:] for r in rows if r[4] != "all"}
    assert {s.modality for s in scores} == {"text", "image", "joint"}
    assert {s.layer for s in scores if s.metric == "anisotropy"} == set(range(LAYERS + 1))
    assert {s.layer for s in scores if s.metric == "linearity"} == set(range(LAYERS))


def test_order_of_examples_parts_and_measurements_change_no_bit(tmp_path, scores):
    order = np.random.default_rng(1).permutation(60).tolist()
    assert scores_of(store_of(tmp_path / "a", ToyTask(order=order), part_examples=7)) == scores


@pytest.mark.parametrize("batch_size", [3, 8])
def test_batch_size_changes_scores_by_less_than_one_in_ten_thousand(tmp_path, scores, batch_size):
    for mine, other in zip(scores, scores_of(store_of(tmp_path / "a", batch_size=batch_size)), strict=True):
        assert mine.reason == other.reason
        if mine.value is not None:
            assert mine.value == pytest.approx(other.value, rel=1e-4)
            assert mine.stderr == pytest.approx(other.stderr, rel=1e-3)


def test_non_finite_states_become_null_with_a_reason(tmp_path):
    adapter, task = ToyAdapter(), ToyTask(30)
    with torch.no_grad():
        adapter.embedding.weight[ord("a")] = float("nan")
    store = TokenStore.open_or_create(tmp_path / "s", {}, n_examples=30, part_examples=16)
    Capture(adapter, task, PROTOCOL, 4).fill(store, store.missing_parts(), lambda n: None)
    for score in scores_of(store):
        if score.modality in ("text", "joint") and score.layer == 0:
            assert score.value is None and "NaN or infinity" in score.reason
            assert any("non_finite" in flag for flag in score.flags)


def test_a_damaged_store_is_refused(tmp_path):
    store = store_of(tmp_path / "s", ToyTask(20))
    file = tmp_path / "s/parts/00001.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(StoreError, match="damaged"):
        scores_of(store)


def test_an_unknown_metric_is_refused_before_anything_is_read(tmp_path):
    store = TokenStore.open_or_create(tmp_path / "s", {}, n_examples=1, part_examples=1)
    with pytest.raises(UnknownNameError, match="linearity"):
        scores_of(store, names=("linearty",))


def test_examples_with_the_same_picture_share_a_fold(tmp_path):
    class Twins(ToyTask):
        def example(self, index):
            picture = super().example(index // 2 * 2).images
            return replace(super().example(index), images=picture)

    tokens = StoredTokens(store_of(tmp_path / "s", Twins(60)), PROTOCOL, CPU)
    folds = {
        int(example): int(fold)
        for example, fold in zip(tokens.example, tokens.folds(np.arange(len(tokens.example))), strict=True)
    }
    names = sorted((f"q{i}" for i in range(60)), key=lambda name: (len(name), name))
    fold_of = {names[example]: fold for example, fold in folds.items()}
    assert all(fold_of[f"q{i}"] == fold_of[f"q{i + 1}"] for i in range(0, 60, 2))
    assert sorted(Counter(fold_of.values()).values()) == [6] * 10


def test_fewer_examples_than_folds_are_flagged(tmp_path):
    scores = scores_of(store_of(tmp_path / "s", ToyTask(4)), names=["anisotropy"])
    assert all("folds=4" in score.flags for score in scores)
