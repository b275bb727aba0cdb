"""Tiny checkpoints of real architectures: real configuration, model and processor classes, seeded random weights.

Each builder returns a model and its processor (or tokenizer); :func:`build` writes both with ``save_pretrained``. The
pictures the tests draw are 40 × 60 and 80 × 40 pixels, the vision towers see patches of 4 to 8 pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from tests.tiny.tokenizer import byte_tokenizer

HIDDEN, LAYERS, CONTEXT = 32, 4, 4096

_PART = "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}"
_TURN = f"{{{{ m.role }}}}: {{% for part in m.content %}}{_PART}{{% endfor %}}"
_ASK = "{% if add_generation_prompt %}assistant:{% endif %}"


def _chat_template(image: str, before: str = "", after: str = "\n", ask: str = _ASK) -> str:
    """A chat template that writes ``image`` where a picture belongs."""
    return f"{before}{{% for m in messages %}}{_TURN.replace('IMAGE', image)}{{{{ {after!r} }}}}{{% endfor %}}{ask}"


def _text(config: type[Any], tokenizer: Any, **extra: Any) -> Any:
    """The text configuration of a family: four blocks, 32 wide."""
    return config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **extra,
    )


def _tower(**extra: Any) -> dict[str, Any]:
    return {"hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, **extra}


def _without_video(processor: type[Any]) -> type[Any]:
    """The processor class with its video half left out; that half needs torchvision."""
    names = [name for name in processor.get_attributes() if name != "video_processor"]
    return type(processor.__name__, (processor,), {"get_attributes": classmethod(lambda cls: names)})


def llava() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(image_token="<image>")
    config = hf.LlavaConfig(
        text_config=_text(hf.LlamaConfig, tokenizer),
        vision_config=hf.CLIPVisionConfig(**_tower(image_size=32, patch_size=8, projection_dim=HIDDEN)),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=16,
    )
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return hf.LlavaForConditionalGeneration(config), hf.LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_chat_template("<image>\n"),
    )


def llava_next() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(image_token="<image>")
    pinpoints = [[32, 64], [64, 32], [64, 64]]
    config = hf.LlavaNextConfig(
        text_config=_text(hf.MistralConfig, tokenizer),
        vision_config=hf.CLIPVisionConfig(**_tower(image_size=32, patch_size=8, projection_dim=HIDDEN)),
        image_token_index=tokenizer.image_token_id,
        image_grid_pinpoints=pinpoints,
        image_seq_length=16,
    )
    images = hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=pinpoints
    )
    return hf.LlavaNextForConditionalGeneration(config), hf.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_chat_template("<image>\n", before="{{ bos_token }}"),
    )


def _qwen(version: str, vision: dict[str, Any], **text: Any) -> tuple[Any, Any]:
    """Any of the Qwen-VL generations; they share tokens, chat format and processor layout."""
    tokenizer = byte_tokenizer(
        "<|im_start|>",
        "<|im_end|>",
        bos=False,
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    if version == "Qwen3VL":
        rope["mrope_interleaved"] = True
    config = getattr(hf, f"{version}Config")(
        text_config=_text(getattr(hf, f"{version}TextConfig"), tokenizer, rope_parameters=rope, **text).to_dict(),
        vision_config=vision,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        vision_start_token_id=tokenizer.vision_start_token_id,
        vision_end_token_id=tokenizer.vision_end_token_id,
    )
    images = hf.Qwen2VLImageProcessorPil(
        patch_size=vision["patch_size"], merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
    )
    template = _chat_template(
        "<|vision_start|><|image_pad|><|vision_end|>",
        after="<|im_end|>\n",
        ask="{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ).replace("{{ m.role }}: ", "<|im_start|>{{ m.role }}\n")
    processor = _without_video(getattr(hf, f"{version}Processor"))(images, tokenizer, chat_template=template)
    return getattr(hf, f"{version}ForConditionalGeneration")(config), processor


def qwen2_vl() -> tuple[Any, Any]:
    return _qwen("Qwen2VL", {"depth": 2, "embed_dim": 32, "hidden_size": HIDDEN, "num_heads": 4, "patch_size": 8})


def qwen2_5_vl() -> tuple[Any, Any]:
    vision = _tower(out_hidden_size=HIDDEN, patch_size=8, window_size=32, fullatt_block_indexes=[1])
    return _qwen("Qwen2_5_VL", _qwen_tower(vision))


def qwen3_vl() -> tuple[Any, Any]:
    vision = _tower(out_hidden_size=HIDDEN, patch_size=8, num_position_embeddings=64, deepstack_visual_indexes=[0, 1])
    return _qwen("Qwen3VL", _qwen_tower(vision), head_dim=8)


def _qwen_tower(tower: dict[str, Any]) -> dict[str, Any]:
    """Qwen names two of the tower's sizes differently."""
    tower["depth"] = tower.pop("num_hidden_layers")
    tower["num_heads"] = tower.pop("num_attention_heads")
    return tower


def idefics3() -> tuple[Any, Any]:
    tags = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokenizer = byte_tokenizer("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<image>", *tags)
    config = hf.Idefics3Config(
        text_config=_text(hf.LlamaConfig, tokenizer),
        vision_config=_tower(image_size=32, patch_size=8),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    images = hf.Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = hf.Idefics3Processor(
        images,
        tokenizer,
        image_seq_len=4,
        chat_template=_chat_template("<image>", before="{{ bos_token }}", after="<end_of_utterance>\n"),
    )
    return hf.Idefics3ForConditionalGeneration(config), processor


def paligemma() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(image_token="<image>")
    images = hf.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(images, tokenizer)
    config = hf.PaliGemmaConfig(
        text_config=_text(hf.GemmaConfig, tokenizer, head_dim=8),
        vision_config=hf.SiglipVisionConfig(**_tower(image_size=32, patch_size=8, vision_use_head=False)),
        image_token_index=tokenizer.image_token_id,
        projection_dim=HIDDEN,
        hidden_size=HIDDEN,
    )
    return hf.PaliGemmaForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>"
    )
    config = hf.Gemma3Config(
        text_config=_text(hf.Gemma3TextConfig, tokenizer, head_dim=8, sliding_window=64),
        vision_config=hf.SiglipVisionConfig(**_tower(image_size=32, patch_size=8, vision_use_head=False)),
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    images = hf.Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    template = _chat_template("<start_of_image>", before="{{ bos_token }}")
    return hf.Gemma3ForConditionalGeneration(config), hf.Gemma3Processor(
        images, tokenizer, image_seq_length=4, chat_template=template
    )


def internvl() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(
        bos=False,
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = hf.InternVLConfig(
        text_config=_text(hf.Qwen2Config, tokenizer),
        vision_config=hf.InternVLVisionConfig(**_tower(image_size=[32, 32], patch_size=[8, 8])),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
    )
    images = hf.GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=4)
    processor = _without_video(hf.InternVLProcessor)(
        images, tokenizer, image_seq_length=4, chat_template=_chat_template("<IMG_CONTEXT>\n")
    )
    return hf.InternVLForConditionalGeneration(config), processor


def blip_2() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer("<image>")
    text = hf.OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        word_embed_proj_dim=HIDDEN,
        ffn_dim=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = hf.Blip2Config(
        text_config=text,
        vision_config=hf.Blip2VisionConfig(**_tower(image_size=32, patch_size=8)),
        qformer_config=hf.Blip2QFormerConfig(**_tower(encoder_hidden_size=HIDDEN, vocab_size=8)),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = hf.BlipImageProcessorPil(size={"height": 32, "width": 32})
    return hf.Blip2ForConditionalGeneration(config), hf.Blip2Processor(images, tokenizer, num_query_tokens=4)


def llama() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + _ASK
    return hf.LlamaForCausalLM(_text(hf.LlamaConfig, tokenizer)), tokenizer


def gpt2() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(bos=False)
    config = hf.GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=4,
        n_positions=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return hf.GPT2LMHeadModel(config), tokenizer


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": llava,
    "llava_next": llava_next,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "idefics3": idefics3,
    "paligemma": paligemma,
    "gemma3": gemma3,
    "internvl": internvl,
    "blip_2": blip_2,
    "llama": llama,
    "gpt2": gpt2,
}
TEXT_ONLY = ("llama", "gpt2")
MULTIMODAL = tuple(name for name in FAMILIES if name not in TEXT_ONLY)


def build(name: str, directory: Path) -> Path:
    """Writes the family's checkpoint into a directory and returns it."""
    torch.manual_seed(0)
    model, processor = FAMILIES[name]()
    fill_weights(model)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    if hasattr(getattr(processor, "tokenizer", None), "video_token"):
        # Published checkpoints of these families configure a video processor; with torchvision it gets loaded.
        video = {"video_processor_type": f"{type(processor).__name__.removesuffix('Processor')}VideoProcessor"}
        (directory / "video_preprocessor_config.json").write_text(json.dumps(video))
    return directory


def fill_weights(model: torch.nn.Module) -> None:
    """Redraws every weight: some architectures start with zeros, which would hide the picture from the decoder."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.15 * noise if parameter.dim() > 1 else parameter + 0.05 * noise)
