"""The non-linearity of single tokens against least squares in numpy on the store's files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from microscope_bench.capture.hooks import run_pass
from microscope_bench.errors import StoreError, UnknownNameError
from microscope_bench.figures.example_pictures import draw_example
from microscope_bench.figures.example_rerun import run_again
from microscope_bench.figures.nonlinearity import TokenMap
from microscope_bench.figures.open_store import OpenStore
from tests.figures.toys import ReadingToy, kept_store
from tests.measure.stores import distinct_rows, noise
from tests.toy import ToyTask

ALL = set(range(4))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return kept_store(tmp_path_factory.mktemp("store"), tokens_per_example=8)


def states_on_disk(opened, layer):
    """float64 (N, d): every kept token, those of one prefix once, read without the package."""
    parts = sorted((opened.store.path / "parts").glob("*.safetensors"))
    distinct = distinct_rows(opened.store, opened.identity.protocol.seed).values()
    states = [load_file(part)[f"boundary.{layer}"][sorted(rows)] for part, rows in zip(parts, distinct, strict=True)]
    return np.concatenate(states).astype(np.float64)


def by_least_squares(x, y, new_x, new_y, stream):
    """The residual norms and the norms they are shares of, by numpy's solver and with a column of ones."""
    target, new_target = (y, new_y) if stream == "hidden" else (y - x, new_y - new_x)
    design = np.column_stack([x, np.ones(len(x))])
    solution, *_ = np.linalg.lstsq(design, target, rcond=None)
    left = new_target - np.column_stack([new_x, np.ones(len(new_x))]) @ solution
    return np.linalg.norm(left, axis=1), np.linalg.norm(new_target, axis=1)


def states_of_one(example):
    """Boundary → float64 (S, d) of all tokens of an example, from a pass of its own."""
    adapter, states = ReadingToy(), {}
    run_pass(adapter, adapter.encode([example]), lambda k, h: states.update({k: h[0].double().numpy()}), logits=False)
    return states


@pytest.mark.parametrize("stream", ["hidden", "update"])
@pytest.mark.parametrize("relative", [True, False])
def test_it_is_what_least_squares_in_numpy_leaves(toy, tmp_path, stream, relative):
    opened, _ = toy
    rerun = run_again(opened, ReadingToy(), ToyTask(), "q7", ALL)
    drawn = draw_example(opened, rerun, tmp_path / "e.svg", layers=[0, 1, 2], stream=stream, relative=relative)
    alone = states_of_one(ToyTask().example(7))
    for layer, values in drawn.items():
        x, y = states_on_disk(opened, layer), states_on_disk(opened, layer + 1)
        left, size = by_least_squares(x, y, alone[layer], alone[layer + 1], stream)
        assert np.isnan(values[0]), "BOS is not measured"
        np.testing.assert_allclose(values[1:], (left / size if relative else left)[1:], rtol=1e-6, atol=1e-9)


def test_its_squares_add_up_to_one_minus_linearity(toy):
    opened, result = toy
    for stream in ("hidden", "update"):
        for row in result.series("linearity", "in_sample", stream, "joint"):
            x, y = (torch.from_numpy(states_on_disk(opened, row.layer + k)) for k in (0, 1))
            target = y if stream == "hidden" else y - x
            left = TokenMap.fitted(opened, row.layer).unexplained(x, y, stream, relative=False)
            share = left.square().sum() / (target - target.mean(0)).square().sum()
            assert float(1 - share) == pytest.approx(row.value, abs=1e-9)


def test_all_tokens_of_the_example_are_there_not_only_the_kept_ones(toy, tmp_path):
    opened, _ = toy
    rerun = run_again(opened, ReadingToy(), ToyTask(), "q16", ALL)
    values = draw_example(opened, rerun, tmp_path / "e.svg", layers=[1])[1]
    seen = opened.store.records[16].tokens_seen
    assert seen["text"] > 8
    assert np.isfinite(values).sum() == seen["text"] + seen["image"]


def test_the_model_must_be_the_stores(toy):
    opened, _ = toy
    with pytest.raises(StoreError, match=r"another model than the store's: revision is 'sha256-0+\+weights-"):
        run_again(opened, ReadingToy(seed=1), ToyTask(), "q7", ALL)
    doubled = ReadingToy()
    doubled.residual = lambda hidden: 2 * hidden  # the weights do not tell
    with pytest.raises(StoreError, match=r"other states at layer 0 .* than the store holds"):
        run_again(opened, doubled, ToyTask(), "q7", ALL)
    other = ReadingToy(context_length=99)
    with pytest.raises(StoreError, match=r"another model than the store's: context_length is 99 and was None"):
        run_again(opened, other, ToyTask(), "q7", ALL)


def test_the_task_must_be_the_stores(toy):
    opened, _ = toy
    task = ToyTask()
    task.version = "2"
    with pytest.raises(StoreError, match=r"another task than the store's: version is '2' and was '1'"):
        run_again(opened, ReadingToy(), task, "q7", ALL)
    with pytest.raises(StoreError, match="example q7 is not what it was"):
        run_again(opened, ReadingToy(), ToyTask(order=range(40)[::-1]), "q7", ALL)
    with pytest.raises(UnknownNameError, match="Did you mean"):
        run_again(opened, ReadingToy(), ToyTask(), "q77", ALL)


def test_controls_are_set_again(tmp_path):
    opened, _ = kept_store(tmp_path / "s", n=30, control="shuffled_image")
    rerun = run_again(opened, ReadingToy(), ToyTask(30), opened.store.records[0].id, ALL)
    assert rerun.adapter.info.control == "shuffled_image"
    assert opened.model == "toy, shuffled_image"


def test_an_example_that_was_skipped_is_refused(tmp_path):
    task = ToyTask(30, broken={3: "picture"})
    from microscope_bench.run.evaluate import evaluate

    evaluate(
        ReadingToy(), task, store=tmp_path / "s", keep_store=True, progress=False, metrics="linearity", max_skipped=0.5
    )
    opened = OpenStore.at(tmp_path / "s")
    with pytest.raises(StoreError, match="q3 was not measured"):
        run_again(opened, ReadingToy(), task, "q3", ALL)


def test_a_map_that_fits_everything_is_refused(tmp_path):
    opened, _ = kept_store(tmp_path / "s", n=2, tokens_per_example=3)
    with pytest.raises(StoreError, match="leave no degree of freedom"):
        TokenMap.fitted(opened, 1)


def test_a_store_of_states_that_are_not_numbers_is_refused(tmp_path):
    opened, _ = kept_store(tmp_path / "s")
    opened.tokens.states = lambda layer, rows: torch.full((len(rows), 16), torch.nan)
    with pytest.raises(StoreError, match="hold NaN or infinity at layer 1"):
        TokenMap.fitted(opened, 1)


def test_a_token_that_does_not_move_has_no_share_of_an_update(toy):
    opened, _ = toy
    x = noise(3, 16, 0).double()
    assert TokenMap.fitted(opened, 0).unexplained(x, x, "update").isnan().all()


def test_an_unfinished_store_is_refused(tmp_path):
    kept_store(tmp_path / "s")
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["about"]
    next((tmp_path / "s" / "parts").glob("*.json")).unlink()
    with pytest.raises(StoreError, match="is not complete"):
        OpenStore.at(tmp_path / "s")
