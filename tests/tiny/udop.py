"""A tiny UDOP checkpoint: the architecture that the test plug-in adds."""

from __future__ import annotations

import string
from pathlib import Path

import torch
import transformers as hf

from tests.tiny.models import fill_weights


def build_udop(directory: Path) -> Path:
    """Writes the checkpoint into a directory and returns it."""
    letters = [(letter, -3.0) for letter in string.printable if not letter.isspace()]
    words = [(f"▁{letter}", -2.5) for letter in string.ascii_uppercase]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters, *words]
    tokenizer = hf.UdopTokenizer(vocab=vocabulary)
    images = hf.LayoutLMv3ImageProcessorPil(apply_ocr=False, size={"height": 32, "width": 32})
    config = hf.UdopConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=4,
        num_decoder_layers=2,
        num_heads=4,
        image_size=32,
        patch_size=8,
        max_2d_position_embeddings=64,
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = hf.UdopForConditionalGeneration(config)
    fill_weights(model)
    model.save_pretrained(directory)
    hf.UdopProcessor(images, tokenizer).save_pretrained(directory)
    return directory
