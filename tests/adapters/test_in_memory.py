"""A model in memory is measured as the same one from disk is, and stays as it was; what cannot be measured says why."""

from __future__ import annotations

import random
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from msgspec import to_builtins
from safetensors.torch import load_file
from tokenizers.normalizers import Lowercase
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor, AutoTokenizer

from microscope_bench import evaluate
from microscope_bench.adapters.in_memory import in_memory
from microscope_bench.adapters.measured_model import measured_model
from microscope_bench.adapters.settings_digest import settings_digest
from microscope_bench.check import check
from microscope_bench.errors import AdapterError, MicroscopeError
from tests.tiny.remembering import Remembering
from tests.toy import TextTask, ToyAdapter, ToyTask


@pytest.fixture
def loaded(tiny):
    """``loaded("llava")``: that checkpoint as a notebook has it, model and processor."""

    def load(family):
        path = tiny(family)
        if family == "llama":
            return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
        return AutoModelForMultimodalLM.from_pretrained(path), AutoProcessor.from_pretrained(path)

    return load


def measure(model, *args, task=None, **options):
    return evaluate(model, task or ToyTask(12), *args, progress=False, metrics="anisotropy", **options)


def values(result):
    return [(score.modality, score.layer, score.value) for score in result.scores]


def states(path):
    """The bytes of every stored tensor."""
    files = sorted((path / "parts").glob("*.safetensors"))
    return [{name: (t.dtype, t.numpy().tobytes()) for name, t in load_file(file).items()} for file in files]


@pytest.mark.parametrize("family", ["llava", "llava_next", "blip_2", "gemma3", "llama"])
def test_states_and_scores_are_those_of_a_run_from_disk(family, tiny, loaded, tmp_path):
    task = TextTask(12) if family == "llama" else ToyTask(12)
    kept = {"task": task, "keep_store": True}
    disk = measure("hf", model_args={"pretrained": tiny(family)}, device="cpu", store=tmp_path / "disk", **kept)
    model, processor = loaded(family)
    here = measure(model, processor=processor, store=tmp_path / "here", name="Mine, draft", **kept)
    assert states(tmp_path / "disk") == states(tmp_path / "here") != []
    assert here.scores == disk.scores and here.inputs == disk.inputs
    of_disk, of_here = (to_builtins(result.identity) for result in (disk, here))
    model_of_disk, model_of_here = of_disk.pop("model"), of_here.pop("model")
    assert of_disk == of_here
    named = ("name", "repo", "revision")
    assert {key for key in model_of_disk if model_of_disk[key] != model_of_here[key]} == set(named)
    assert model_of_here["name"] == "Mine, draft"
    assert model_of_here["repo"] == f"in-memory/{type(model).__name__}"


def picture_of(model, processor):
    """All of a model and of its surroundings that measuring must not change."""
    modules = list(model.modules())
    tokenizer = getattr(processor, "tokenizer", processor)
    return {
        "modes": [module.training for module in modules],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in modules],
        "attributes": [sorted(vars(module)) for module in modules],
        "forwards": [vars(module).get("forward") for module in modules],
        "weights": {key: tensor.clone() for key, tensor in model.state_dict().items()},
        "gradients": [(p.requires_grad, p.grad is None, p.dtype, id(p)) for p in model.parameters()],
        "config": model.config.to_dict(),
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
        "modes of torch": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        ),
        "tokenizer": (tokenizer.pad_token, tokenizer.padding_side, dict(tokenizer.init_kwargs)),
    }


def assert_same(a, b):
    for key in a:
        if key == "weights":
            assert a[key].keys() == b[key].keys() and all(torch.equal(a[key][k], b[key][k]) for k in a[key])
        else:
            assert a[key] == b[key], key


@pytest.mark.parametrize("how", [measure, lambda model, processor: check(model, processor=processor)])
def test_the_model_and_its_surroundings_stay_as_they_were(how, loaded):
    model, processor = loaded("llava")
    processor.tokenizer.pad_token = None
    model.train()
    model.model.vision_tower.eval()
    model.model.vision_tower.requires_grad_(False)
    model.enable_input_require_grads()
    before = picture_of(model, processor)
    how(model, processor=processor)
    assert_same(before, picture_of(model, processor))


class Drawing(nn.Module):
    """A block that draws from every random generator, whatever its mode."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, *args, **kwargs):
        torch.rand(1), random.random(), np.random.rand()
        return self.block(*args, **kwargs)


def test_random_states_come_back_even_where_the_model_draws(loaded):
    model, processor = loaded("llava")
    model.model.language_model.layers[0] = Drawing(model.model.language_model.layers[0])
    before = picture_of(model, processor)["random"]
    measure(model, processor=processor)
    assert picture_of(model, processor)["random"] == before


def accelerated(model):
    """As the Trainer has it with ``bf16=True``."""
    from accelerate import Accelerator

    return Accelerator(cpu=True, mixed_precision="bf16").prepare_model(model)


def test_dropout_autocast_and_inference_mode_change_nothing(loaded):
    model, processor = loaded("llava")
    expected = values(measure(model, processor=processor))
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    assert values(measure(model.train(), processor=processor)) == expected
    with torch.autocast("cpu", torch.bfloat16):
        assert values(measure(model, processor=processor)) == expected
    with torch.inference_mode():
        assert values(measure(model, processor=processor)) == expected
        assert check(model, processor=processor).passed
        made_there = deepcopy(model)
        assert values(measure(made_there, processor=processor)) == expected
    prepared = accelerated(model)
    before = picture_of(model, processor)
    assert "_original_forward" in vars(model)
    assert values(measure(prepared, processor=processor)) == expected
    assert_same(before, picture_of(model, processor))


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_data_parallel_and_compiled_models_are_unwrapped(loaded, one_process):
    model, processor = loaded("llava")
    expected = measure(model, processor=processor)
    for wrapped in (nn.parallel.DistributedDataParallel(model), torch.compile(model)):
        found = measure(wrapped, processor=processor)
        assert values(found) == values(expected) and found.identity == expected.identity


def trained(model, processor, measured):
    """The weights after three steps, measured before the first pass and between each gradient and its step, or not."""
    model.model.language_model.layers[0] = Remembering(model.model.language_model.layers[0])
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    model.train()
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    if measured:
        with torch.inference_mode():
            measure(model, processor=processor)
    for _ in range(3):
        ids = torch.randint(5, 200, (2, 9))
        model(input_ids=ids, labels=ids).loss.backward()
        if measured:
            measure(model, processor=processor)
        optimizer.step()
        optimizer.zero_grad()
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return weights


def test_training_goes_on_bit_for_bit(loaded):
    assert torch.equal(trained(*loaded("llava"), True), trained(*loaded("llava"), False))


def test_the_identity_tells_weights_settings_and_code(loaded):
    model, processor = loaded("llava")

    def revision():
        return measured_model(in_memory(model, processor)).revision

    first = revision()
    assert first == revision()
    model.config.text_config.use_cache, model.config._name_or_path = False, "elsewhere"
    assert revision() == first
    model.get_input_embeddings().weight.data[7, 3] += 1
    assert revision().partition("+")[0] == first.partition("+")[0] and revision() != first
    model.config.text_config.rms_norm_eps = 1e-3
    assert revision().partition("+")[0] != first.partition("+")[0]

    class Own(type(model)):
        pass

    model.lm_head.__class__ = type("OwnHead", (nn.Linear,), {"__module__": __name__})
    of_head = in_memory(model, processor).info.adapter
    assert of_head.startswith("hf@")
    model.__class__ = Own
    info = in_memory(model, processor).info
    assert info.adapter.startswith("hf@") and info.repo == "in-memory/Own"


CHANGED = {
    "pixels": lambda p: setattr(p.image_processor, "image_mean", [0.5, 0.5, 0.5]),
    "words": lambda p: setattr(p.tokenizer.backend_tokenizer, "normalizer", Lowercase()),
    "template": lambda p: setattr(p, "chat_template", f"{p.chat_template} "),
    "processor": lambda p: setattr(p, "image_token", "|IMAGE|"),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_the_identity_tells_processors_apart(change, loaded):
    model, processor = loaded("llava")
    first = settings_digest([model], [processor])
    processor(text="a longer text and a short one", padding="max_length", max_length=4, truncation=True)
    processor.tokenizer.name_or_path, processor.tokenizer.pad_token = "elsewhere", processor.tokenizer.eos_token
    assert settings_digest([model], [processor]) == first
    assert in_memory(model, processor).info.revision == f"config-{first}"
    change(processor)
    assert settings_digest([model], [processor]) != first


def test_model_args_of_a_loaded_model(loaded):
    model, processor = loaded("llava")
    plain = measure(model, processor=processor, apply_chat_template=False)
    assert plain.identity.model.options == {"use_chat_template": "false"} and plain.identity.model.template is None
    with pytest.raises(MicroscopeError, match="tokens exceed the model's context of 8"):
        measure(model, processor=processor, model_args="max_length=8")
    with pytest.raises(MicroscopeError, match="unknown model arg 'dtype'"):
        measure(model, processor=processor, model_args="dtype=bfloat16")
    for other in ("zoo-llava", ToyAdapter()):
        with pytest.raises(MicroscopeError, match="processor is for a model of transformers"):
            measure(other, processor=processor)


def on_meta(model):
    model.model.language_model.layers[1].to("meta")


def in_pieces(model):
    model.lm_head.weight.device_mesh = "as DTensor has one"


REFUSED = {
    "no processor": (lambda m, p: (m, None), "needs its processor, and none is given"),
    "an image processor": (lambda m, p: (m, p.image_processor), r"CLIPImageProcessor\w* is none"),
    "a tokenizer": (lambda m, p: (m, p.tokenizer), "takes pictures, which .* alone cannot prepare; give its processor"),
    "weights on meta": (lambda m, p: on_meta(m) or (m, p), r"9 of its weights are on the device meta .*layers\.1"),
    "sharded": (lambda m, p: in_pieces(m) or (m, p), "each process holds a part of its weights"),
    "no transformers model": (lambda m, p: (nn.Linear(2, 2), p), "Linear is no model of transformers"),
    "a part of it": (lambda m, p: (m.model.multi_modal_projector, p), "is no model of transformers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_measured_says_why(case, loaded):
    make, message = REFUSED[case]
    model, processor = make(*loaded("llava"))
    with pytest.raises(AdapterError, match=message):
        measure(model, processor=processor)


def test_an_architecture_that_is_unsupported_from_disk_is_so_in_memory(loaded, monkeypatch):
    model, processor = loaded("llava")
    unsupported = SimpleNamespace(unsupported="it speaks")
    monkeypatch.setattr("microscope_bench.adapters.in_memory.overrides_of", lambda config: unsupported)
    with pytest.raises(AdapterError, match="cannot be measured: it speaks"):
        measure(model, processor=processor)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("llava_next", "LlavaNextProcessor does not fit .* a question with a picture does not go through"),
        ("gemma3", "Gemma3Processor is not the processor of .*: it has token ids up to 288, and the model has 287"),
        ("blip_2", "Blip2Processor does not fit .*Image features and image tokens do not match"),
    ],
)
def test_a_processor_of_another_model_is_refused(other, message, loaded):
    (model, _), (_, processor) = loaded("llava"), loaded(other)
    with pytest.raises(AdapterError, match=message):
        measure(model, processor=processor)


def lora(model, **options):
    peft = pytest.importorskip("peft", reason="needs peft: pip install 'microscope-bench[peft]'")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, lora_dropout=0.5, **options)
    return peft.get_peft_model(model, config)


def test_adapters_of_peft_are_measured_and_named_as_they_act(loaded):
    model, processor = loaded("llava")
    base = measure(model, processor=processor)
    wrapped = lora(model).train()
    found = measure(wrapped, processor=processor)
    assert found.identity.model.peft == "LORA-r2" and values(found) != values(base)
    seen = {found.identity.model.revision}
    with wrapped.disable_adapter():
        off = measure(wrapped, processor=processor)
    assert off.identity.model.peft is None and values(off) == values(base)
    seen.add(off.identity.model.revision)
    with torch.no_grad():
        next(p for name, p in wrapped.named_parameters() if "lora_A" in name)[0, 0] += 1
    changed = measure(wrapped, processor=processor)
    assert changed.identity.model.peft == "LORA-r2"
    seen.add(changed.identity.model.revision)
    assert len(seen) == 3
    merged = measure(wrapped.merge_and_unload(), processor=processor)
    assert merged.identity.model.peft is None


def test_a_scale_that_is_set_after_loading_is_told(loaded):
    model, processor = loaded("llava")
    wrapped = lora(model)
    before = in_memory(wrapped, processor).info.revision
    for layer in wrapped.modules():
        if hasattr(layer, "set_scale"):
            layer.set_scale("default", 0.25)
    assert in_memory(wrapped, processor).info.revision != before


def test_the_scale_of_an_adapter_is_told(loaded):
    revisions = set()
    for alpha in (4, 8):
        model, processor = loaded("llava")
        torch.manual_seed(0)
        revisions.add(measured_model(in_memory(lora(model, lora_alpha=alpha), processor)).revision)
    assert len(revisions) == 2


def test_a_quantised_model_is_named_so(loaded):
    quantization = pytest.importorskip("torchao.quantization", reason="needs torchao")
    model, processor = loaded("llava")
    quantization.quantize_(model.model.language_model, quantization.Int8WeightOnlyConfig())
    assert "quantised" in str(measure(model, processor=processor).identity.model.quantization)


def test_lm_eval_takes_it_and_leaves_it(tmp_path, loaded):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from microscope_bench import load_result
    from microscope_bench.lm_eval_plugin.backend import Microscope
    from microscope_bench.tasks import builtin_task_dir

    model, processor = loaded("llava")
    model.train()
    before = picture_of(model, processor)
    before.pop("random")  # lm-eval sets its seeds
    tracker = SimpleNamespace(
        output_path=str(tmp_path), general_config_tracker=SimpleNamespace(log_experiment_args=lambda **_: None)
    )
    found = simple_evaluate(
        model=Microscope(pretrained=model, processor=processor, metrics="anisotropy", name="Mine"),
        tasks=["shapesqa"],
        limit=6,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(builtin_task_dir()), include_defaults=False),
        evaluation_tracker=tracker,
    )
    told = found["config"]["microscope"]["shapesqa"]
    assert told["status"] == "complete", told
    result = load_result(tmp_path / told["path"])
    assert result.identity.model.name == "Mine"
    assert result.identity.model.repo == "in-memory/LlavaForConditionalGeneration"
    after = picture_of(model, processor)
    after.pop("random")
    assert_same(before, after)
