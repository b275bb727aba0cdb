"""Tiny models that see, with their real processors; and language models.

Each builder returns a model, as its row of ``tests/matrix`` makes it tiny, and its processor (or tokenizer). The
pictures the tests draw are 40 × 60 and 80 × 40 pixels, the vision towers see 32 × 32 pixels in patches of 8.
"""

from __future__ import annotations

from typing import Any

import transformers as hf

from tests.tiny.chat import chat, chatml
from tests.tiny.models import tiny_model
from tests.tiny.tokenizer import byte_tokenizer

SQUARE = {"height": 32, "width": 32}
PINPOINTS = [[32, 64], [64, 32], [64, 64]]
"""Sizes (height, width) that pictures of LLaVA are brought to and cut into tiles of 32 pixels."""


def without_video(kind: type[Any], **parts: Any) -> Any:
    """A processor of this class without its video half, which needs torchvision."""
    every = list(kind.get_attributes())
    rest = [name for name in every if name != "video_processor"]

    class Built(kind):  # type: ignore[misc]
        names = every

        @classmethod
        def get_attributes(cls) -> list[str]:
            return list(cls.names)

        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(name, argument)

    Built.__name__ = kind.__name__
    processor = Built(video_processor=None, **parts)
    del processor.video_processor
    Built.names = rest
    return processor


def llava() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(image_token="<image>")
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    return tiny_model("llava", tokenizer, image_seq_length=16), hf.LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat({"image": "<image>\n"}),
    )


def llava_next() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(image_token="<image>")
    images = hf.LlavaNextImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS)
    model = tiny_model("llava_next", tokenizer, image_grid_pinpoints=PINPOINTS, image_seq_length=16)
    return model, hf.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat({"image": "<image>\n"}, before="{{ bos_token }}"),
    )


def _qwen(model_type: str, processor: type[Any]) -> tuple[Any, Any]:
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
    media = {kind: f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("image", "video")}
    return tiny_model(model_type, tokenizer), without_video(
        processor, image_processor=qwen_pictures(), tokenizer=tokenizer, chat_template=chatml(media)
    )


def qwen_pictures() -> Any:
    return hf.Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096})


def qwen2_vl() -> tuple[Any, Any]:
    return _qwen("qwen2_vl", hf.Qwen2VLProcessor)


def qwen2_5_vl() -> tuple[Any, Any]:
    return _qwen("qwen2_5_vl", hf.Qwen2_5_VLProcessor)


def qwen3_vl() -> tuple[Any, Any]:
    return _qwen("qwen3_vl", hf.Qwen3VLProcessor)


def idefics3() -> tuple[Any, Any]:
    tags = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokenizer = byte_tokenizer("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<image>", *tags)
    images = hf.Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    model = tiny_model("idefics3", tokenizer, image_token_id=tokenizer.convert_tokens_to_ids("<image>"))
    return model, hf.Idefics3Processor(
        images,
        tokenizer,
        image_seq_len=4,
        chat_template=chat({"image": "<image>"}, before="{{ bos_token }}", after="<end_of_utterance>\n"),
    )


def paligemma() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(image_token="<image>")
    images = hf.SiglipImageProcessorPil(size=SQUARE)
    images.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(images, tokenizer)  # adds its tokens of places to the tokenizer
    return tiny_model("paligemma", tokenizer), processor


def gemma3() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>"
    )
    images = hf.Gemma3ImageProcessorPil(size=SQUARE)
    model = tiny_model("gemma3", tokenizer, **{"vision_config.vision_use_head": False})
    return model, hf.Gemma3Processor(
        images,
        tokenizer,
        image_seq_length=4,
        chat_template=chat({"image": "<start_of_image>"}, before="{{ bos_token }}"),
    )


def internvl() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(
        "<|im_start|>",
        "<|im_end|>",
        bos=False,
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    model = tiny_model("internvl", tokenizer, image_token_id=tokenizer.context_image_token_id, image_seq_length=4)
    return model, without_video(
        hf.InternVLProcessor,
        image_processor=hf.GotOcr2ImageProcessorPil(size=SQUARE, max_patches=4),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=chatml({"image": "<IMG_CONTEXT>\n", "video": "<video>\n"}),
    )


def blip_2() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer("<image>")
    model = tiny_model("blip-2", tokenizer, image_token_index=tokenizer.convert_tokens_to_ids("<image>"))
    images = hf.BlipImageProcessorPil(size=SQUARE)
    return model, hf.Blip2Processor(images, tokenizer, num_query_tokens=4)


def llama() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    return tiny_model("llama", tokenizer), tokenizer


def gpt2() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(bos=False)
    return tiny_model("gpt2", tokenizer, n_embd=32, n_head=4, n_layer=4, n_positions=512), tokenizer
