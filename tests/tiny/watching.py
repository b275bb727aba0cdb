"""Tiny models that watch videos; a video processor needs torchvision, so its settings alone are written."""

from __future__ import annotations

from typing import Any

import transformers as hf

from tests.tiny.chat import chat, chatml
from tests.tiny.families import PINPOINTS, SQUARE, without_video
from tests.tiny.models import tiny_model
from tests.tiny.tokenizer import byte_tokenizer

CHOOSING = {"do_sample_frames": True, "num_frames": 2}
"""Two of the frames, as published processors choose some; a task has chosen already, so none may be left out."""
_QWEN = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 256, "longest_edge": 65536}}
VIDEO: dict[str, dict[str, Any]] = {
    "qwen2_5_omni": {"video_processor_type": "Qwen2VLVideoProcessor", **_QWEN},
    "gemma4": {
        "video_processor_type": "Gemma4VideoProcessor",
        "patch_size": 8,
        "pooling_kernel_size": 2,
        "max_soft_tokens": 70,
    },
    "llava_next_video": {
        "video_processor_type": "LlavaNextVideoVideoProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": SQUARE,
    },
    "llava_onevision": {"video_processor_type": "LlavaOnevisionVideoProcessor", "size": SQUARE},
    "smolvlm": {
        "video_processor_type": "SmolVLMVideoProcessor",
        "size": {"longest_edge": 64},
        "max_image_size": {"longest_edge": 32},
    },
    "qwen2_vl": {"video_processor_type": "Qwen2VLVideoProcessor", **_QWEN},
    "qwen2_5_vl": {"video_processor_type": "Qwen2VLVideoProcessor", **_QWEN},
    "qwen3_vl": {"video_processor_type": "Qwen3VLVideoProcessor", **_QWEN},
    "internvl": {"video_processor_type": "InternVLVideoProcessor", "size": SQUARE},
}
"""Family → its ``video_preprocessor_config.json``, but for :data:`CHOOSING`."""


def llava_next_video() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(image_token="<image>", video_token="<video>")
    template = chat(
        {"image": "<image>\n", "video": "<video>\n"},
        turn="{{ 'USER: ' if m.role == 'user' else 'ASSISTANT: ' }}",
        after=" ",
        ask="ASSISTANT:",
        before="{{ bos_token }}",
    )
    images = hf.LlavaNextImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS)
    return tiny_model("llava_next_video", tokenizer, image_grid_pinpoints=PINPOINTS), without_video(
        hf.LlavaNextVideoProcessor,
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def llava_onevision() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer("<|im_start|>", "<|im_end|>", "<image>", "<video>", bos=False)
    overrides = {
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "video_token_index": tokenizer.convert_tokens_to_ids("<video>"),
        "image_grid_pinpoints": PINPOINTS,
    }
    return tiny_model("llava_onevision", tokenizer, **overrides), without_video(
        hf.LlavaOnevisionProcessor,
        image_processor=hf.LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=PINPOINTS),
        tokenizer=tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chatml({"image": "<image>", "video": "<video>"}),
    )


def smolvlm() -> tuple[Any, Any]:
    tags = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokenizer = byte_tokenizer(
        "<|im_start|>",
        *tags,
        bos=False,
        fake_image_token="<fake_token_around_image>",
        image_token="<image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    template = chat(
        {"image": "<image>"},
        turn="{{ m.role | capitalize + (':' if m.content[0].type == 'image' else ': ') }}",
        after="<end_of_utterance>\n",
        ask="Assistant:",
        before="<|im_start|>",
    )
    return tiny_model("smolvlm", tokenizer), without_video(
        hf.SmolVLMProcessor,
        image_processor=hf.SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=template,
    )
