"""A loaded task: rows in, examples out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from microscope_bench.errors import ExampleError
from microscope_bench.examples import IMAGE_PLACEHOLDER, PLACEHOLDERS, Example
from microscope_bench.tasks.data_sets import DatasetIdentity
from microscope_bench.tasks.lm_eval_layer import describe
from microscope_bench.tasks.media import pictures_in, sounds_in


@dataclass(frozen=True, eq=False)
class Task:
    """A versioned data set with its prompt; made by :func:`microscope_bench.tasks.load_task`.

    Attributes:
        name: the task's name.
        version: ``metadata.version`` of the task file, ``unversioned`` where it has none.
        dataset: which data, pinned.
        ids: one id per row, unique and stable between runs.
        has_images: whether the task shows pictures.
        has_audio: whether it lets sound be heard.
        description: one line, or "".
        licence: of the data, or "".
        citation: whom to cite for the data, or "".
        rows: the evaluated split, a ``datasets.Dataset``.
        renderer: lm-eval's task object.
    """

    name: str
    version: str
    dataset: DatasetIdentity
    ids: Sequence[str]
    has_images: bool
    has_audio: bool
    description: str
    licence: str
    citation: str
    rows: Any
    renderer: Any

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, index: int) -> Example:
        """Renders one row, whatever was rendered before it.

        Pictures become RGB; a picture's EXIF orientation is not applied, as in transformers' image processors.

        Args:
            index: the row, 0 .. ``len(task) - 1``.

        Raises:
            ExampleError: the row cannot be rendered: a picture that does not open, another number of pictures than of
                placeholders, a right answer that is not among the choices, or an error in the task's own functions.
        """
        example_id = self.ids[index]
        try:
            row = self.rows[index]
            text = self.renderer.fewshot_context(doc=row, num_fewshot=0, gen_prefix=self.renderer.doc_to_prefix(row))
            pictures = pictures_in(self.renderer.doc_to_image(row)) if self.has_images else []
            audios = sounds_in(self.renderer.doc_to_audio(row)) if self.has_audio else ()
            choices, answer = self._choices_and_answer(row)
            images = tuple(picture if picture.mode == "RGB" else picture.convert("RGB") for picture in pictures)
            for image in images:
                image.load()  # a truncated file shows only here
        except Exception as error:  # of the picture library or the task's own functions
            raise ExampleError(example_id, _cause(error)) from error
        if text.count(IMAGE_PLACEHOLDER) != len(images):
            count = text.count(IMAGE_PLACEHOLDER)
            raise ExampleError(example_id, f"{count} {IMAGE_PLACEHOLDER} in the prompt but {len(images)} pictures")
        if self.has_audio and (count := text.count(PLACEHOLDERS["audio"])) != len(audios):
            raise ExampleError(example_id, f"{count} {PLACEHOLDERS['audio']} in the prompt but {len(audios)} sounds")
        converted = tuple(picture.mode for picture in pictures if picture.mode != "RGB")
        return Example(example_id, text, images, choices, answer, converted, audios=audios)

    def _choices_and_answer(self, row: Any) -> tuple[tuple[str, ...] | None, int | None]:
        """Options and the index of the right one; no index where several are right, nothing for an open question."""
        if self.renderer.config.output_type != "multiple_choice":
            return None, None
        choices = tuple(str(choice) for choice in self.renderer.doc_to_choice(row))
        target = self.renderer.doc_to_target(row)
        if isinstance(target, list):
            return choices, None
        answer = choices.index(target) if isinstance(target, str) and target in choices else int(target)
        if not 0 <= answer < len(choices):
            raise ValueError(f"the right answer is number {answer} of {len(choices)} choices")
        return choices, answer


def _cause(error: Exception) -> str:
    """One line that holds neither a directory nor a memory address, so that it may stand in a result."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "a picture does not open: not an image file, or damaged"
    if isinstance(error, OSError) and error.filename is not None:
        return f"a file does not open: {error.strerror}"
    return describe(error)
