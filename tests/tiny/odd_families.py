"""Tiny models without a projected picture in a causal sequence: cross-attention, encoders, codes.

As :mod:`tests.tiny.families`, in the layout of the hub. Special tokens and their places are those that published
checkpoints of the family have.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from tokenizers import processors

from tests.tiny.chat import chat
from tests.tiny.families import SQUARE
from tests.tiny.models import fill_weights, tiny_model
from tests.tiny.shrink import HIDDEN, LAYERS
from tests.tiny.tokenizer import BOS, EOS, byte_tokenizer


def _framed(before: str, after: str, *specials: str, **named: str) -> Any:
    """A byte tokenizer that writes special tokens around a text, as those of BERT, BART and T5 do."""
    tokenizer = byte_tokenizer(*specials, bos=False, **named)
    marks = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (before, after) if token]
    template = f"{before} $A {after}".strip()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, pair=f"{template} $B {after}".strip(), special_tokens=marks
    )
    return tokenizer


def mllama() -> tuple[Any, Any]:
    """Llama 3.2 Vision: two of five blocks attend to up to four tiles; ``<|image|>`` is the id after the vocabulary."""
    header = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>")
    tokenizer = byte_tokenizer(*header, image_token="<|image|>")
    overrides = {
        "text_config.cross_attention_layers": [1, 3],
        "text_config.num_hidden_layers": LAYERS + 1,
        "text_config.vocab_size": tokenizer.image_token_id,
        "vision_config.max_num_tiles": 4,
        "vision_config.supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
    }
    template = chat(
        {"image": "<|image|>"},
        turn="<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n",
        after="<|eot_id|>",
        ask="<|start_header_id|>assistant<|end_header_id|>\n\n",
        before="{{ bos_token }}",
    )
    images = hf.MllamaImageProcessorPil(size=SQUARE, max_image_tiles=4)
    model = tiny_model("mllama", tokenizer, **overrides)
    return model, hf.MllamaProcessor(images, tokenizer, chat_template=template)


def idefics() -> tuple[Any, Any]:
    """Idefics 9b: a perceiver resampler, a gated cross-attention before every second block, no chat template."""
    extra = ("<fake_token_around_image>", "<image>")
    tokenizer = byte_tokenizer(*extra)
    overrides = {
        "vocab_size": len(tokenizer) - len(extra),
        "additional_vocab_size": len(extra),
        "cross_layer_interval": 2,
        "qk_layer_norms": True,
        "use_resampler": True,
        "perceiver_config.resampler_n_latents": 4,
        "perceiver_config.resampler_depth": 1,
        "perceiver_config.resampler_n_heads": 4,
        "perceiver_config.resampler_head_dim": 8,
        "perceiver_config.qk_layer_norms_perceiver": True,
    }
    images = hf.IdeficsImageProcessorPil(image_size=32)
    return tiny_model("idefics", tokenizer, **overrides), hf.IdeficsProcessor(images, tokenizer, image_size=32)


def florence2() -> tuple[Any, Any]:
    """Florence-2: a BART encoder reads the picture and the prompt, between which its processor writes ``<s>``."""
    tokenizer = _framed(BOS, EOS, image_token="<image>")
    images = hf.CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    images.image_seq_length = 5  # 64 pixels in strides of 4, 2, 2 and 2: 2 × 2, and their mean
    model = tiny_model("florence2", tokenizer, **{"text_config.decoder_start_token_id": tokenizer.eos_token_id})
    model.generation_config.forced_bos_token_id = tokenizer.bos_token_id  # BART's answers begin with </s><s>
    return model, hf.Florence2Processor(images, tokenizer)


def t5gemma2() -> tuple[Any, Any]:
    """T5Gemma 2: the encoder is Gemma 3 without its causal mask; pretrained checkpoints have no chat template."""
    tokenizer = byte_tokenizer(
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>"
    )
    model = tiny_model("t5gemma2", tokenizer, **{"encoder.vision_config.vision_use_head": False})
    images = hf.Gemma3ImageProcessorPil(size=SQUARE)
    return model, hf.Gemma3Processor(images, tokenizer, image_seq_length=4)


def git() -> tuple[Any, Any]:
    """GIT: the model itself puts the picture in front; BERT's tokenizer writes ``[CLS]`` and ``[SEP]``."""
    tokenizer = _framed("[CLS]", "[SEP]", "[CLS]", "[SEP]")
    tokenizer.cls_token, tokenizer.sep_token, tokenizer.bos_token, tokenizer.eos_token = "[CLS]", "[SEP]", None, None
    ends = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    return tiny_model("git", tokenizer, **ends), hf.GitProcessor(images, tokenizer)


def kosmos_2() -> tuple[Any, Any]:
    """Kosmos-2: 64 latents of the picture, marked by a mask; the processor adds its tags to the tokenizer."""
    tokenizer = _framed(BOS, EOS)
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    processor = hf.Kosmos2Processor(images, tokenizer)
    return tiny_model("kosmos-2", tokenizer, latent_query_num=64), processor


def pix2struct() -> tuple[Any, Any]:
    """Pix2Struct without a rendered header: up to 2048 patches, whatever the picture's size; T5's tokenizer."""
    tokenizer = _framed("", EOS)
    tokenizer.bos_token = None
    overrides = {
        "vision_config.patch_embed_hidden_size": 3 * 4 * 4,
        "decoder_start_token_id": tokenizer.pad_token_id,
        "text_config.decoder_start_token_id": tokenizer.pad_token_id,
    }
    images = hf.Pix2StructImageProcessorPil(patch_size={"height": 4, "width": 4})
    return tiny_model("pix2struct", tokenizer, **overrides), hf.Pix2StructProcessor(images, tokenizer)


def chameleon() -> tuple[Any, Any]:
    """Chameleon: 16 codes of the picture between a start and an end token; the processor ends the turn itself."""
    codes = [f"IMGIMG{tens}{ones}Z" for tens in "AB" for ones in "ABCDEFGHIJ"][:16]  # decimal, A is 0
    tokenizer = byte_tokenizer(*codes, image_token="<image>", boi_token="<racm3:break>", eoi_token="<eoss>")
    tokenizer.add_special_tokens({"sep_token": "<reserved08706>"})
    overrides = {
        "vocab_size": len(tokenizer),
        "vocabulary_map": tokenizer.get_vocab(),
        "image_token_id": tokenizer.image_token_id,
        "vq_config.embed_dim": 8,
        "vq_config.num_embeddings": len(codes),
        "vq_config.resolution": 32,
        "vq_config.channel_multiplier": [1, 1, 1, 1],
    }
    images = hf.ChameleonImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    model = tiny_model("chameleon", tokenizer, **overrides)
    return model, hf.ChameleonProcessor(images, tokenizer, image_seq_length=16)


def donut() -> tuple[Any, Any]:
    """Donut for questions about documents: a Swin encoder, an MBART decoder that begins with the task's token.

    The row of its model type, ``vision-encoder-decoder``, is another pair of models.
    """
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
        max_position_embeddings=4096,
        scale_embedding=True,
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")},
    )
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(swin, bart)
    config.decoder_start_token_id = tokenizer.convert_tokens_to_ids("<s_docvqa>")
    config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    model = hf.VisionEncoderDecoderModel(config)
    fill_weights(model)
    images = hf.DonutImageProcessorPil(size={"height": 64, "width": 32})
    return model, hf.DonutProcessor(images, tokenizer)
