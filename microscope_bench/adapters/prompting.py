"""Renders an example as the text a model reads: through its chat template, or raw with its own image token."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, tzinfo
from typing import Any

from transformers.utils import chat_template_utils

from microscope_bench.adapters.overrides import Overrides
from microscope_bench.errors import AdapterError, ExampleError
from microscope_bench.example import PLACEHOLDERS, Example

TODAY = datetime(2024, 7, 26)
"""The date that templates see, so that prompts and numbers do not change from day to day."""


def chat_template(processor: Any) -> str | None:
    """The chat template that a processor or tokenizer uses by default, or None."""
    template = getattr(processor, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    return template or None


def template_sha256(template: str | None) -> str | None:
    return None if template is None else hashlib.sha256(template.encode()).hexdigest()


def check_placeholders(example: Example, modalities: Collection[str] = ("image",)) -> None:
    """Raises an ExampleError unless the text holds one placeholder for each medium.

    In the given modalities a placeholder without a medium is an error too; to any other model ``<audio>`` is a word.
    """
    for modality, placeholder in PLACEHOLDERS.items():
        count, media = example.text.count(placeholder), example.media.get(modality, ())
        if count != len(media) and (media or modality in ("image", *modalities)):
            what = {"image": "pictures", "video": "videos", "audio": "sounds"}[modality]
            raise ExampleError(example.id, f"its text holds {count} {placeholder} but it has {len(media)} {what}")


def chat(
    processor: Any,
    turns: Sequence[tuple[str, str]],
    modalities: Iterable[str],
    *,
    in_parts: bool,
    mark: Callable[[str], str] = str,
) -> str:
    """A conversation up to where the assistant's answer begins, or continues where the last turn begins it.

    Placeholders of other than the given modalities are words. ``in_parts`` says whether the template takes typed parts
    (processors) or one string (tokenizers). Each text goes through ``mark`` before the template gets it. A ValueError
    says that the template leaves a turn out.
    """
    kinds = {PLACEHOLDERS[modality]: modality for modality in modalities}
    said: list[dict[str, Any]] = []
    for role, text in turns:
        parts = [{**part, "text": mark(part["text"])} if "text" in part else part for part in _parts(text, kinds)]
        said.append({"role": role, "content": parts if in_parts else mark(text)})
    options: dict[str, Any] = {"add_generation_prompt": True}
    if turns[-1][0] == "assistant":
        options = {"add_generation_prompt": False, "continue_final_message": True}
    with _fixed_today():
        prompt = str(processor.apply_chat_template(said, tokenize=False, **options))
    for role, text in turns if len(turns) > 1 else ():
        for part in _parts(text, kinds):
            if part.get("text", "").strip() not in prompt:
                raise ValueError(f"the {role} turn does not appear in what it makes")
    return prompt


def raw_prompt(processor: Any | None, example: Example, overrides: Overrides) -> str:
    """The example's text with the model's own tokens where its media belong; without such a token an AdapterError."""
    text = example.text
    for modality in example.media:
        token = getattr(processor, f"{modality}_token", None) if overrides.writes_image_token else ""
        token = overrides.image_mark or token
        if token is None:
            raise AdapterError(
                f"{type(processor).__name__} names no {modality} token and the checkpoint has no chat template, so the "
                f"place of {modality} in the prompt is unknown. Override encode() in an adapter of your own."
            )
        text = text.replace(PLACEHOLDERS[modality], str(token))
    return (overrides.prompt_start or "") + text


def continuation_token_ids(
    tokenize: Callable[[str], Sequence[int]], prompt: str, choices: Sequence[str]
) -> list[int] | None:
    """The one token by which each choice continues the prompt, all after the same delimiter, or None.

    The delimiter is empty where the prompt ends in white space and one blank elsewhere, as in written text; where that
    does not make every choice exactly one more token, the other of the two. ``tokenize`` adds no special tokens.
    """
    before = list(tokenize(prompt))
    for delimiter in ("", " ") if prompt[-1:].isspace() else (" ", ""):
        after = [list(tokenize(prompt + delimiter + choice)) for choice in choices]
        if all(ids[:-1] == before for ids in after):
            return [ids[-1] for ids in after]
    return None


@contextmanager
def _fixed_today() -> Iterator[None]:
    """Lets templates see :data:`TODAY`: they ask the clock of a module of transformers."""

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Fixed:
            return cls(TODAY.year, TODAY.month, TODAY.day, tzinfo=tz)

    clock = chat_template_utils.datetime
    chat_template_utils.datetime = Fixed
    try:
        yield
    finally:
        chat_template_utils.datetime = clock


def _parts(text: str, kinds: Mapping[str, str]) -> list[dict[str, str]]:
    """The typed parts of a turn: text and media in the order of the placeholders (placeholder → modality)."""
    if not kinds:
        return [{"type": "text", "text": text}]
    pieces = re.split(f"({'|'.join(kinds)})", text)
    return [{"type": kinds[p]} if p in kinds else {"type": "text", "text": p} for p in pieces if p]
