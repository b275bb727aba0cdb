"""The token sets ``all`` and ``no_sinks``: which tokens are sinks, and that a few move nothing in ``no_sinks``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from microscope_bench.metrics.core.arrays import cloud_of
from microscope_bench.metrics.core.sinks import long_rows, massive_rows, notable_dimensions, top_variance_share
from microscope_bench.metrics.registry import METRICS
from microscope_bench.protocol import named_protocol
from tests.measure.stores import measurement_of, noise, noise_layers, write_store

PROTOCOL = named_protocol("geometry/1").with_changes(id_tokens=1024)
DEFAULT = ("linearity", "intrinsic_dimension", "anisotropy")
D, N, LAYERS = 24, 900, 2


def measured(path, states, metrics=DEFAULT, protocol=PROTOCOL, per_example=9):
    n_layers = len(next(iter(states.values()))) - 1
    store = write_store(path, states, per_example)
    return measurement_of(store, protocol, metrics, n_layers=n_layers)


def by_key(scores, token_set):
    return {(s.metric, s.estimator, s.stream, s.modality, s.layer): s for s in scores if s.tokens == token_set}


def sinks_in(x):
    return massive_rows(x) | long_rows(x.double().norm(dim=1))


def with_sinks(layers, value=1000.0):
    """Eight more tokens at the end, each massive in one coordinate at boundary 1 alone."""
    out = []
    for k, states in enumerate(layers):
        more = noise(8, states.shape[1], 77 + k)
        if k == 1:
            more[:, 5] = value
        out.append(torch.cat([states, more]))
    return out


def test_a_massive_activation_is_large_in_itself_and_against_its_token():
    x = torch.ones(5, 9)
    x[1, 0] = 301.0  # massive
    x[2, 0] = 299.0  # not 300 times the median
    x[3] = 0.05
    x[3, 0] = 99.0  # nearly 2,000 times, but small
    x[4, :] = 5000.0  # no coordinate stands out
    assert massive_rows(x).tolist() == [False, True, False, False, False]
    assert massive_rows(-x).tolist() == [False, True, False, False, False]
    x[1, 0] = 310.0
    assert massive_rows(x.to(torch.bfloat16)).tolist() == [False, True, False, False, False]


def test_long_tokens_are_sinks_whatever_the_scale():
    norms = torch.cat([torch.linspace(0.5, 1.5, 98).double(), torch.tensor([3.9, 12.0]).double()])
    for scale in (1e-6, 1.0, 1e6):
        assert torch.nonzero(long_rows(norms * scale)).flatten().tolist() == [99], "3.9 times the median is not enough"
    many = torch.cat([torch.ones(90), torch.full((10,), 12.0)]).double()
    assert long_rows(many).sum() == 10, "the median is not moved by the long ones"
    assert not long_rows(torch.full((4,), torch.nan).double()).any()
    assert not long_rows(torch.tensor([0.0, 0.0, 0.0, 1e-3, 2e-3]).double()).any(), "among zeros all else is long"


def heavy_tailed(kind: str, n: int, d: int) -> torch.Tensor:
    """Clouds without a sink: each row's scale, or each coordinate, has heavy tails."""
    x, random = noise(n, d, 5).double(), np.random.default_rng(6)
    if kind == "t5 coordinates":
        return torch.from_numpy(random.standard_t(5, (n, d)))
    if kind == "multivariate t5":
        return x * torch.from_numpy(np.sqrt(5 / random.chisquare(5, n)))[:, None]
    if kind.startswith("log-normal"):
        return x * torch.from_numpy(np.exp(float(kind.split()[1]) * random.standard_normal(n)))[:, None]
    return x


CLOUDS = ("Gaussian", "t5 coordinates", "multivariate t5", "log-normal 0.3", "log-normal 0.5", "log-normal 1")


@pytest.mark.parametrize("scale", [1.0, 200.0])
@pytest.mark.parametrize("kind", CLOUDS)
def test_heavy_tails_are_no_sinks(kind, scale):
    """At most one false one in 2,000 tokens, whichever way a cloud without sinks is heavy-tailed."""
    x = scale * heavy_tailed(kind, 40_000, 64)
    assert int(sinks_in(x).sum()) <= 20
    # that is what the second condition on the norm is for
    norms = x.norm(dim=1)
    assert kind in CLOUDS[:2] or int((norms > 4 * norms.median()).sum()) > 20 or kind == "log-normal 0.3"


@pytest.mark.parametrize("times, share", [(3, 0), (5, 1), (10, 1), (100, 1), (1000, 1)])
@pytest.mark.parametrize("d", [64, 4096])
def test_of_sinks_of_several_sizes_all_that_stand_apart_are_found(times, share, d):
    """One coordinate made so large that the token is as many times as long as the median one."""
    x = noise(2000, d, 7)
    planted = torch.arange(0, 2000, 40)
    x[planted, 5] = times * x.norm(dim=1).median()
    found = sinks_in(x)
    assert int(found[planted].sum()) == share * len(planted) and int(found.sum()) == share * len(planted)


def test_notable_dimensions_come_by_how_many_tokens_have_them():
    x = torch.full((3, 6), 0.1)
    x[:, 4], x[0, 2] = 50.0, 60.0
    assert notable_dimensions(x) == [4, 2]
    assert notable_dimensions(x[:0]) == []
    shares = torch.tensor([[0.0, 0.78, 0.13, 0.09]])
    assert notable_dimensions(shares.sqrt()) == [1, 2], "a tenth of the squared norm"
    assert notable_dimensions(50 * torch.eye(20)) == list(range(16))


@pytest.mark.parametrize("d", [30, 600])
def test_share_of_the_first_axis_is_that_of_a_singular_value_decomposition(d):
    x = noise(700, d, 1).double()
    x[:3, 4] += 80.0
    u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    expected = float((u[:3, 0] * s[0]).square().sum() / s[0] ** 2)
    first_axis = cloud_of(x, None, None).first_axis
    assert top_variance_share(first_axis, (x - x.mean(0))[:3]) == pytest.approx(expected, rel=1e-8)
    assert 0.9 < expected < 1


def test_eight_tokens_of_magnitude_1000_change_no_score_without_sinks(tmp_path):
    """Every registered metric: what is measured without sinks is what there was before they came."""
    text, image = noise_layers(N, D, LAYERS + 1, 1), noise_layers(N, D, LAYERS + 1, 2)
    metrics = METRICS.names()
    clean = by_key(measured(tmp_path / "a", {"text": text, "image": image}, metrics).scores, "all")
    found = measured(tmp_path / "b", {"text": text, "image": with_sinks(image)}, metrics)
    without, whole = by_key(found.scores, "no_sinks"), by_key(found.scores, "all")
    assert without.keys() == whole.keys() == clean.keys()
    for key, score in without.items():
        assert (score.value is None) == (clean[key].value is None), (key, score.reason)
        if score.value is not None and clean[key].stderr is not None:
            assert abs(score.value - clean[key].value) <= clean[key].stderr + 1e-12, key
    # and with them nearly everything does: noise looks anisotropic and predictable
    assert whole["anisotropy", "top_share", None, "image", 1].value > 0.9
    assert clean["anisotropy", "top_share", None, "image", 1].value < 0.1


def test_the_result_says_how_many_sinks_where_in_which_dimension_and_what_they_carry(tmp_path):
    image = with_sinks(noise_layers(N, D, LAYERS + 1, 2))
    found = measured(tmp_path / "s", {"text": noise_layers(N, D, LAYERS + 1, 1), "image": image})
    text, pictures, joint = found.sinks
    assert (text.modality, text.n_tokens, text.n_sinks, text.layers) == ("text", N, 0, ())
    assert (pictures.modality, pictures.n_tokens, pictures.n_sinks, pictures.n_examples) == ("image", N + 8, 8, 1)
    assert (joint.modality, joint.n_tokens, joint.n_sinks) == ("joint", 2 * N + 8, 8)
    assert [(layer.layer, layer.n_tokens, layer.dimensions) for layer in pictures.layers] == [
        (0, 0, ()),
        (1, 8, (5,)),
        (2, 0, ()),
    ]
    shares = [layer.top_variance_share for layer in pictures.layers]
    assert shares[1] > 0.98
    # where they are no sinks yet, or no longer, the same eight tokens carry as much as any eight
    for layer in (0, 2):
        assert 0 < shares[layer] < 0.1


def test_pictures_are_held_against_a_text_without_its_sinks(tmp_path):
    text, image = noise_layers(N, D, LAYERS + 1, 1), noise_layers(N, D, LAYERS + 1, 2)
    clean = by_key(measured(tmp_path / "a", {"text": text, "image": image}, ["modality_gap"]).scores, "all")
    found = measured(tmp_path / "b", {"text": with_sinks(text), "image": image}, ["modality_gap"])
    without, whole = by_key(found.scores, "no_sinks"), by_key(found.scores, "all")
    key = ("modality_gap", "raw", None, "image", 1)
    assert without[key].value == pytest.approx(clean[key].value, rel=1e-9)
    assert whole[key].value > 5 * clean[key].value
    assert found.sinks[1].layers == (), "the pictures have none themselves"


def test_a_token_that_is_a_sink_anywhere_is_left_out_everywhere(tmp_path):
    image = with_sinks(noise_layers(N, D, LAYERS + 1, 2))
    found = measured(tmp_path / "s", {"image": image})
    for score in found.scores:
        assert score.n_tokens <= (N if score.tokens == "no_sinks" else N + 8)
        if score.metric == "anisotropy":
            assert score.n_tokens == (N if score.tokens == "no_sinks" else N + 8)


def test_without_sinks_the_two_sets_are_one(tmp_path):
    found = measured(tmp_path / "s", {"text": noise_layers(200, 6, 2, 1), "image": noise_layers(200, 6, 2, 2)})
    whole, without = by_key(found.scores, "all"), by_key(found.scores, "no_sinks")
    assert whole.keys() == without.keys()
    assert all(score.value == without[key].value for key, score in whole.items())
    assert all(entry.n_sinks == 0 and entry.layers == () for entry in found.sinks)


def test_where_all_tokens_are_sinks_every_value_is_null_and_says_so(tmp_path):
    image = noise_layers(300, D, 2, 2)
    for states in image:
        states[:, 3] = 4000.0
    states = {"text": noise_layers(300, D, 2, 1), "image": image}
    found = measured(tmp_path / "s", states, METRICS.names())
    rows = [s for s in found.scores if s.tokens == "no_sinks" and s.modality == "image"]
    assert len(rows) == len([s for s in found.scores if s.tokens == "all" and s.modality == "image"])
    assert all(row.value is None and row.reason == "all 300 tokens are sinks" for row in rows)
    text = by_key(found.scores, "no_sinks")["anisotropy", "top_share", None, "text", 0]
    joint = by_key(found.scores, "no_sinks")["anisotropy", "top_share", None, "joint", 0]
    assert joint.value == pytest.approx(text.value, rel=1e-12) and joint.n_tokens == 300


def test_sinks_that_the_rule_misses_are_flagged_and_warned_of(tmp_path, caplog):
    """Forty tokens three times as long as the others: too short for a sink, and yet the widest direction is theirs."""
    text, image = noise_layers(N, D, LAYERS + 1, 1), noise_layers(N, D, LAYERS + 1, 2)
    image[1][:40, 5] += 3 * image[1].norm(dim=1).median()
    found = measured(tmp_path / "s", {"text": text, "image": image}, ["anisotropy", "mir"])
    assert not any(entry.n_sinks for entry in found.sinks)
    for token_set in ("all", "no_sinks"):
        flagged = {key: s.flags for key, s in by_key(found.scores, token_set).items() if s.flags}
        ours = [("anisotropy", "top_share", None, name, 1) for name in ("image", "joint")]
        assert list(flagged) == ours and all(flags[0].startswith("concentrated=0.8") for flags in flagged.values())
    assert [(record.levelname, record.getMessage()[:30]) for record in caplog.records] == [
        ("WARNING", "image, token set no_sinks: 5 %"),
        ("WARNING", "joint, token set no_sinks: 5 %"),
    ]
    assert "at layers 1 (most: concentrated=0.8" in caplog.text


def test_a_token_with_nan_is_a_fault_and_no_sink(tmp_path):
    image = noise_layers(300, D, 2, 2)
    image[0][7, 3], image[0][8, 3] = torch.nan, torch.inf
    found = measured(tmp_path / "s", {"image": image})
    assert found.sinks[0].n_sinks == 0
    rows = [s for s in found.scores if s.layer == 0]
    assert rows and all(s.value is None and s.flags[0] == "non_finite" for s in rows)
