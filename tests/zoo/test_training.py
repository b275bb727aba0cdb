"""Training: the same bytes for the same seed, also after an interruption; it learns; its errors say what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from microscope_bench.errors import MicroscopeError
from microscope_bench.identity import ModelInfo
from microscope_bench.zoo import fusion_training, steps, vision_training
from microscope_bench.zoo.card import card
from microscope_bench.zoo.formats import find_format
from microscope_bench.zoo.lessons import shapesqa
from microscope_bench.zoo.seeing import N_QUESTIONS, Seeing
from microscope_bench.zoo.steps import Schedule, Training, train
from microscope_bench.zoo.train import main, train_model


@pytest.fixture
def short(monkeypatch):
    """Schedules of seconds."""
    for module, n_steps in ((vision_training, 6), (fusion_training, 4)):
        monkeypatch.setattr(module, "SCHEDULE", replace(module.SCHEDULE, steps=n_steps, batch_size=8))
    monkeypatch.setattr("microscope_bench.zoo.train.how_it_sees", lambda adapter: SEEING)


SEEING = Seeing(N_QUESTIONS, 0.812, 0.34, {"count": (0.9, 0.35), "where": (0.7, 0.33)})


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(3, 1)


def regression(module):
    def loss_of_step(step):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return (module(x)[:, 0] - x.sum(1)).square().mean(), {}

    return loss_of_step


SCHEDULE = Schedule(steps=250, batch_size=8, learning_rate=0.05, warm_up=10)
TRAINING = Training("line", 0, SCHEDULE)


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path):
    whole = linear()
    train(TRAINING, {"m": whole}, regression(whole), tmp_path / "whole", quiet=True)
    module = linear()
    ordinary = regression(module)

    def interrupted(step):
        if step == 170:
            raise KeyboardInterrupt
        return ordinary(step)

    with pytest.raises(KeyboardInterrupt):
        train(TRAINING, {"m": module}, interrupted, tmp_path / "part", quiet=True)
    assert not torch.equal(module.weight, whole.weight)
    again, asked = linear(seed=9), []
    resumed = regression(again)

    def noted(step):
        asked.append(step)
        return resumed(step)

    train(TRAINING, {"m": again}, noted, tmp_path / "part", quiet=True)
    assert asked[0] == 100, "the last checkpoint"
    assert torch.equal(again.weight, whole.weight) and torch.equal(again.bias, whole.bias)
    assert float((whole.weight.detach() - 1).abs().max()) < 0.05, "it learned the sum"


def test_a_finished_training_is_taken_as_it_is(tmp_path):
    first = linear()
    train(TRAINING, {"m": first}, regression(first), tmp_path, quiet=True)
    second = linear(seed=5)
    train(TRAINING, {"m": second}, lambda step: pytest.fail("trained again"), tmp_path, quiet=True)
    assert torch.equal(first.weight, second.weight)


@pytest.mark.parametrize("harm", ["other schedule", "other torch", "other model", "damaged"])
def test_a_checkpoint_that_does_not_fit_is_named(tmp_path, harm, monkeypatch):
    path, module, training = TRAINING.checkpoint(tmp_path), linear(), TRAINING
    train(TRAINING, {"m": module}, regression(module), tmp_path, quiet=True)
    if harm == "other schedule":
        training = replace(TRAINING, schedule=replace(SCHEDULE, steps=300))
    if harm == "other torch":
        monkeypatch.setattr(torch, "__version__", "0.0")
    other = nn.Linear(4, 1) if harm == "other model" else linear()
    if harm == "damaged":
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(MicroscopeError, match=rf"{path.name} cannot be resumed from .*remove it to begin anew"):
        train(training, {"m": other}, regression(other), tmp_path, quiet=True)


def test_another_seed_or_device_has_another_checkpoint(tmp_path):
    others = [replace(TRAINING, seed=1), replace(TRAINING, device="cuda"), replace(TRAINING, name="curve")]
    assert len({each.checkpoint(tmp_path) for each in [TRAINING, *others]}) == 4


def test_divergence_is_an_error_not_a_checkpoint(tmp_path):
    module = linear()
    with pytest.raises(MicroscopeError, match="the loss of step 0 is nan"):
        train(TRAINING, {"m": module}, lambda step: (module.weight.sum() * float("nan"), {}), tmp_path, quiet=True)
    assert not TRAINING.checkpoint(tmp_path).exists()


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MicroscopeError, match=r"cannot hold checkpoints .*--work"):
        train(TRAINING, {"m": linear()}, lambda step: pytest.fail("trained"), tmp_path / "file", quiet=True)


def test_the_learning_rate_rises_and_falls():
    rates = [SCHEDULE.rate(step) for step in range(SCHEDULE.steps)]
    assert rates[0] < rates[5] < rates[12] <= SCHEDULE.learning_rate
    assert rates[-1] < 0.03 * SCHEDULE.learning_rate
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_targets_of_the_tower_say_what_each_quarter_shows():
    scenes = [shapesqa().scene(0, "train", number) for number in range(16)]
    pixels, targets = vision_training.pictures_and_targets(scenes)
    assert pixels.shape == (16, 3, 64, 64) and targets.shape == (16, 16, 4)
    for number in range(vision_training.TILES, 16):
        grid = targets[number].view(4, 4, 4)
        for row in (0, 1):
            for column in (0, 1):
                place = shapesqa().PLACES[2 * row + column]
                there = [shape for shape in scenes[number].shapes if shape.place == place]
                patch = grid[2 * row + 1, 2 * column].tolist()
                assert bool(there) == (patch[0] > 0) == (patch[1] > 0) == (patch[2] > 0)
                if there:
                    assert shapesqa().SHAPES[patch[0] - 1] == there[0].shape
                    assert list(shapesqa().COLOURS)[patch[1] - 1] == there[0].colour
    for number in range(vision_training.TILES):
        assert len({tuple(patch[:3].tolist()) for patch in targets[number]}) == 1, "a tile shows one quarter"
    assert targets[..., 3].tolist() == [list(range(16))] * 16


@pytest.mark.parametrize("fusion", ["llava", "qformer", "fuyu"])
def test_the_tower_stays_frozen_and_everything_else_learns(short, tmp_path, fusion):
    known = find_format(fusion)
    model = known.untrained(0)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fusion_training.train_fusion(known, model, 0, tmp_path, device=torch.device("cpu"), quiet=True)
    tower = known.tower_of(model)
    frozen = set() if tower is None else {id(parameter) for parameter in tower.parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) in frozen:
            assert torch.equal(parameter, before[name]), name
        elif not name.endswith(("k_proj.bias", "key.bias")):  # softmax does not see the bias of keys
            assert not torch.equal(parameter, before[name]), name
    assert not any(block._forward_hooks for block in known.blocks(model))


@pytest.mark.parametrize("fusion", ["llava-next", "omnifusion"])
def test_the_same_seed_gives_the_same_files(short, tmp_path, fusion):
    paths = [
        train_model(fusion, tmp_path / name, work=tmp_path / f"work-{name}", quiet=True) for name in ("one", "two")
    ]
    one, two = ({f.relative_to(p): f.read_bytes() for f in p.rglob("*") if f.is_file()} for p in paths)
    assert one == two
    assert (tmp_path / "one/checksums.json").read_text() == (tmp_path / "two/checksums.json").read_text()
    other = train_model(fusion, tmp_path / "one", seed=1, work=tmp_path / "work-other", quiet=True)
    assert other.name == f"zoo-{fusion}-seed1"


def test_the_command_line(short, tmp_path, capsys):
    argv = ["--fusion", "llava", "--output", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--quiet"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "# zoo-llava" in out and "**81.2%**" in out and "model.safetensors" in out
    assert [path.name for path in (tmp_path / "work").glob("*.pt")] == ["tower-clip-seed0-cpu.pt"]
    assert main(argv) == 2, "it does not write over a checkpoint"
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--fusion", "lava"], "Did you mean llava"),
        (["--fusion", "llava", "--seed", "-1"], "seed -1 is not between 0 and"),
        (["--fusion", "llava", "--seed", "99999999999999999999"], "is not between 0 and"),
        (["--fusion", "llava", "--device", "abacus"], "device 'abacus' is not available"),
        (["--fusion", "zoo-llava", "--device", "meta"], "device meta cannot train"),
        (["--fusion", "llava", "--output", "FILE/x"], "cannot hold a model"),
        (["--fusion", "llava", "--work", "FILE/x"], "cannot hold checkpoints"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_trained(short, tmp_path, capsys, argv, message):
    (tmp_path / "file").write_text("")
    given = [arg.replace("FILE", str(tmp_path / "file")) for arg in argv]
    more = ["--output", str(tmp_path / "out")] if "--output" not in given else []
    assert main([*given, *more, "--quiet"]) == 2
    assert message in capsys.readouterr().err


def test_one_thread_whatever_the_caller_uses(short, tmp_path, monkeypatch):
    seen = []
    ordinary = fusion_training.train_fusion

    def noted(*args, **options):
        seen.append(torch.get_num_threads())
        return ordinary(*args, **options)

    monkeypatch.setattr("microscope_bench.zoo.train.train_fusion", noted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train_model("fuyu", tmp_path / "out", work=tmp_path / "work", quiet=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [steps.N_THREADS] == [1]


INFO = ModelInfo(
    name="x", repo="x", revision="sha256-0", adapter="hf", architecture="X", dtype="float32", quantization=None,
    attention=None, n_layers=6, hidden_size=128, n_parameters=1_000_000, trained=True, control=None, options={},
)  # fmt: skip


def test_a_card_says_when_a_bar_is_missed_and_where_it_was_trained():
    text = card("fuyu", 0, "cuda", INFO, Seeing(N_QUESTIONS, 0.55, 0.34, {"count": (0.5, 0.3)}))
    assert "**not reached**" in text and "no vision tower" in text and "a GPU (cuda)" in text
    assert "**not reached**" in card("llava", 0, "cpu", INFO, Seeing(N_QUESTIONS, 0.69, 0.34, {}))
    text = card("llava", 0, "cpu", INFO, SEEING)
    assert "exchanged pictures: reached" in text and "one CPU thread" in text
    blind = Seeing(N_QUESTIONS, 0.75, 0.6, {})
    assert "**not reached**" in card("llava", 0, "cpu", INFO, blind), "it guesses as well without"
