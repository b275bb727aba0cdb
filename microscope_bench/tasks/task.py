"""A loaded task: rows in, examples out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from microscope_bench.errors import ExampleError, TaskError
from microscope_bench.example import PLACEHOLDERS, Example, as_words
from microscope_bench.identity import DatasetInfo
from microscope_bench.rgb_pictures import media_in, open_picture
from microscope_bench.tasks.choices import list_of_choices, right_answer
from microscope_bench.tasks.failures import what_failed
from microscope_bench.tasks.nulls import printed_null
from microscope_bench.tasks.settings import TaskSettings, seeded
from microscope_bench.tasks.sounds import sounds_in

Prompt = tuple[str, tuple[tuple[str, str], ...]]
"""A prompt as plain text, and as turns where it is more than one turn of the user."""
ROWS_LOOKED_AT = 32


@dataclass(frozen=True, eq=False)
class Task:
    """A versioned data set with its prompt; made by :func:`microscope_bench.tasks.load_task`."""

    name: str
    version: str  # of the task file, and behind a ``+`` what the settings changed about prompts or rows
    dataset: DatasetInfo
    ids: Sequence[str]  # one per row, unique and stable between runs
    rows: Any  # what is measured of the evaluated split, a ``datasets.Dataset``
    renderer: Any  # lm-eval's task object
    settings: TaskSettings = field(default_factory=TaskSettings)
    directories: Sequence[Path] = ()  # of a local data set, where the files that a row names must lie

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def has_images(self) -> bool:
        return self.renderer.config.doc_to_image is not None

    @property
    def has_audio(self) -> bool:
        return self.renderer.config.doc_to_audio is not None

    @property
    def num_fewshot(self) -> int:
        return int(self.renderer.config.num_fewshot or 0)

    @property
    def sampled(self) -> bool:
        """Whether ``samples`` or ``sample`` chose the rows."""
        return self.name in self.settings.samples or self.settings.sample is not None

    def example(self, index: int) -> Example:
        """Renders one row, whatever was rendered before it; raises ExampleError where it cannot be rendered."""
        try:
            row = self.rows[index]
        except Exception as error:  # of the data set
            raise ExampleError(self.ids[index], _cause(error)) from error
        return self.render(index, row)

    def render(self, index: int, row: Any, pictures: Sequence[Any] | None = None) -> Example:
        """Renders a row that is at hand; ``pictures``: what ``doc_to_image`` gives of it. See :meth:`example`."""
        example_id = self.ids[index]
        try:
            with seeded(self.settings.seeds, index):
                text, turns = self._prompt(index, row)
                if pictures is None:
                    pictures = media_in(self.renderer.doc_to_image(row)) if self.has_images else []
                audios = sounds_in(self.renderer.doc_to_audio(row), self.directories) if self.has_audio else ()
                choices, answer = self._choices_and_answer(row)
                self._refuse_nulls(index, row)
                numbers = {"image": len(pictures), "audio": len(audios)}
                text, turns = self._with_words((text, turns), index, row, numbers)
            images = tuple(open_picture(picture, self.directories) for picture in pictures)
            example = Example(example_id, text, images, choices, answer, audios=audios, turns=turns)
        except Exception as error:  # of the picture library or the task's own functions
            raise ExampleError(example_id, _cause(error)) from error
        if not _question((text, turns), numbers) and self._asks_in_words:
            raise ExampleError(example_id, "the question is empty")
        if not text.strip():
            raise ExampleError(example_id, "its prompt is empty: all text of this task is in the choices")
        return replace(example, unscored=self._unscored(example))

    def _with_words(self, prompt: Prompt, index: int, row: Any, numbers: Mapping[str, int]) -> Prompt:
        """The prompt, its placeholders told from words that the row has; raises where too few or too many are left."""
        for modality, media in (("image", "pictures"), ("audio", "sounds")):
            place, n, count = PLACEHOLDERS[modality], numbers[modality], prompt[0].count(PLACEHOLDERS[modality])
            if count == n or not (self.has_images if modality == "image" else self.has_audio):
                continue  # of a task without such media all are words
            told = self._prompt(index, as_words(row, place))
            if told[0].count(place) != n or not (n or self._writes_places(modality)):
                raise TaskError(f"{count} {place} in the prompt but {n} {media}{self._without(modality, row)}")
            if n and told[0] != as_words(prompt[0], place, n):  # else the first ones are the places anyway
                prompt = told
        return prompt

    def _without(self, modality: str, row: Any) -> str:
        """Which of the columns of a row's media have no value, as the end of a sentence."""
        named = getattr(self.renderer.config, f"doc_to_{modality}")
        columns = named if isinstance(named, list) else [named]
        empty = [name for name in columns if isinstance(name, str) and row.get(name, "") is None]
        return f"; column {', '.join(empty)} has no value" if empty else ""

    @cached_property
    def _asks_in_words(self) -> bool:
        """Whether the questions of the first rows have words, as they have not where pictures alone are asked about."""
        for index in range(min(len(self), ROWS_LOOKED_AT)):
            with suppress(Exception):  # of the data set or the task's function; the example itself says so
                if _question(self._prompt(index, self.rows[index]), dict.fromkeys(PLACEHOLDERS, -1)):
                    return True
        return False

    def _writes_places(self, modality: str) -> bool:
        """Whether the task writes the places of its media, or its rows hold them; by the first row with a medium."""
        place, doc_to = PLACEHOLDERS[modality], getattr(self.renderer, f"doc_to_{modality}")
        for index in range(min(len(self), ROWS_LOOKED_AT)):
            try:
                row = self.rows[index]
                found = doc_to(row)
            except Exception:  # of the data set or the task's function; the example itself says so
                continue
            if n := len(media_in(found)):
                return self._prompt(index, as_words(row, place))[0].count(place) == n
        return True

    @property
    def _system_instruction(self) -> str | None:
        """As the settings have it; in a task of media their placeholders are words there."""
        instruction = self.settings.system_instruction
        for modality, has in (("image", self.has_images), ("audio", self.has_audio)):
            instruction = as_words(instruction, PLACEHOLDERS[modality]) if has else instruction
        return instruction

    def _prompt(self, index: int, row: Any) -> Prompt:
        """A row's prompt as plain text, and as turns where it is more than one turn of the user."""
        renderer = self.renderer
        if renderer.config.output_type == "loglikelihood_rolling":
            return str(renderer.doc_to_target(row)), ()  # such a task has no prompt: the text itself is scored
        if self.num_fewshot:
            renderer.sampler.row = index
        asked = {
            "doc": row,
            "num_fewshot": self.num_fewshot,
            "system_instruction": self._system_instruction,
            "gen_prefix": renderer.doc_to_prefix(row),
        }
        text = renderer.fewshot_context(**asked)
        history = renderer.fewshot_context(
            **asked,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            chat_template=lambda turns, add_generation_prompt: turns,
        )
        if renderer.multiple_input:  # one context per choice: the first stands for the row
            text, history = text[0], history[0]
        turns = tuple((turn["role"], turn["content"]) for turn in history)
        return text, () if turns == (("user", text),) else turns

    def _refuse_nulls(self, index: int, row: Any) -> None:
        """Raises where a cell without a value would stand in the prompt or the choices as the word None."""
        renderer, config = self.renderer, self.renderer.config

        def texts(doc: Any, *, solved: bool) -> list[str]:
            parts = [renderer.doc_to_text]
            parts += [renderer.doc_to_prefix] if config.gen_prefix is not None else []
            parts += [renderer.doc_to_choice] if config.doc_to_choice is not None else []
            parts += [renderer.doc_to_target] if solved else []
            with seeded(self.settings.seeds, index):
                return [str(part(doc)) for part in parts]

        shots = renderer.sampler.sample(self.num_fewshot) if self.num_fewshot else ()
        rows = [(row, config.output_type == "loglikelihood_rolling"), *((shot, True) for shot in shots)]
        for number, (doc, solved) in enumerate(rows):
            cell = printed_null(doc, partial(texts, solved=solved))
            if cell is not None:
                where = "of a few-shot example " if number else ""
                raise TaskError(
                    f"column {cell} {where}has no value, and the prompt would say None; fill it in, or let the "
                    f"template leave it out: {{% if {cell} %}}...{{% endif %}}"
                )

    def _unscored(self, example: Example) -> str | None:
        if self.renderer.multiple_input:
            return "the task has one context per choice, and only the first is measured"
        if example.choices and not example.has_short_choices:
            return "choices of more than a letter, yes, no, true or false are scored by microscope-lm-eval alone"
        return None

    def _choices_and_answer(self, row: Any) -> tuple[tuple[str, ...] | None, int | None]:
        """Options and the index of the right one; no index where several are right, nothing for an open question."""
        if self.renderer.config.output_type != "multiple_choice" or self.renderer.multiple_input:
            return None, None
        found = self.renderer.doc_to_choice(row)
        choices = tuple(map(str, list_of_choices(found, self.renderer.config.doc_to_choice)))
        if not all(choices):
            raise TaskError(f"choice {choices.index('') + 1} of {len(choices)} is empty; leave such rows out")
        target = self.renderer.doc_to_target(row)
        return choices, None if isinstance(target, list) else right_answer(target, choices)


def _question(prompt: Prompt, places: Mapping[str, int]) -> str:
    """The words of the last turn of the user, without so many places of media of each modality; -1: without any."""
    text, turns = prompt
    *_, asked = (text, *(content for role, content in turns if role == "user"))
    for modality, n in places.items():
        asked = asked.replace(PLACEHOLDERS[modality], "", n)
    return asked.strip()


def _cause(error: Exception) -> str:
    """One line that holds neither a directory nor a memory address, so that it may stand in a result."""
    from PIL import UnidentifiedImageError

    if isinstance(error, TaskError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return "a picture does not open: not an image file, or damaged"
    if isinstance(error, OSError) and error.filename is not None:
        return f"a file does not open: {error.strerror}"
    field, cause = what_failed(error)
    return f"{field} fails ({cause})" if field else cause
