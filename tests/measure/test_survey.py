"""Draws of distinct tokens, and the samples they are of."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from microscope_bench.errors import MicroscopeError
from microscope_bench.measure.clouds import boundaries
from microscope_bench.measure.survey import survey
from microscope_bench.measure.tokens import StoredTokens
from microscope_bench.metrics import intrinsic_dimension_metric
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.record import Metric
from microscope_bench.metrics.registry import METRICS
from microscope_bench.protocol import named_protocol
from tests.measure.stores import CPU, measurement_of, noise, noise_layers, write_store

PROTOCOL = named_protocol("geometry/1")


def clouds_of(store, n_layers, **protocol):
    tokens = StoredTokens(store, PROTOCOL.with_changes(**protocol), CPU)
    return boundaries(tokens, survey(tokens, n_layers), n_layers, 2)


def test_every_cloud_is_measured_on_draws_of_one_number_of_tokens(tmp_path):
    text, image = noise_layers(1300, 8, 3, 1), noise_layers(3000, 8, 3, 2)
    text[0][:] = noise(40, 8, 5).repeat(33, 1)[:1300]  # boundary 0 of text is a vocabulary
    store = write_store(tmp_path / "s", {"text": text, "image": image}, 10)
    found = measurement_of(store, PROTOCOL, ["intrinsic_dimension"], n_layers=2)
    n = {(s.modality, s.layer): (s.n_tokens, s.value is None, s.flags) for s in found.scores}
    assert n.pop(("text", 0)) == (40, True, ("few_distinct=40/1024",))
    assert n.pop(("joint", 0))[0] == 2048  # of 3,040 distinct ones
    assert {(modality, tokens) for (modality, _), (tokens, _, _) in n.items()} == {
        ("text", 1024), ("image", 2048), ("joint", 4096),
    }  # fmt: skip
    assert not any(without for _, without, _ in n.values())


def test_neighbours_are_of_other_pictures(tmp_path):
    """The states of a picture lie along a line, in both of the examples that show it; the pictures all over."""
    picture = torch.arange(3000) // 12
    states = noise(250, 4, 1)[picture] + 0.001 * noise(250, 4, 2)[picture] * noise(3000, 1, 3)
    store = write_store(tmp_path / "s", {"image": [states, states]}, 6, per_picture=2)
    metrics = ["intrinsic_dimension", "intrinsic_dimension_within_examples"]
    found = measurement_of(store, PROTOCOL.with_changes(id_tokens=1400), metrics, n_layers=1)
    values = {s.metric: (s.value, s.n_tokens) for s in found.scores if s.estimator == "twonn_discard10"}
    assert values["intrinsic_dimension"] == (pytest.approx(4, rel=0.1), 2800)
    assert values["intrinsic_dimension_within_examples"][0] == pytest.approx(1, abs=0.15)


def test_a_sample_has_no_copies_and_says_what_was_dropped(tmp_path):
    once = noise(400, 8, 3)
    copies = torch.cat([once, once * (1 + 1e-7), once[:200]])
    same = torch.cat([torch.arange(400), torch.arange(400), torch.arange(200)])
    store = write_store(tmp_path / "s", {"image": [copies, copies]}, 10, origin=same)
    cloud = clouds_of(store, 1)[0]["image", "all"]
    assert len(cloud.distinct.x) == 400 and len(cloud.sampled.x) == 1000
    assert cloud.distinct.duplicates == pytest.approx(0.6)
    closest = torch.cdist(cloud.distinct.x, cloud.distinct.x).fill_diagonal_(9).min()
    assert float(closest) > 0.01


def test_close_rows_are_copies_only_where_the_same_went_in(tmp_path):
    """Half types: everything within 3 % of a row is within its rounding, and most of it is another token."""
    once = noise(500, 8, 3)
    twice = torch.cat([once, once * 1.005]).to(torch.bfloat16)
    same = torch.arange(500).repeat(2)

    def n_distinct(layer, **keys):
        store = write_store(tmp_path / f"{layer}-{'-'.join(keys)}", {"image": [twice, twice]}, 10, **keys)
        return len(clouds_of(store, 1)[layer]["image", "all"].distinct.x)

    exact = len(torch.unique(twice.float(), dim=0))
    assert exact > 900, "bfloat16 tells most of them apart"
    assert n_distinct(0) == n_distinct(1) == exact
    assert n_distinct(0, origin=same) == 500
    assert n_distinct(1, origin=same) == exact, "boundary 0 has its own key"
    far = torch.cat([once, once + 1]).to(torch.bfloat16)
    store = write_store(tmp_path / "far", {"image": [far, far]}, 10, origin=same)
    assert len(clouds_of(store, 1)[0]["image", "all"].distinct.x) == 1000, "the same input, and yet other states"


def test_rounding_to_bfloat16_moves_intrinsic_dimension_by_less_than_its_error(tmp_path):
    """Tokens on a bent sheet with a large mean, close to each other at the scale of their norms."""
    sheet = torch.rand(2500, 4, generator=torch.Generator().manual_seed(1))
    states = torch.tanh(sheet @ noise(4, 48, 5)) + 0.02 * noise(2500, 48, 6) + 1.0
    found = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        store = write_store(tmp_path / str(dtype), {"image": [states.to(dtype)] * 2}, 10)
        scores = intrinsic_dimension_metric.scores(clouds_of(store, 1)[1]["image", "all"])
        estimates = {name: estimate for name, _, estimate in scores}
        found[dtype] = estimates["twonn_discard10"]
    reference = found.pop(torch.float32)
    for score in found.values():
        assert score.n_tokens == reference.n_tokens == 2048 == 2 * PROTOCOL.id_tokens
        assert abs(score.value - reference.value) < reference.stderr


def test_a_copy_of_a_sink_that_is_none_itself_stays(tmp_path):
    """Two tokens that are equal at boundary 0, of which one becomes a sink later."""
    first = noise(600, 8, 3)
    first[1] = first[0]
    second = noise(600, 8, 4)
    second[0, 2] = 5000.0
    store = write_store(tmp_path / "s", {"image": [first, second]}, 10)
    without = clouds_of(store, 1)[0]["image", "no_sinks"]
    assert without.n_tokens == len(without.distinct.x) == 599
    assert (without.distinct.x == first[1].double()).all(1).any()


def test_a_sample_does_not_depend_on_examples_that_are_not_in_it(tmp_path):
    """A token's place in the sample is its own hash's: leaving the last examples out moves no other token."""
    layers = noise_layers(600, 8, 2)

    def sampled(name, n):
        store = write_store(tmp_path / name, {"image": [x[:n] for x in layers]}, 10)
        return {tuple(row) for row in clouds_of(store, 1, id_tokens=25)[1]["image", "all"].distinct.x.tolist()}

    whole, fewer = sampled("a", 600), sampled("b", 540)
    assert len(whole) == len(fewer) == 8 * 25
    gone = {tuple(row) for row in layers[1][540:].double().tolist()}
    assert whole - fewer <= gone


def test_the_same_tokens_are_sampled_at_every_boundary(tmp_path):
    base = noise(700, 8, 3)
    store = write_store(tmp_path / "s", {"image": [base, base + 1, base * 2]}, 10)
    clouds = clouds_of(store, 2, id_tokens=300)
    first = clouds[0]["image", "all"].drawn
    assert len(first.x) == 2 * 300
    assert torch.allclose(clouds[1]["image", "all"].drawn.x, first.x + 1, atol=1e-5)
    assert torch.equal(clouds[2]["image", "all"].drawn.x, first.x * 2)


def test_clouds_know_the_clouds_beside_them(tmp_path):
    text, image = noise_layers(120, 6, 3, 1), noise_layers(120, 6, 3, 2)
    image[1][3, 2] = 9999.0
    layers = clouds_of(write_store(tmp_path / "s", {"text": text, "image": image}, 10), 2)
    assert sorted(layers[0]) == [
        ("image", "all"), ("image", "no_sinks"), ("joint", "all"), ("joint", "no_sinks"), ("text", "all"),
    ]  # fmt: skip
    for here, there in pairwise(layers):
        assert all(here[key].next is there[key] for key in here)
    assert all(cloud.next is None for cloud in layers[2].values())
    assert layers[1]["image", "no_sinks"].text is layers[1]["text", "all"]
    assert layers[1]["joint", "all"].text is None and layers[1]["text", "all"].text is None
    whole, parts = layers[1]["joint", "no_sinks"], [text[1], torch.cat([image[1][:3], image[1][4:]])]
    assert whole.n_tokens == whole.moments.total().n == 239
    expected = torch.cat(parts).double().T.cov(correction=0) * 239
    assert torch.allclose(whole.moments.total().c_xx, expected, rtol=1e-10)


def test_ever_more_tokens_are_looked_at_until_enough_are_distinct(tmp_path):
    """Three quarters are copies: the first quarter more of the tokens would not do."""
    copies = [noise(1000, 8, seed).repeat(4, 1) for seed in (3, 4)]
    cloud = clouds_of(write_store(tmp_path / "s", {"image": copies}, 10), 1, id_tokens=112)[1]["image", "all"]
    assert len(cloud.distinct.x) == 8 * 112 == len(cloud.drawn.x)


def test_what_a_metric_is_given_does_not_depend_on_the_metrics_beside_it(tmp_path, monkeypatch):
    """A metric of the draws that looks at no neighbours, alone and beside one that does."""

    def scores(cloud):
        n = len(cloud.drawn.x)
        yield "n", None, Estimate(float(n), None, n, cloud.n_examples)

    counts = Metric(
        name="counts", version=1, title="counts", explanation="rows it was given", estimators=("n",), scores=scores
    )
    monkeypatch.setitem(METRICS._objects, "counts", counts)
    store = write_store(tmp_path / "s", {"text": noise_layers(700, 8, 2, 1), "image": noise_layers(2000, 8, 2, 2)}, 10)

    def found(*names):
        given = measurement_of(store, PROTOCOL, names, n_layers=1)
        return [score for score in given.scores if score.metric == "counts"]

    assert found("counts") == found("counts", "intrinsic_dimension")
    assert {score.value for score in found("counts")} == {0.0, 1024.0, 2048.0}  # text, image and joint


def test_an_estimator_that_a_metric_does_not_list_is_refused(tmp_path, monkeypatch):
    def scores(cloud):
        yield "other", None, Estimate(1.0, None, 1, 1)

    monkeypatch.setitem(
        METRICS._objects,
        "odd",
        Metric(name="odd", version=1, title="odd", explanation="odd", estimators=("one",), scores=scores),
    )
    store = write_store(tmp_path / "s", {"image": noise_layers(50, 4, 2)}, 10)
    with pytest.raises(MicroscopeError, match="metric odd gave estimator 'other'"):
        measurement_of(store, PROTOCOL, ["odd"], n_layers=1)


def test_sinks_do_not_count_among_the_tokens_that_a_cloud_has_enough_of(tmp_path):
    """1,100 distinct tokens do for a draw of 1,024; of these 200 are sinks, and 900 do not."""
    layers = noise_layers(1100, 8, 2)
    layers[1][:200, 3] = 5000.0
    store = write_store(tmp_path / "s", {"image": layers}, 10)
    found = measurement_of(store, PROTOCOL, ["intrinsic_dimension"], n_layers=1)
    assert {(s.tokens, s.n_tokens, s.value is None) for s in found.scores} == {
        ("all", 1024, False), ("no_sinks", 900, True),
    }  # fmt: skip
