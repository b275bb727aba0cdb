"""The residual stream, watched in the vision tower and behind the projector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from microscope_bench import evaluate
from microscope_bench.adapters.base import IMAGE, STRUCTURE, TEXT, VIDEO, Batch
from microscope_bench.adapters.presets import load_model
from microscope_bench.adapters.taps import TappedAdapter
from microscope_bench.capture.hooks import run_pass
from microscope_bench.check import check
from microscope_bench.errors import AdapterError, CaptureError, ExampleError, UnknownNameError
from microscope_bench.example import Example
from microscope_bench.results.result_files import result_path
from tests.tiny.questions import PICTURE_QUESTIONS, TEXT_QUESTIONS
from tests.toy import WIDTH, ToyAdapter, ToyBlock, ToyTask

WIDE, TALL = PICTURE_QUESTIONS


def boundaries(adapter, example):
    batch = adapter.encode([example])
    kept: list[torch.Tensor] = []
    run_pass(adapter, batch, lambda _, hidden: kept.append(hidden.clone()), logits=False)
    return batch, kept


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_vl", "idefics3", "gemma3", "internvl", "blip_2"])
@pytest.mark.parametrize("tap", ["vision", "projector"])
def test_contract(family, tap, tiny_adapter):
    report = check(tiny_adapter(family).tapped(tap), PICTURE_QUESTIONS)
    assert report.passed, str(report)


def test_the_language_tap_is_the_model_itself(tiny_adapter):
    adapter = tiny_adapter("llava")
    assert adapter.tapped("language") is adapter


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "internvl"])
def test_what_leaves_the_projector_is_what_the_language_model_gets_at_the_image_positions(family, tiny_adapter):
    adapter = tiny_adapter(family)
    for example in PICTURE_QUESTIONS:
        batch, (entering, *_) = boundaries(adapter, example)
        tapped, (projected,) = boundaries(adapter.tapped("projector"), example)
        assert torch.equal(entering[0][torch.from_numpy(batch.labels[0] == IMAGE)], projected[0])
        assert (tapped.labels == IMAGE).all()


def test_the_tower_is_watched_as_transformers_sees_it(tiny_adapter):
    adapter = tiny_adapter("llava").tapped("vision")
    batch, seen = boundaries(adapter, WIDE)
    with torch.inference_mode():
        tower = adapter.model.model.vision_tower
        states = tower(pixel_values=batch.inputs["pixel_values"], output_hidden_states=True).hidden_states
    assert [tuple(hidden.shape) for hidden in seen] == [(1, 17, 32)] * 3
    assert all(torch.equal(a, b) for a, b in zip(seen, states, strict=True))
    refined = adapter.refine_labels(batch, seen[0])
    assert refined.tolist() == [[STRUCTURE] + [IMAGE] * 16]  # the class token is the same for every picture


def test_tiles_stand_one_after_the_other(tiny_adapter):
    adapter = tiny_adapter("llava_next").tapped("vision")
    batch, seen = boundaries(adapter, WIDE)
    tiles = batch.inputs["pixel_values"].shape[1]
    assert seen[0].shape == (1, tiles * 17, 32)
    refined = adapter.refine_labels(batch, seen[0])[0]
    # 60 x 40 becomes 64 x 43 in the middle of 64 x 64: of 8 rows of patches the first and the last are padding
    classes = {17 * tile for tile in range(tiles)}
    above = {17 * tile + 1 + patch for tile in (1, 2) for patch in range(4)}
    below = {17 * tile + 1 + 12 + patch for tile in (3, 4) for patch in range(4)}
    assert set(np.flatnonzero(refined == STRUCTURE).tolist()) == classes | above | below


def test_identity(tiny_adapter):
    whole = tiny_adapter("llava").info
    vision, projector = (tiny_adapter("llava").tapped(tap).info for tap in ("vision", "projector"))
    assert (vision.options, vision.n_layers, vision.hidden_size) == ({"tap": "vision"}, 2, 32)
    assert (projector.options, projector.n_layers) == ({"tap": "projector"}, 0)
    assert (vision.name, vision.revision, vision.n_parameters) == (whole.name, whole.revision, whole.n_parameters)
    assert not whole.options


def test_fresh_weights_are_watched_at_the_same_place(tiny_adapter):
    trained = tiny_adapter("llava").tapped("vision")
    fresh, again = trained.fresh_weights(0), trained.fresh_weights(0)
    assert not fresh.info.trained and trained.info.trained and fresh.info.options == {"tap": "vision"}
    one, other, before = (boundaries(adapter, WIDE)[1] for adapter in (fresh, again, trained))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, before, strict=True))


def test_a_result_of_a_tap(tmp_path):
    task = ToyTask(24)
    results = {
        tap: evaluate("zoo-llava-untrained", task, tap=tap, output_path=tmp_path, progress=False)
        for tap in ("language", "vision", "projector")
    }
    paths = {tap: result_path(tmp_path, result).name for tap, result in results.items()}
    assert paths == {
        "language": "toy_task.json",
        "vision": "toy_task~vision.json",
        "projector": "toy_task~projector.json",
    }
    assert all((tmp_path / "zoo-llava-untrained").rglob(name) for name in paths.values())
    assert "|tap=vision|" in results["vision"].signature and "tap=" not in results["language"].signature
    assert {score.modality for score in results["vision"].scores} == {"image"}
    layers = {tap: sorted({score.layer for score in result.scores}) for tap, result in results.items()}
    assert layers["vision"] == [0, 1, 2, 3] and layers["projector"] == [0]
    entering = results["language"].series("anisotropy", "top_share", None, "image")[0]
    leaving = results["projector"].series("anisotropy", "top_share", None, "image")[0]
    assert leaving.value == pytest.approx(entering.value, rel=1e-6)  # the same vectors


@pytest.mark.parametrize(
    ("family", "tap", "error", "message"),
    [
        ("llava", "visio", UnknownNameError, "unknown tap 'visio'. Did you mean vision"),
        ("llama", "vision", AdapterError, "takes no pictures, so there is no vision tap"),
        (
            "zoo-fuyu-untrained",
            "vision",
            AdapterError,
            "no place for this tap: .*Leave --tap out",
        ),
    ],
)
def test_where_there_is_nothing_to_tap(family, tap, error, message, tiny_adapter):
    adapter = load_model(family, device="cpu") if family.startswith("zoo") else tiny_adapter(family)
    with pytest.raises(error, match=message):
        adapter.tapped(tap)


def test_a_question_without_a_picture_is_refused(tiny_adapter):
    with pytest.raises(AdapterError, match="example short has no picture, so the vision tap has nothing to label"):
        tiny_adapter("llava").tapped("vision").encode(TEXT_QUESTIONS[:1])


def test_the_context_length_is_of_the_prompt_not_of_the_tower(tiny):
    args = {"pretrained": str(tiny("llava_next")), "max_length": "100"}
    adapter = load_model("hf", args, "cpu").tapped("vision")
    assert adapter.processing.context_length is None
    with pytest.raises(ExampleError, match=r"example wide: \d+ tokens exceed the model's context of 100"):
        adapter.encode([WIDE])
    roomy = load_model("hf", {**args, "max_length": "300"}, "cpu").tapped("vision")
    assert roomy.encode([WIDE]).labels.shape == (1, 85)


def test_one_example_at_a_time_and_one_tap_after_another(tiny_adapter):
    vision = tiny_adapter("llava").tapped("vision")
    with pytest.raises(AdapterError, match="takes one example at a time, not 2"):
        vision.encode(PICTURE_QUESTIONS)
    assert vision.tapped("vision") is vision
    assert vision.tapped("projector").info.options == {"tap": "projector"}
    assert vision.tapped("language") is tiny_adapter("llava")


def test_a_stream_whose_positions_are_merged_on_the_way_is_an_error(tiny_adapter):
    adapter = tiny_adapter("llava").tapped("vision")
    batch = adapter.encode([WIDE])
    handle = adapter.blocks()[0].register_forward_hook(lambda module, args, output: output[:, ::2])
    try:
        with pytest.raises(CaptureError, match=r"boundary 1 has \(1, 9\) positions and boundary 0 \(1, 17\)"):
            run_pass(adapter, batch, lambda layer, hidden: None, logits=False)
    finally:
        handle.remove()


class Watching(ToyAdapter):
    """What a tap needs of a model that takes videos: a tower that sees a class token, then each frame as one patch."""

    def __init__(self):
        super().__init__()
        self.modalities = frozenset({"text", "video"})
        self.model = nn.ModuleDict({"tower": nn.ModuleList([ToyBlock(), ToyBlock()])})

    def encode(self, examples):
        (example,) = examples
        frames = np.stack([np.asarray(frame.resize((4, 1)), dtype=np.float32).mean() for frame in example.videos[0]])
        seen = torch.zeros(1, 1 + len(frames), WIDTH)
        seen[0, :, 0] = torch.from_numpy(np.concatenate([[7.0], frames]))
        return Batch(
            inputs={"seen": seen},
            labels=np.full((1, 3), TEXT, dtype=np.int8),
            ids=(example.id,),
            prompts=(example.text,),
            tokens=(np.arange(3),),
            media={"frames": seen},
        )

    def forward(self, batch, *, logits):
        hidden = batch.inputs["seen"]
        for block in self.model["tower"]:
            hidden = block(hidden)
        return None


def test_positions_that_change_with_a_video_are_video():
    adapter = TappedAdapter(Watching(), "vision", ["tower"])
    film = tuple(Image.new("RGB", (8, 8), (shade, shade, shade)) for shade in (10, 90, 200))
    batch, seen = boundaries(adapter, Example("film", "<video>What?", videos=(film,)))
    assert adapter.modalities == {"text", "video"}
    assert [tuple(hidden.shape) for hidden in seen] == [(1, 4, WIDTH)] * 3
    assert adapter.refine_labels(batch, seen[0]).tolist() == [[STRUCTURE, VIDEO, VIDEO, VIDEO]]
