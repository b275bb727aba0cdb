"""Examples with pictures, videos and sound, and what the processors of the families that take them make of each."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from microscope_bench.adapters.base import AUDIO, IMAGE, VIDEO
from microscope_bench.check.captured_pass import capture
from microscope_bench.example import Audio
from tests.tiny.checkpoints import NEEDS
from tests.tiny.questions import TALL, WIDE, picture, question

WATCHES = find_spec("torchvision") is not None
RATE = 16000
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def lacks(*packages):
    return [name for name in packages if find_spec(name) is None]


def marked(families):
    """The families, skipped where a package is absent without which their processor cannot be built."""
    for family in families:
        missing = lacks(*NEEDS.get(family, ()))
        reason = f"its processor needs {', '.join(missing)}"
        yield pytest.param(family, marks=pytest.mark.skipif(bool(missing), reason=reason), id=family)


with_video = pytest.mark.skipif(not WATCHES, reason="video processors need torchvision")


def film(width, height, frames, seed):
    return tuple(picture(width, height, seed + frame) for frame in range(frames))


def recording(seconds, seed=0, rate=RATE):
    samples = np.random.default_rng(seed).uniform(-1, 1, round(seconds * rate)).astype(np.float32)
    return Audio(samples, rate)


BRIEF, LENGTHY = film(60, 40, 2, seed=3), film(40, 80, 5, seed=7)  # pictures of 60 × 40 and of 40 × 80
LONG, SHORT = recording(1.5, seed=1), recording(0.7, seed=2)

OF = {
    "image": (question("wide", WIDE), question("tall", TALL, text="Which of the two is it?")),
    "video": (
        question("brief", videos=(BRIEF,)),
        question("lengthy", videos=(LENGTHY,), text="Which of the two is it?"),
    ),
    "audio": (question("long", audios=(LONG,)), question("short", audios=(SHORT,), text="Which of the two is it?")),
}
CODE = {"image": IMAGE, "video": VIDEO, "audio": AUDIO}

# Family → modality → (positions of it, structure) of the first and of the second question.
EXPECTED = {
    # Hops of 10 ms: 150 and 70 frames. Two halvings: (n - 1) // 2 + 1 = 75, 35, then (n - 2) // 2 + 1 = 37, 17.
    "qwen2_audio": {"audio": [(37, 2), (17, 2)]},
    "voxtral": {"audio": [(375, 1), (375, 1)]},  # windows of 30 s, 12.5 positions to a second; its start
    "qwen2_5_omni": {
        "image": [(2 * 4, 2), (5 * 2, 2)],  # sides rounded to squares of 16 pixels; start and end
        # A frame has at least 128 · 28² pixels, whatever the checkpoint says: 60 × 40 grows by √(100352 / 2400) = 6.47
        # to 25 × 17 squares, 40 × 80 by √(100352 / 3200) = 5.6 to 14 × 28. Two frames make one, the fifth is repeated.
        "video": [(1 * 17 * 25, 2), (3 * 28 * 14, 2)],
        "audio": [(37, 2), (17, 2)],
    },
    "gemma4": {
        # The largest multiples of 16 pixels with at most 280 patches of 8: 60 × 40 grows by √(17920 / 2400) = 2.73 to
        # 163 × 109, ten by six squares; 40 × 80 by √(17920 / 3200) = 2.37 to 94 × 189, five by eleven.
        "image": [(6 * 10, 2), (11 * 5, 2)],
        "video": [(2 * 60, 2 * 2), (5 * 55, 5 * 2)],  # each frame like a picture; start and end of each
        # (24000 + 160 - 321) // 160 + 1 = 149 and (11200 + 160 - 321) // 160 + 1 = 69 frames, halved twice, rounded up.
        "audio": [(38, 2), (18, 2)],
    },
    "llava_next_video": {
        "image": [(16 + 6 * 8, 6), (16 + 8 * 4, 8)],  # whole + unpadded 2 × 2 or 2 × 1 tiles, a newline per row
        "video": [(2 * 4, 0), (5 * 4, 0)],  # 4 × 4 patches of each frame, pooled two by two
    },
    "llava_onevision": {
        "image": [(16 + 6 * 8, 6), (16 + 8 * 4, 8)],
        "video": [(2 * 4, 1), (5 * 4, 1)],  # pooled alike; one newline at the end
    },
    "smolvlm": {
        # 4 or 2 tiles, each after two marks, and the whole between three; 4 positions each
        "image": [(5 * 4, 4 * 2 + 3), (3 * 4, 2 * 2 + 3)],
        "video": [(2 * 4, 2 * 3), (5 * 4, 5 * 3)],  # each frame like an undivided picture
    },
    "qwen2_vl": {"image": [(2 * 4, 2), (5 * 2, 2)], "video": [(1 * 8, 2), (3 * 10, 2)]},  # pairs of frames
    "qwen3_vl": {
        "image": [(2 * 4, 2), (5 * 2, 2)],
        "video": [(1 * 8, 2 + 1 * 2), (3 * 10, 2 + 3 * 2)],  # start and end of each pair and of the video
    },
    "internvl": {
        "image": [(5 * 4, 2), (3 * 4, 2)],  # 4 or 2 tiles and a thumbnail
        "video": [(2 * 4, 2 * 2), (5 * 4, 5 * 2)],  # start and end of each frame
    },
    "phi4_multimodal": {
        # A crop of 256 pixels is 32 × 32 patches, pooled to 16 × 16. 60 × 40 becomes 256 × 170: 86 // 8 = 10 of its 32
        # rows are padding, 11 of 16 remain. 40 × 80 becomes 128 × 256, 8 of 16 columns. Before the whole picture, with
        # a newline per row: 11 or 16 of the crop, 16 of the whole, one mark between them.
        "image": [(16 * 16 + 11 * 16, 11 + 16 + 1), (16 * 16 + 16 * 8, 16 + 16 + 1)],
        # (24000 - 400) // 160 + 1 = 148 and (11200 - 400) // 160 + 1 = 68 frames, an eighth of them, rounded up
        "audio": [(19, 0), (9, 0)],
    },
}
SKIPPED = {
    "qwen3_vl": {"boundaries equal transformers' hidden states"},  # deepstack writes between blocks
    # encoded one at a time: its encoder of sound attends to the padding of a batch
    "phi4_multimodal": {f"a batch equals its examples one by one{of}" for of in ("", " (audio)")},
    # encoded one at a time: a video's prompt tells the length of the longest in the batch
    "smolvlm": {f"a batch equals its examples one by one{of}" for of in ("", " (video)")},
}
IDENTITY = {  # processor and image processor; both have variants without torchvision, Qwen2VL's serves several families
    "qwen2_audio": ("Qwen2AudioProcessor", None),
    "voxtral": ("VoxtralProcessor", None),
    "qwen2_5_omni": ("Qwen2_5OmniProcessor", "Qwen2VLImageProcessor"),
    "gemma4": ("Gemma4Processor", "Gemma4ImageProcessor"),
    "llava_next_video": ("LlavaNextVideoProcessor", "LlavaNextImageProcessor"),
    "llava_onevision": ("LlavaOnevisionProcessor", "LlavaOnevisionImageProcessor"),
    "smolvlm": ("SmolVLMProcessor", "SmolVLMImageProcessor"),
    "qwen2_vl": ("Qwen2VLProcessor", "Qwen2VLImageProcessor"),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen2VLImageProcessor"),
    "internvl": ("InternVLProcessor", "GotOcr2ImageProcessor"),
    "phi4_multimodal": ("Phi4MultimodalProcessor", "Phi4MultimodalImageProcessor"),
}
PIXELS = {
    "image": {"phi4_multimodal": "image_pixel_values"},
    "video": {"internvl": "pixel_values", "smolvlm": "pixel_values"},
    "audio": {"phi4_multimodal": "audio_input_features"},
}
TENSOR = {"image": "pixel_values", "video": "pixel_values_videos", "audio": "input_features"}


def media_of(family, *modalities):
    """The names of the tensors by which a family takes these."""
    return {PIXELS[modality].get(family, TENSOR[modality]) for modality in modalities}


def having(modality):
    return [family for family in EXPECTED if modality in EXPECTED[family]]


def one_by_one(adapter, examples):
    """As the runner does it: no more at a time than the adapter takes."""
    return [[example] for example in examples] if adapter.max_batch == 1 else [list(examples)]


def label_counts(adapter, examples, *labels):
    counts = []
    for batch in one_by_one(adapter, examples):
        counts += [
            tuple(int((row == label).sum()) for label in labels) for row in capture(adapter, tuple(batch)).labels
        ]
    return counts
