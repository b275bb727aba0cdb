from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from microscope_bench.adapters.base import LABELS
from microscope_bench.adapters.omnifusion.adapter import OmniFusionAdapter
from microscope_bench.adapters.omnifusion.checkpoint_files import load_projection, load_special_embeddings
from microscope_bench.adapters.omnifusion.module import IMAGE_MARK, SPECIAL_MARKS, VisualToGPTMapping
from microscope_bench.capture.hooks import run_pass
from microscope_bench.check import check
from microscope_bench.errors import AdapterError, ExampleError, UnknownNameError
from microscope_bench.example import Example
from microscope_bench.zoo.formats import base, omnifusion
from microscope_bench.zoo.formats.omnifusion import save_projection

DIALOG = "This is a dialog with AI assistant.\n"
PATCHES = 16


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("built") / "tiny-omnifusion"
    with pytest.MonkeyPatch.context() as patch:
        for room in (base, omnifusion):
            patch.setattr(room, "STORED_DTYPE", torch.float32)
        omnifusion.OmniFusion().write(omnifusion.OmniFusion().untrained(0), directory, trained=False)
    return directory


@pytest.fixture(scope="module")
def adapter(built) -> OmniFusionAdapter:
    return OmniFusionAdapter.load({"pretrained": str(built)}, device="cpu")


@pytest.fixture
def copy(built, tmp_path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "copy"))


def load(directory: Path, **args: str) -> OmniFusionAdapter:
    return OmniFusionAdapter.load({"pretrained": str(directory), **args}, device="cpu")


def picture(seed: int = 0, size: tuple[int, int] = (90, 60)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


WITH_PICTURE = Example("1", "<image>Which is it?\nA. this\nB. that\nAnswer:", (picture(),), ("A", "B"), 1)
TEXT_ONLY = Example("2", "Is it?", (), ("A", "B", "C"), 0)


def boundaries(adapter: OmniFusionAdapter, *examples: Example) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    run_pass(adapter, adapter.encode(examples), lambda layer, hidden: seen.append(hidden.clone()), logits=False)
    return seen


def published_embeddings(directory: Path, question: str, image: Image.Image) -> torch.Tensor:
    """The sequence of the published inference code, put together piece by piece from the parts on disk."""
    tokenizer = AutoTokenizer.from_pretrained(directory / "tokenizer")
    embed = AutoModelForCausalLM.from_pretrained(directory / "tuned-model").get_input_embeddings()
    tower = CLIPVisionModel.from_pretrained(directory / "clip").eval()
    pixels = AutoImageProcessor.from_pretrained(directory / "clip")(images=image, return_tensors="pt")["pixel_values"]
    marks = torch.load(directory / "special_embeddings.pt", weights_only=True)
    projection = load_projection(directory / "projection.pt").eval()

    def text(words: str) -> torch.Tensor:
        return embed(tokenizer(words, add_special_tokens=False, return_tensors="pt")["input_ids"])[0]

    with torch.inference_mode():
        patches = projection(tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:])[0]
        soi, eoi, user, bot = (marks[name].float()[None] for name in ("SOI", "EOI", "USER", "BOT"))
        return torch.cat([text(DIALOG), soi, patches, eoi, user, text(question), bot])[None]


class Harmful:
    """Runs a command when it is unpickled without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class TestSequence:
    def test_block_1_receives_the_published_sequence(self, built, adapter):
        question = WITH_PICTURE.text.removeprefix("<image>")
        expected = published_embeddings(built, question, WITH_PICTURE.images[0])
        torch.testing.assert_close(boundaries(adapter, WITH_PICTURE)[0], expected)

    def test_boundaries_are_the_language_models_own_hidden_states(self, built, adapter):
        language_model = AutoModelForCausalLM.from_pretrained(built / "tuned-model").eval()
        mine = boundaries(adapter, WITH_PICTURE)
        with torch.inference_mode():
            states = language_model(inputs_embeds=mine[0], output_hidden_states=True).hidden_states
            mine[-1] = language_model.model.norm(mine[-1])
        assert len(mine) == len(states) == adapter.info.n_layers + 1
        for ours, theirs in zip(mine, states, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    def test_labels_tokens_and_prompt(self, adapter):
        batch = adapter.encode([WITH_PICTURE, TEXT_ONLY])
        texts = (DIALOG, "Which is it?\nA. this\nB. that\nAnswer:", "Is it?")
        dialog, question, short = (
            len(adapter.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts
        )
        runs = [("template", dialog), ("structure", 1), ("image", PATCHES), ("structure", 1), ("special", 1)]
        runs += [("text", question), ("special", 1)]
        assert [LABELS[code] for code in batch.labels[0]] == [name for name, n in runs for _ in range(n)]
        assert list(batch.lengths()) == [dialog + PATCHES + question + 4, dialog + short + 2]
        assert (batch.labels[1][batch.lengths()[1] :] == LABELS.index("padding")).all()
        marks = [SPECIAL_MARKS["SOI"], *[IMAGE_MARK] * PATCHES, SPECIAL_MARKS["EOI"], SPECIAL_MARKS["USER"]]
        assert batch.tokens[0][dialog : dialog + PATCHES + 3].tolist() == marks
        assert batch.tokens[0][-1] == batch.tokens[1][-1] == SPECIAL_MARKS["BOT"]
        assert adapter.tokenizer.decode(batch.tokens[1][dialog + 1 : -1]) == "Is it?"
        assert batch.prompts[0].startswith(f"{DIALOG}<SOI><image><EOI><USER>Which is it?")
        assert batch.prompts[1] == f"{DIALOG}<USER>Is it?<BOT>"
        assert batch.media["pixel_values"].shape[0] == 1

    def test_the_picture_stands_first_wherever_its_placeholder_is(self, adapter):
        question = WITH_PICTURE.text.removeprefix("<image>")
        for text in (f"<image>\n{question}", f"{question}<image>"):
            batch = adapter.encode([Example("x", text, WITH_PICTURE.images)])
            assert batch.prompts == adapter.encode([WITH_PICTURE]).prompts

    def test_a_batch_equals_its_examples_one_by_one(self, adapter):
        other = Example("3", "<image>A much longer question, so that the rows differ?", (picture(1, (200, 50)),))
        examples = [TEXT_ONLY, WITH_PICTURE, other]
        batch = adapter.encode(examples)
        together = boundaries(adapter, *examples)
        logits = adapter.forward(batch, logits=True)
        for row, example in enumerate(examples):
            length = int(batch.lengths()[row])
            for both, alone in zip(together, boundaries(adapter, example), strict=True):
                torch.testing.assert_close(both[row, :length], alone[0], rtol=1e-4, atol=1e-4)
            alone = adapter.forward(adapter.encode([example]), logits=True)
            torch.testing.assert_close(logits[row], alone[0], rtol=1e-4, atol=1e-4)

    def test_letters_score_as_when_each_is_appended(self, built, adapter):
        batch = adapter.encode([WITH_PICTURE])
        ids = adapter.choice_token_ids(batch.prompts[0], "AB")
        quick = torch.log_softmax(adapter.forward(batch, logits=True)[0], dim=-1)[ids]
        language_model = adapter.model.language_model
        with torch.inference_mode():
            prompt = adapter.model.embed(batch.inputs["input_ids"], batch.inputs["pixel_values"])
            for letter, value in zip("AB", quick, strict=True):
                token = adapter.tokenizer(letter, add_special_tokens=False, return_tensors="pt")["input_ids"]
                whole = torch.cat([prompt, language_model.get_input_embeddings()(token)], dim=1)
                logprobs = torch.log_softmax(language_model(inputs_embeds=whole).logits[0, -2], dim=-1)
                torch.testing.assert_close(logprobs[token.item()], value)

    def test_a_choice_of_several_tokens_is_refused(self, adapter):
        with pytest.raises(AdapterError, match="3 tokens"):
            adapter.choice_token_ids("", ["yes"])

    def test_several_pictures_are_refused(self, adapter):
        with pytest.raises(AdapterError, match="2 pictures"):
            adapter.encode([Example("x", "<image><image>?", (picture(), picture()))])

    def test_a_missing_placeholder_is_the_examples_fault(self, adapter):
        with pytest.raises(ExampleError):
            adapter.encode([Example("x", "Where is it?", (picture(),))])

    def test_the_contract_holds(self, adapter):
        report = check(adapter)
        assert report.passed, str(report)
        assert not [c for c in report.checks if c.status == "skipped"], str(report)


class TestLoading:
    def test_identity(self, built, adapter):
        info = adapter.info
        assert (info.name, info.repo, info.adapter) == ("tiny-omnifusion", "tiny-omnifusion", "omnifusion")
        assert info.revision.startswith("sha256-") and len(info.revision) == len("sha256-") + 16
        assert not info.trained
        assert info.n_parameters == sum(p.numel() for p in adapter.model.parameters())
        assert (info.n_layers, info.hidden_size, info.dtype) == (6, 128, "float32")
        assert "clip@sha256-" in info.architecture

    def test_only_the_mark_makes_a_model_untrained(self, copy):
        path = copy / "tuned-model" / "config.json"
        config = json.loads(path.read_text())
        del config["microscope_bench_untrained"]
        path.write_text(json.dumps(config))
        assert load(copy).info.trained

    def test_a_changed_part_changes_the_revision(self, copy, adapter):
        marks = torch.load(copy / "special_embeddings.pt", weights_only=True)
        marks["BOT"] = marks["BOT"] * 2
        torch.save(marks, copy / "special_embeddings.pt")
        assert load(copy).info.revision != adapter.info.revision

    def test_published_subfolder_is_found(self, built, tmp_path, adapter):
        shutil.copytree(built, tmp_path / "mine" / "OmniMistral-v1_1")
        loaded = load(tmp_path / "mine")
        assert (loaded.info.repo, loaded.info.revision) == ("mine", adapter.info.revision)
        with pytest.raises(AdapterError, match="other"):
            load(tmp_path / "mine", subfolder="other")

    def test_a_checkpoint_in_the_hub_cache_is_pinned_to_its_commit(self, built, tmp_path, monkeypatch, adapter):
        commit, tower_commit = "a" * 40, "b" * 40
        clip_ignored = shutil.ignore_patterns("clip")
        for repo, sha, source, folder in (
            ("AIRI-Institute--OmniFusion", commit, built, "OmniMistral-v1_1"),
            ("openai--clip-vit-large-patch14-336", tower_commit, built / "clip", ""),
        ):
            root = tmp_path / f"models--{repo}"
            shutil.copytree(source, root / "snapshots" / sha / folder, ignore=clip_ignored)
            (root / "refs").mkdir()
            (root / "refs" / "main").write_text(sha)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        loaded = OmniFusionAdapter.load({"pretrained": "AIRI-Institute/OmniFusion"}, device="cpu")
        assert (loaded.info.name, loaded.info.revision) == ("AIRI-Institute/OmniFusion", commit)
        assert f"openai/clip-vit-large-patch14-336@{tower_commit}" in loaded.info.architecture
        for ours, theirs in zip(boundaries(loaded, WITH_PICTURE), boundaries(adapter, WITH_PICTURE), strict=True):
            assert torch.equal(ours, theirs)

    @pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
    def test_the_tower_that_is_named_wins_and_may_be_a_whole_clip(self, built, tmp_path, weights):
        vision = CLIPVisionConfig.from_pretrained(built / "clip").to_dict()
        text = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 9}
        whole = CLIPModel(CLIPConfig(vision_config=vision, text_config=text | {"bos_token_id": 0, "eos_token_id": 1}))
        tower = tmp_path / "tower"
        whole.save_pretrained(tower)
        shutil.copy(built / "clip" / "preprocessor_config.json", tower)
        if weights == "pytorch_model.bin":
            (tower / "model.safetensors").unlink()
            torch.save(whole.state_dict(), tower / weights)
        loaded = load(built, vision_tower=str(tower))
        assert "tower@sha256-" in loaded.info.architecture
        expected = whole.vision_model.state_dict()
        assert all(torch.equal(t, expected[name]) for name, t in loaded.model.vision_tower.state_dict().items())

    def test_dtype_reaches_every_part(self, built):
        loaded = load(built, dtype="bfloat16")
        assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
        assert loaded.info.dtype == "bfloat16"
        assert boundaries(loaded, WITH_PICTURE)[0].dtype == torch.bfloat16

    def test_missing_parts_are_all_named(self, copy):
        (copy / "projection.pt").unlink()
        shutil.rmtree(copy / "tokenizer")
        with pytest.raises(AdapterError, match=r"lacks tokenizer/, projection\.pt"):
            load(copy)

    def test_weights_that_would_be_random_are_named(self, copy):
        path = copy / "tuned-model" / "model.safetensors"
        weights = load_file(path)
        del weights["model.layers.3.mlp.up_proj.weight"]
        save_file(weights, path, {"format": "pt"})
        with pytest.raises(AdapterError, match=r"model\.layers\.3\.mlp\.up_proj\.weight"):
            load(copy)

    def test_a_second_set_in_any_folder_is_told_and_not_hashed(self, copy, adapter, caplog):
        special = load_special_embeddings(copy / "special_embeddings.pt")
        save_file({name: mark + 1 for name, mark in special.items()}, copy / "special_embeddings.safetensors")
        shutil.copy(copy / "tuned-model" / "model.safetensors", copy / "model.safetensors")
        (copy / "tuned-model" / "pytorch_model.bin").write_bytes(b"weights")
        loaded = load(copy)
        assert torch.equal(loaded.model.special_embeddings["SOI"].detach(), special["SOI"].float() + 1)
        unread = "not from model.safetensors, special_embeddings.pt; an older save may have left either: delete"
        assert unread in caplog.text
        assert "tuned-model: weights are read from model.safetensors, not from pytorch_model.bin;" in caplog.text
        (copy / "special_embeddings.pt").unlink()
        assert load(copy).info.revision == loaded.info.revision != adapter.info.revision

    @pytest.mark.parametrize("part", ["tuned-model/model.safetensors", "clip/model.safetensors", "projection"])
    def test_weights_of_integers_without_scales_are_refused(self, copy, part):
        path = copy / part
        if part == "projection":
            path = copy / "projection.safetensors"
            save_file(load_projection(copy / "projection.pt").state_dict(), path)
        weights = load_file(path)
        name = max(name for name in weights if name.endswith(".weight"))
        save_file({**weights, name: weights[name].to(torch.int8)}, path, {"format": "pt"})
        with pytest.raises(AdapterError, match=rf"holds quantised weights \({name} of .*without scales"):
            load(copy)

    def test_a_tower_of_another_width_is_refused(self, copy):
        save_projection(VisualToGPTMapping(64, 128), copy / "projection.pt")
        with pytest.raises(AdapterError, match="width 64"):
            load(copy)

    @pytest.mark.parametrize("part", ["tuned-model/model.safetensors", "projection.pt", "special_embeddings.pt"])
    def test_a_truncated_file_is_named(self, copy, part):
        path = copy / part
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(AdapterError, match=part.split("/")[0]):
            load(copy)

    def test_unknown_arg_and_no_model(self, built):
        with pytest.raises(UnknownNameError, match="vision_tower"):
            load(built, vision_towr="x")
        with pytest.raises(AdapterError, match="pretrained="):
            OmniFusionAdapter.load({})


class TestTensorFiles:
    @pytest.mark.parametrize("module_name", ["models", "__main__"])
    def test_a_pickled_projection_loads_with_equal_weights(self, tmp_path, module_name):
        original = VisualToGPTMapping(24, 40, feed_forward=56, heads=2).eval()
        path = tmp_path / "projection.pt"
        save_projection(original, path, module_name)
        assert f"{module_name}.VisualToGPTMapping" in torch.serialization.get_unsafe_globals_in_checkpoint(path)
        loaded = load_projection(path).eval()
        assert type(loaded) is VisualToGPTMapping
        assert all(torch.equal(tensor, original.state_dict()[name]) for name, tensor in loaded.state_dict().items())
        patches = torch.randn(2, 5, 24)
        torch.testing.assert_close(loaded(patches), original(patches))

    def test_safetensors_stand_in_for_pickles(self, copy, adapter):
        save_file(load_projection(copy / "projection.pt").state_dict(), copy / "projection.safetensors")
        save_file(load_special_embeddings(copy / "special_embeddings.pt"), copy / "special_embeddings.safetensors")
        (copy / "projection.pt").unlink()
        (copy / "special_embeddings.pt").unlink()
        assert torch.equal(boundaries(load(copy), WITH_PICTURE)[-1], boundaries(adapter, WITH_PICTURE)[-1])

    @pytest.mark.parametrize("protocol", [2, 4])
    @pytest.mark.parametrize("load_part", [load_projection, load_special_embeddings])
    def test_a_pickle_that_would_run_code_is_refused_and_not_run(self, tmp_path, load_part, protocol):
        ran, path = tmp_path / "ran", tmp_path / "file.pt"
        torch.save([Harmful(f"touch {ran}"), nn.Linear(2, 2)], path, pickle_protocol=protocol)
        with pytest.raises(AdapterError, match=r"posix\.system" if protocol == 2 else "nothing of it was run"):
            load_part(path)
        assert not ran.exists()
        torch.load(path, weights_only=False)
        assert ran.exists()  # the file is as harmful as it is meant to be

    def test_a_bare_pickle_is_refused_and_not_run(self, tmp_path):
        ran, path = tmp_path / "ran", tmp_path / "projection.pt"
        path.write_bytes(pickle.dumps(Harmful(f"touch {ran}")))
        with pytest.raises(AdapterError, match="nothing of it was run"):
            load_projection(path)
        assert not ran.exists()

    def test_a_foreign_module_is_refused_by_name(self, tmp_path):
        torch.save({"SOI": nn.Linear(2, 2), "EOI": nn.GELU()}, tmp_path / "projection.pt")
        with pytest.raises(AdapterError, match=r"torch\.nn\.modules\.activation\.GELU"):
            load_projection(tmp_path / "projection.pt")

    def test_a_projection_of_another_kind_is_refused(self, tmp_path):
        path = tmp_path / "projection.pt"
        other = VisualToGPTMapping(8, 8, 8, 2)
        other.transformer_layer.norm_first = True
        save_projection(other, path)
        with pytest.raises(AdapterError, match="post-norm"):
            load_projection(path)
        torch.save(nn.Linear(2, 2), path)
        with pytest.raises(AdapterError, match="Linear"):
            load_projection(path)

    def test_marks_that_are_missing_or_of_another_shape_are_named(self, tmp_path):
        path = tmp_path / "special_embeddings.pt"
        torch.save({"SOI": torch.zeros(4), "EOI": torch.zeros(4), "USER": torch.zeros(1, 4)}, path)
        with pytest.raises(AdapterError, match="USER, BOT"):
            load_special_embeddings(path)
