"""A loaded task: rows in, examples out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microscope_bench.errors import ExampleError
from microscope_bench.examples import IMAGE_PLACEHOLDER, Example
from microscope_bench.tasks.data_sets import DatasetIdentity
from microscope_bench.tasks.lm_eval_layer import describe

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Task:
    """A versioned data set with its prompt; made by :func:`microscope_bench.tasks.load_task`.

    Attributes:
        name: the task's name.
        version: ``metadata.version`` of the task file, ``unversioned`` where it has none.
        dataset: which data, pinned.
        ids: one id per row, unique and stable between runs.
        has_images: whether the task shows pictures.
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
            pictures = self._pictures(row)
            choices, answer = self._choices_and_answer(row)
            images = tuple(picture if picture.mode == "RGB" else picture.convert("RGB") for picture in pictures)
            for image in images:
                image.load()  # a truncated file shows only here
        except Exception as error:  # of the picture library or the task's own functions
            raise ExampleError(example_id, _cause(error)) from error
        if text.count(IMAGE_PLACEHOLDER) != len(images):
            count = text.count(IMAGE_PLACEHOLDER)
            raise ExampleError(example_id, f"{count} {IMAGE_PLACEHOLDER} in the prompt but {len(images)} pictures")
        converted = tuple(picture.mode for picture in pictures if picture.mode != "RGB")
        return Example(example_id, text, images, choices, answer, converted)

    def _pictures(self, row: Any) -> list[Image]:
        from PIL.Image import Image

        if not self.has_images:
            return []
        pictures = self.renderer.doc_to_image(row)
        pictures = [p for p in (pictures if isinstance(pictures, list | tuple) else [pictures]) if p is not None]
        for picture in pictures:
            if not isinstance(picture, Image):
                raise TypeError(f"doc_to_image gives {type(picture).__name__} where a PIL image is due")
        return pictures

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
