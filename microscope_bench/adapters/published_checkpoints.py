"""Published checkpoints by short names, with what their publishers say of them.

:attr:`Published.verified` is the commit on which ``microscope-bench check`` passed, or None for an entry that was never
loaded. What a run used stands in its result.
"""

from __future__ import annotations

from dataclasses import dataclass

from microscope_bench.adapters.overrides import overrides_for


@dataclass(frozen=True)
class Published:
    """One published checkpoint."""

    repo: str
    model_type: str  # its architecture, as its configuration names it
    base: str  # the language model it was made from
    parameters: float  # in billions, of the whole model
    licence: str  # of the weights, by the hub's name for it
    dtype: str = "bfloat16"
    gated: bool = False  # whether its publisher's terms must be accepted first
    adapter: str = "hf"  # the adapter that loads it
    verified: str | None = None

    @property
    def fusion(self) -> str:
        return overrides_for(self.model_type).fusion


PUBLISHED = {
    "aria": Published("rhymes-ai/Aria", "aria", "Aria-Base (MoE)", 25.3, "apache-2.0"),
    "aya-vision-8b": Published(
        "CohereForAI/aya-vision-8b", "aya_vision", "Command R7B", 8.6, "cc-by-nc-4.0", "float16", gated=True
    ),
    "blip2-opt-2.7b": Published("Salesforce/blip2-opt-2.7b", "blip-2", "OPT-2.7B", 3.7, "mit", "float32"),
    "chameleon-7b": Published("facebook/chameleon-7b", "chameleon", "Chameleon-7B", 7.0, "other", gated=True),
    "emu3-chat": Published("Emu3-community/Emu3-Chat-hf", "emu3", "Emu3-8B", 8.5, "apache-2.0"),
    "florence-2-base": Published(
        "florence-community/Florence-2-base", "florence2", "BART, trained anew", 0.23, "mit", "float16"
    ),
    "fuyu-8b": Published("adept/fuyu-8b", "fuyu", "Persimmon-8B", 9.4, "cc-by-nc-4.0"),
    "gemma-3-4b": Published("google/gemma-3-4b-it", "gemma3", "Gemma 3 4B", 4.3, "gemma", gated=True),
    "gemma-3-12b": Published("google/gemma-3-12b-it", "gemma3", "Gemma 3 12B", 12.2, "gemma", gated=True),
    "gemma-3n-e2b": Published("google/gemma-3n-E2B-it", "gemma3n", "Gemma 3n E2B", 5.4, "gemma", gated=True),
    "gemma-4-e2b": Published("google/gemma-4-e2b-it", "gemma4", "Gemma 4 E2B", 5.1, "apache-2.0"),
    "git-base": Published("microsoft/git-base", "git", "BERT, trained anew", 0.18, "mit", "float32"),
    "glm-4.1v-9b": Published("zai-org/GLM-4.1V-9B-Thinking", "glm4v", "GLM-4-9B-0414", 10.3, "mit"),
    "got-ocr2": Published("stepfun-ai/GOT-OCR-2.0-hf", "got_ocr2", "Qwen-0.5B", 0.56, "apache-2.0"),
    "granite-speech-2b": Published(
        "ibm-granite/granite-speech-3.3-2b", "granite_speech", "Granite 3.3 2B", 2.9, "apache-2.0"
    ),
    "idefics-9b": Published("HuggingFaceM4/idefics-9b", "idefics", "LLaMA-7B", 8.9, "other"),
    "idefics2-8b": Published("HuggingFaceM4/idefics2-8b", "idefics2", "Mistral-7B-v0.1", 8.4, "apache-2.0", "float32"),
    "idefics3-8b": Published(
        "HuggingFaceM4/Idefics3-8B-Llama3", "idefics3", "Llama-3.1-8B-Instruct", 8.5, "apache-2.0"
    ),
    "instructblip-vicuna-7b": Published(
        "Salesforce/instructblip-vicuna-7b", "instructblip", "Vicuna-7B-v1.1", 7.9, "other", "float32"
    ),
    "internvl3-1b": Published("OpenGVLab/InternVL3-1B-hf", "internvl", "Qwen2.5-0.5B", 0.94, "apache-2.0"),
    "internvl3-8b": Published("OpenGVLab/InternVL3-8B-hf", "internvl", "Qwen2.5-7B", 7.9, "apache-2.0"),
    "janus-pro-1b": Published("deepseek-community/Janus-Pro-1B", "janus", "DeepSeek-LLM-1.3B", 2.1, "mit"),
    "kosmos-2": Published("microsoft/kosmos-2-patch14-224", "kosmos-2", "Magneto, trained anew", 1.7, "mit", "float32"),
    "lfm2-vl-1.6b": Published("LiquidAI/LFM2-VL-1.6B", "lfm2_vl", "LFM2-1.2B", 1.6, "other"),
    "llama-3.2-11b-vision": Published(
        "meta-llama/Llama-3.2-11B-Vision-Instruct", "mllama", "Llama-3.1-8B", 10.7, "llama3.2", gated=True
    ),
    "llama-4-scout": Published(
        "meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama4", "Llama 4 Scout (MoE)", 108.6, "other", gated=True
    ),
    "llava-1.5-7b": Published("llava-hf/llava-1.5-7b-hf", "llava", "Vicuna-7B-v1.5", 7.1, "llama2", "float16"),
    "llava-1.5-13b": Published("llava-hf/llava-1.5-13b-hf", "llava", "Vicuna-13B-v1.5", 13.4, "llama2", "float16"),
    "llava-next-mistral-7b": Published(
        "llava-hf/llava-v1.6-mistral-7b-hf", "llava_next", "Mistral-7B-Instruct-v0.2", 7.6, "apache-2.0", "float16"
    ),
    "llava-next-vicuna-7b": Published(
        "llava-hf/llava-v1.6-vicuna-7b-hf", "llava_next", "Vicuna-7B-v1.5", 7.1, "llama2", "float16"
    ),
    "llava-next-video-7b": Published(
        "llava-hf/LLaVA-NeXT-Video-7B-hf", "llava_next_video", "Vicuna-7B-v1.5", 7.1, "llama2"
    ),
    "llava-onevision-0.5b": Published(
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "llava_onevision", "Qwen2-0.5B", 0.89, "apache-2.0", "float16"
    ),
    "llava-onevision-7b": Published(
        "llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava_onevision", "Qwen2-7B", 8.0, "apache-2.0", "float16"
    ),
    "mistral-small-3.1": Published(
        "mistralai/Mistral-Small-3.1-24B-Instruct-2503", "mistral3", "Mistral Small 3.1 Base", 24.0, "apache-2.0"
    ),
    "molmo2-8b": Published("allenai/Molmo2-8B", "molmo2", "Qwen3-8B", 8.7, "apache-2.0"),
    "omnifusion-1.1": Published(
        "AIRI-Institute/OmniFusion", "omnifusion", "OmniMistral-7B", 7.5, "apache-2.0", adapter="omnifusion"
    ),
    "ovis2-1b": Published("thisisiron/Ovis2-1B-hf", "ovis2", "Qwen2.5-0.5B", 1.3, "apache-2.0"),
    "paligemma-3b": Published(
        "google/paligemma-3b-pt-224", "paligemma", "Gemma 2B", 2.9, "gemma", "float32", gated=True
    ),
    "paligemma2-3b-mix": Published("google/paligemma2-3b-mix-224", "paligemma", "Gemma 2 2B", 3.0, "gemma", gated=True),
    "phi-4-multimodal": Published("microsoft/Phi-4-multimodal-instruct", "phi4_multimodal", "Phi-4-mini", 5.6, "mit"),
    "qwen2-audio-7b": Published("Qwen/Qwen2-Audio-7B-Instruct", "qwen2_audio", "Qwen-7B", 8.4, "apache-2.0"),
    "qwen2-vl-2b": Published("Qwen/Qwen2-VL-2B-Instruct", "qwen2_vl", "Qwen2-1.5B", 2.2, "apache-2.0"),
    "qwen2-vl-7b": Published("Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl", "Qwen2-7B", 8.3, "apache-2.0"),
    "qwen2.5-omni-7b": Published("Qwen/Qwen2.5-Omni-7B", "qwen2_5_omni", "Qwen2.5-7B", 10.7, "apache-2.0"),
    "qwen2.5-vl-3b": Published("Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl", "Qwen2.5-3B", 3.8, "other"),
    "qwen2.5-vl-7b": Published("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", "Qwen2.5-7B", 8.3, "apache-2.0"),
    "qwen3-vl-4b": Published("Qwen/Qwen3-VL-4B-Instruct", "qwen3_vl", "Qwen3-4B", 4.4, "apache-2.0"),
    "qwen3-vl-8b": Published("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl", "Qwen3-8B", 8.8, "apache-2.0"),
    "qwen3-vl-30b-a3b": Published(
        "Qwen/Qwen3-VL-30B-A3B-Instruct", "qwen3_vl_moe", "Qwen3-30B-A3B (MoE)", 31.1, "apache-2.0"
    ),
    "smolvlm2-2.2b": Published("HuggingFaceTB/SmolVLM2-2.2B-Instruct", "smolvlm", "SmolLM2-1.7B", 2.2, "apache-2.0"),
    "vip-llava-7b": Published("llava-hf/vip-llava-7b-hf", "vipllava", "Vicuna-7B-v1.5", 7.1, "llama2", "float16"),
    "voxtral-mini-3b": Published("mistralai/Voxtral-Mini-3B-2507", "voxtral", "Ministral 3B", 4.7, "apache-2.0"),
}
"""Short name → checkpoint."""
