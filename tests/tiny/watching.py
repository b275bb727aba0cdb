"""Tiny models that watch videos; a video processor needs torchvision, so it is left out here."""

from __future__ import annotations

from typing import Any

import transformers as hf

from tests.tiny import families
from tests.tiny.families import HIDDEN, LAYERS
from tests.tiny.hearing import MEL_BINS, chat, chatml, without_video
from tests.tiny.tokenizer import byte_tokenizer

PINPOINTS = [[32, 64], [64, 32], [64, 64]]
"""Sizes (height, width) that pictures of LLaVA are brought to and cut into tiles of 32 pixels."""


def llava_next_video() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(image_token="<image>", video_token="<video>")
    config = hf.LlavaNextVideoConfig(
        text_config=families._text(hf.LlamaConfig, tokenizer).to_dict(),
        vision_config=hf.CLIPVisionConfig(
            **families._tower(image_size=32, patch_size=8, projection_dim=HIDDEN)
        ).to_dict(),
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=PINPOINTS,
    )
    images = hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=PINPOINTS
    )
    processor = without_video(
        hf.LlavaNextVideoProcessor,
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_vicuna(),
    )
    return hf.LlavaNextVideoForConditionalGeneration(config), processor


def _vicuna() -> str:
    media = {"image": "<image>\n", "video": "<video>\n"}
    turn = "{{ 'USER: ' if m.role == 'user' else 'ASSISTANT: ' }}"
    return chat(media, turn, after=" ", ask="ASSISTANT:", before="{{ bos_token }}")


def llava_onevision() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer("<|im_start|>", "<|im_end|>", "<image>", "<video>", bos=False)
    config = hf.LlavaOnevisionConfig(
        text_config=families._text(hf.Qwen2Config, tokenizer).to_dict(),
        vision_config=hf.SiglipVisionConfig(
            **families._tower(image_size=32, patch_size=8, vision_use_head=False)
        ).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
    )
    images = hf.LlavaOnevisionImageProcessorPil(size={"height": 32, "width": 32}, image_grid_pinpoints=PINPOINTS)
    processor = without_video(
        hf.LlavaOnevisionProcessor,
        image_processor=images,
        tokenizer=tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chatml({"image": "<image>", "video": "<video>"}),
    )
    return hf.LlavaOnevisionForConditionalGeneration(config), processor


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
    config = hf.SmolVLMConfig(
        text_config=families._text(hf.LlamaConfig, tokenizer).to_dict(),
        vision_config=families._tower(image_size=32, patch_size=8),
        image_token_id=tokenizer.image_token_id,
        scale_factor=2,
    )
    images = hf.SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    template = chat(
        {"image": "<image>"},
        turn="{{ m.role | capitalize + (':' if m.content[0].type == 'image' else ': ') }}",
        after="<end_of_utterance>\n",
        ask="Assistant:",
        before="<|im_start|>",
    )
    processor = without_video(
        hf.SmolVLMProcessor,
        image_processor=images,
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=template,
    )
    return hf.SmolVLMForConditionalGeneration(config), processor


def qwen2_vl() -> tuple[Any, Any]:
    return _watching(families.qwen2_vl())


def qwen3_vl() -> tuple[Any, Any]:
    return _watching(families.qwen3_vl())


def _watching(built: tuple[Any, Any]) -> tuple[Any, Any]:
    """The same, with the chat template's branch for videos."""
    model, processor = built
    media = {
        "image": "<|vision_start|><|image_pad|><|vision_end|>",
        "video": "<|vision_start|><|video_pad|><|vision_end|>",
    }
    processor.chat_template = chatml(media)
    return model, processor


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
    config = hf.InternVLConfig(
        text_config=families._text(hf.Qwen2Config, tokenizer).to_dict(),
        vision_config=hf.InternVLVisionConfig(**families._tower(image_size=[32, 32], patch_size=[8, 8])).to_dict(),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
    )
    processor = without_video(
        hf.InternVLProcessor,
        image_processor=hf.GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=4),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=chatml({"image": "<IMG_CONTEXT>\n", "video": "<video>\n"}),
    )
    return hf.InternVLForConditionalGeneration(config), processor


def phi4_multimodal() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer("<|user|>", "<|assistant|>", "<|end|>", image_token="<|image|>", audio_token="<|audio|>")
    config = hf.Phi4MultimodalConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=families.CONTEXT,
        original_max_position_embeddings=families.CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        vision_config=families._tower(
            image_size=256, patch_size=8, crop_size=256, image_token_id=tokenizer.image_token_id
        ),
        audio_config={
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_blocks": 2,
            "num_attention_heads": 4,
            "input_size": MEL_BINS,
            "nemo_final_size": MEL_BINS // 8,
            "nemo_conv_channels": 8,
            "ext_pw_out_channel": HIDDEN,
            "depthwise_separable_out_channel": HIDDEN,
            "audio_token_id": tokenizer.audio_token_id,
        },
    )
    template = chat(
        {"image": "<|image|>", "audio": "<|audio|>"},
        turn="{{ '<|' + m.role + '|>' }}",
        after="<|end|>",
        ask="<|assistant|>",
    )
    processor = hf.Phi4MultimodalProcessor(
        # it writes 256 positions for the whole picture whatever its size, so a crop is 32 × 32 patches as published
        hf.Phi4MultimodalImageProcessor(size={"height": 256, "width": 256}, patch_size=8, dynamic_hd=4),
        hf.Phi4MultimodalFeatureExtractor(feature_size=MEL_BINS),
        tokenizer,
        chat_template=template,
    )
    return hf.Phi4MultimodalForCausalLM(config), processor
