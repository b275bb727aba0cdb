"""Tiny checkpoints of families without a projected picture in a causal sequence: cross-attention, encoders, codes.

As :mod:`tests.tiny.families`: real configuration, model and processor classes, seeded random weights, in the layout of
the hub. Special tokens and their places are those that published checkpoints of the family have.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import processors

from tests.tiny import families
from tests.tiny.families import CONTEXT, HIDDEN, LAYERS
from tests.tiny.tokenizer import BOS, EOS, byte_tokenizer

SQUARE = {"height": 32, "width": 32}


def _framed(before: str, after: str, *specials: str, **named: str) -> Any:
    """A byte tokenizer that writes special tokens around a text, as those of BERT, BART and T5 do."""
    tokenizer = byte_tokenizer(*specials, bos=False, **named)
    marks = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (before, after) if token]
    template = f"{before} $A {after}".strip()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, pair=f"{template} $B {after}".strip(), special_tokens=marks
    )
    return tokenizer


def _ids(tokenizer: Any) -> dict[str, int]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def mllama() -> tuple[Any, Any]:
    """Llama 3.2 Vision: two of five blocks attend to up to four tiles; ``<|image|>`` is the id after the vocabulary."""
    header = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>")
    tokenizer = byte_tokenizer(*header, image_token="<|image|>")
    text = families._text(hf.MllamaTextConfig, tokenizer, cross_attention_layers=[1, 3]).to_dict()
    config = hf.MllamaConfig(
        text_config=text | {"vocab_size": tokenizer.image_token_id, "num_hidden_layers": LAYERS + 1},
        vision_config=families._tower(
            image_size=32, patch_size=8, num_global_layers=1, intermediate_layers_indices=[0], vision_output_dim=64
        ),
        image_token_index=tokenizer.image_token_id,
    )
    template = families._chat_template(
        "<|image|>",
        before="{{ bos_token }}",
        after="<|eot_id|>",
        ask="{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    ).replace("{{ m.role }}: ", "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n")
    images = hf.MllamaImageProcessorPil(size=SQUARE, max_image_tiles=4)
    return hf.MllamaForConditionalGeneration(config), hf.MllamaProcessor(images, tokenizer, chat_template=template)


def idefics() -> tuple[Any, Any]:
    """Idefics 9b: a perceiver resampler, a gated cross-attention before every second block, no chat template."""
    extra = ("<fake_token_around_image>", "<image>")
    tokenizer = byte_tokenizer(*extra)
    config = hf.IdeficsConfig(
        vocab_size=len(tokenizer) - len(extra),
        additional_vocab_size=len(extra),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        cross_layer_interval=2,
        qk_layer_norms=True,
        use_resampler=True,
        vision_config=families._tower(image_size=32, patch_size=8) | {"embed_dim": HIDDEN},
        perceiver_config={
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
            "qk_layer_norms_perceiver": True,
        },
        **_ids(tokenizer),
    )
    images = hf.IdeficsImageProcessorPil(image_size=32)
    return hf.IdeficsForVisionText2Text(config), hf.IdeficsProcessor(images, tokenizer, image_size=32)


def florence2() -> tuple[Any, Any]:
    """Florence-2: a BART encoder reads the picture and the prompt, between which its processor writes ``<s>``."""
    tokenizer = _framed(BOS, EOS, image_token="<image>")
    text = hf.BartConfig(
        vocab_size=len(tokenizer),
        d_model=HIDDEN,
        encoder_layers=LAYERS,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=CONTEXT,
        decoder_start_token_id=tokenizer.eos_token_id,
        **_ids(tokenizer),
    )
    vision = {
        "depths": [1, 1, 1, 1],
        "embed_dim": [8, 16, 16, HIDDEN],
        "num_heads": [2, 2, 2, 4],
        "num_groups": [2, 2, 2, 4],
        "window_size": 4,
        "projection_dim": HIDDEN,
    }
    config = hf.Florence2Config(text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id)
    images = hf.CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    images.image_seq_length = 5  # 64 pixels in strides of 4, 2, 2 and 2: 2 × 2, and their mean
    model = hf.Florence2ForConditionalGeneration(config)
    model.generation_config.forced_bos_token_id = tokenizer.bos_token_id  # BART's answers begin with </s><s>
    return model, hf.Florence2Processor(images, tokenizer)


def t5gemma2() -> tuple[Any, Any]:
    """T5Gemma 2: the encoder is Gemma 3 without its causal mask; pretrained checkpoints have no chat template."""
    tokenizer = byte_tokenizer(
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>"
    )
    sizes = {"head_dim": 8, "sliding_window": 64, "query_pre_attn_scalar": 8}
    encoder = hf.T5Gemma2EncoderConfig(
        text_config=families._text(hf.T5Gemma2TextConfig, tokenizer, **sizes),
        vision_config=hf.SiglipVisionConfig(**families._tower(image_size=32, patch_size=8, vision_use_head=False)),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    config = hf.T5Gemma2Config(
        encoder=encoder,
        decoder=families._text(hf.T5Gemma2DecoderConfig, tokenizer, **sizes),
        image_token_index=tokenizer.image_token_id,
    )
    images = hf.Gemma3ImageProcessorPil(size=SQUARE)
    return hf.T5Gemma2ForConditionalGeneration(config), hf.Gemma3Processor(images, tokenizer, image_seq_length=4)


def git() -> tuple[Any, Any]:
    """GIT: the model itself puts the picture in front; BERT's tokenizer writes ``[CLS]`` and ``[SEP]``."""
    tokenizer = _framed("[CLS]", "[SEP]", "[CLS]", "[SEP]")
    tokenizer.cls_token, tokenizer.sep_token, tokenizer.bos_token, tokenizer.eos_token = "[CLS]", "[SEP]", None, None
    config = hf.GitConfig(
        vocab_size=len(tokenizer),
        vision_config=families._tower(image_size=32, patch_size=8),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    return hf.GitForCausalLM(config), hf.GitProcessor(images, tokenizer)


def kosmos_2() -> tuple[Any, Any]:
    """Kosmos-2: 64 latents of the picture, marked by a mask; the processor adds its tags to the tokenizer."""
    tokenizer = _framed(BOS, EOS)
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    processor = hf.Kosmos2Processor(images, tokenizer)
    config = hf.Kosmos2Config(
        text_config={
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT,
            "embed_dim": HIDDEN,
            "layers": LAYERS,
            "ffn_dim": 64,
            "attention_heads": 4,
            **_ids(tokenizer),
        },
        vision_config=families._tower(image_size=32, patch_size=8),
        latent_query_num=64,
    )
    return hf.Kosmos2ForConditionalGeneration(config), processor


def pix2struct() -> tuple[Any, Any]:
    """Pix2Struct without a rendered header: up to 2048 patches, whatever the picture's size; T5's tokenizer."""
    tokenizer = _framed("", EOS)
    tokenizer.bos_token = None
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": LAYERS,
        "num_heads": 4,
        "decoder_start_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": HIDDEN,
        "patch_embed_hidden_size": 3 * 4 * 4,
        "d_ff": 64,
        "d_kv": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = hf.Pix2StructConfig(text_config=text, vision_config=vision)
    images = hf.Pix2StructImageProcessorPil(patch_size={"height": 4, "width": 4})
    return hf.Pix2StructForConditionalGeneration(config), hf.Pix2StructProcessor(images, tokenizer)


def chameleon() -> tuple[Any, Any]:
    """Chameleon: 16 codes of the picture between a start and an end token; the processor ends the turn itself."""
    codes = [f"IMGIMG{tens}{ones}Z" for tens in "AB" for ones in "ABCDEFGHIJ"][:16]  # decimal, A is 0
    tokenizer = byte_tokenizer(*codes, image_token="<image>", boi_token="<racm3:break>", eoi_token="<eoss>")
    tokenizer.add_special_tokens({"sep_token": "<reserved08706>"})
    config = families._text(
        hf.ChameleonConfig,
        tokenizer,
        vocabulary_map=tokenizer.get_vocab(),
        vq_config={
            "embed_dim": 8,
            "num_embeddings": len(codes),
            "latent_channels": 32,
            "resolution": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1],
            "num_res_blocks": 1,
        },
    )
    images = hf.ChameleonImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    return hf.ChameleonForConditionalGeneration(config), hf.ChameleonProcessor(images, tokenizer, image_seq_length=16)


def donut() -> tuple[Any, Any]:
    """Donut for questions about documents: a Swin encoder, an MBART decoder that begins with the task's token."""
    task = ("<s_docvqa>", "<s_question>", "</s_question>", "<s_answer>", "</s_answer>")
    tokenizer = _framed(BOS, EOS, *task)
    swin = hf.DonutSwinConfig(
        image_size=[64, 32], patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4
    )
    bart = hf.MBartConfig(
        vocab_size=len(tokenizer),
        d_model=HIDDEN,
        decoder_layers=LAYERS,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        max_position_embeddings=CONTEXT,
        scale_embedding=True,
        **_ids(tokenizer),
    )
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(swin, bart)
    config.decoder_start_token_id = tokenizer.convert_tokens_to_ids("<s_docvqa>")
    config.pad_token_id = tokenizer.pad_token_id
    images = hf.DonutImageProcessorPil(size={"height": 64, "width": 32})
    return hf.VisionEncoderDecoderModel(config), hf.DonutProcessor(images, tokenizer)


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "mllama": mllama,
    "idefics": idefics,
    "florence2": florence2,
    "t5gemma2": t5gemma2,
    "git": git,
    "kosmos_2": kosmos_2,
    "pix2struct": pix2struct,
    "chameleon": chameleon,
    "donut": donut,
}


def build(name: str, directory: Path) -> Path:
    """Writes the family's checkpoint into a directory and returns it."""
    torch.manual_seed(0)
    model, processor = FAMILIES[name]()
    families.fill_weights(model)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory
