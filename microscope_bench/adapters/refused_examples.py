"""Refuses examples that a model cannot take, and says what to do instead."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from microscope_bench.adapters.overrides import Overrides
from microscope_bench.errors import AdapterError, ExampleError
from microscope_bench.example import Example

_ONE = {"image": "a picture", "video": "a video", "audio": "sound"}


def refuse_what_the_model_lacks(
    title: str,
    modalities: Collection[str],
    lacks: Mapping[str, str],
    overrides: Overrides,
    examples: Sequence[Example],
) -> None:
    """Raises an AdapterError for the first example that needs what the model lacks, or lacks what the model needs."""
    for example in examples:
        for modality in sorted(example.media.keys() - set(modalities)):
            others = ", ".join(sorted(modalities))
            takes = "it is a text-only model" if set(modalities) == {"text"} else f"it takes {others}"
            raise AdapterError(
                f"{title} has no modality {modality}: {lacks.get(modality, takes)}. Example {example.id} has "
                f"{_ONE[modality]}; choose a task without, or a model that takes it."
            )
        if overrides.videos_as_images and example.images and example.videos:
            raise AdapterError(
                f"{title} turns the frames of a video into pictures, and example {example.id} has both, which nothing "
                f"tells apart; choose a task with one of the two."
            )
        if overrides.needs and overrides.needs not in example.media:
            raise AdapterError(
                f"{title} takes no prompt without {_ONE[overrides.needs]} and example {example.id} has none; choose a "
                f"task whose examples all have one (of pictures: scienceqa_img)."
            )
        if len(example.images) > 1 and not overrides.writes_image_token:
            raise AdapterError(
                f"{title} takes one picture in a prompt and example {example.id} has {len(example.images)}; choose a "
                f"task with one in each."
            )
    same = overrides.same_number or not overrides.writes_image_token
    if same and any(len(e.images) != len(examples[0].images) for e in examples):
        raise AdapterError(
            f"{title} cannot mix prompts with different numbers of pictures, or without one, in one batch; use "
            f"--batch_size 1."
        )


def check_sound(name: str, processor: Any | None, overrides: Overrides, example: Example) -> None:
    """Raises an ExampleError unless the example's sound has the processor's sampling rate and fits its window."""
    extractor = getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)
    wanted = getattr(extractor, "sampling_rate", None)
    for audio in example.audios:
        if wanted is not None and audio.sampling_rate != wanted:
            raise ExampleError(
                example.id,
                f"its sound has {audio.sampling_rate} samples per second and {name} takes {wanted}; resample it in "
                f"the task",
            )
        window = overrides.longest_sound
        if overrides.sound_window is not None:
            window = getattr(extractor, overrides.sound_window, None)
        if window is not None and len(audio.samples) > window:
            raise ExampleError(
                example.id,
                f"its sound has {len(audio.samples)} samples and the processor of {name} cuts it at {window}; cut it "
                f"in the task",
            )
