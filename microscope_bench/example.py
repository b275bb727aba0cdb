"""One rendered row of a task: what an adapter encodes; and what gives them. Knows neither lm-eval nor a model."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microscope_bench.rgb_pictures import as_rgb

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

PLACEHOLDERS = {"image": "<image>", "video": "<video>", "audio": "<audio>"}
"""Modality → what stands once per medium in :attr:`Example.text`, where it belongs (lm-eval's convention)."""
IMAGE_PLACEHOLDER = PLACEHOLDERS["image"]
WORD_MARK = "\ufdd0"
"""Stands inside a placeholder that is a word of the task's and not the place of a medium: a code that is no character,
so that no text has it."""
WORD_PAIRS = ({"yes", "no"}, {"true", "false"})


def as_words(value: Any, placeholder: str, places: int = 0) -> Any:
    """The value with a :data:`WORD_MARK` in each placeholder of its texts behind the first ``places`` of each.

    >>> as_words({"question": "What is <image>?"}, "<image>")["question"].replace(WORD_MARK, "|")
    'What is <|image>?'
    """
    if isinstance(value, str):
        before = value.split(placeholder, places)
        behind = before.pop().replace(placeholder, placeholder[0] + WORD_MARK + placeholder[1:])
        return placeholder.join([*before, behind])
    if isinstance(value, Mapping):
        return {key: as_words(item, placeholder, places) for key, item in value.items()}
    return [as_words(item, placeholder, places) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, eq=False)
class Audio:
    """A recording.

    Attributes:
        samples: float32 (n,), one channel, in [-1, 1].
        sampling_rate: samples per second.
    """

    samples: np.ndarray
    sampling_rate: int


@dataclass(frozen=True, eq=False)
class Example:
    """One question as every model gets it.

    Attributes:
        id: unique within the task and stable between runs.
        text: the prompt. The first of the :data:`PLACEHOLDERS` of a modality are the places of its media; any further
            one is a word, and so is one that holds a :data:`WORD_MARK`.
        images: the pictures, in the order of their placeholders; in whatever mode they are given, they are held as
            :func:`microscope_bench.rgb_pictures.as_rgb` shows them.
        choices: the answer options to score as continuations ("A", "B", ...), or None for an open question.
        answer: index of the right choice, or None where there is none.
        converted_from: what was changed about the pictures for that ("RGBA over white", "orientation 6 applied", "P",
            ...), for the record; what is given is kept in front.
        videos: each a sequence of frames, pictures of one size, held as ``images`` are.
        audios: the recordings.
        turns: for models with a chat template, (role, content) of each turn of the conversation that ``text`` is the
            plain form of: a system turn, solved examples, an answer that is begun. Empty: ``text`` as the user's turn.
        unscored: why the answer is not scored although the task has choices, or None.
        prompt: the text as the model reads it, where somebody else has put it through the model's chat template, as
            lm-eval does; None leaves that to the adapter. Not part of what is asked.
        dataset_media: where a control shows other media than the data set's, or none: the SHA-256 of the data set's, by
            which the example is put into the same fold as without the control; else None.
    """

    id: str
    text: str
    images: tuple[Image, ...] = ()
    choices: tuple[str, ...] | None = None
    answer: int | None = None
    converted_from: tuple[str, ...] = ()
    videos: tuple[tuple[Image, ...], ...] = ()
    audios: tuple[Audio, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()
    unscored: str | None = None
    prompt: str | None = None
    dataset_media: str | None = None

    def __post_init__(self) -> None:
        shown = [[as_rgb(picture) for picture in pictures] for pictures in (self.images, *self.videos)]
        images, *videos = (tuple(picture for picture, _ in pictures) for pictures in shown)
        changes = tuple(change for pictures in shown for _, changed in pictures for change in changed)
        # the dataclass is frozen
        for name, value in (("images", images), ("videos", tuple(videos))):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "converted_from", (*self.converted_from, *changes))

    @property
    def conversation(self) -> tuple[tuple[str, str], ...]:
        """The turns, or the text as the only one, the user's."""
        return self.turns or (("user", self.text),)

    @property
    def media(self) -> dict[str, tuple[Any, ...]]:
        """Modality → the example's media of it, for every modality that it has any of."""
        every = {"image": self.images, "video": self.videos, "audio": self.audios}
        return {modality: media for modality, media in every.items() if media}

    @property
    def has_letter_choices(self) -> bool:
        """Whether every option is one capital letter, so that one forward pass scores all of them."""
        return bool(self.choices) and all(len(c) == 1 and "A" <= c <= "Z" for c in self.choices or ())

    @property
    def has_short_choices(self) -> bool:
        """Whether one forward pass can be asked to score all options: letters, yes and no, or true and false.

        Whether each of the words is one token is the tokenizer's to say. Other words are not asked for: in a task where
        only some rows have options of one token, accuracy would be that of those rows.
        """
        return self.has_letter_choices or {choice.lower() for choice in self.choices or ()} in WORD_PAIRS


class ExampleSource(typing.Protocol):
    """What the capture needs of a task: its examples, one at a time, and what they are.

    ``dataset`` says which data, pinned; ``ids`` are those of all examples, in order.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def dataset(self) -> Any: ...
    @property
    def ids(self) -> Sequence[str]: ...

    def example(self, index: int) -> Example:
        """One rendered example; raises ExampleError."""
