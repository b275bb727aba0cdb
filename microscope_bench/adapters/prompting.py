"""Renders an example as the text a model reads: through its chat template, or raw with its own image token."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, tzinfo
from typing import Any

from transformers.utils import chat_template_utils

from microscope_bench.adapters.overrides import Overrides
from microscope_bench.adapters.template_words import own_characters
from microscope_bench.errors import AdapterError, ExampleError, TaskError, said
from microscope_bench.example import PLACEHOLDERS, Example
from microscope_bench.system.bounded_templates import render_chat

TODAY = datetime(2024, 7, 26)
"""The date that templates see, so that prompts and numbers do not change from day to day."""

LONGEST = 1_000_000
"""Characters that a chat template may write around a short conversation."""
_REPAIR_TEMPLATE = (
    "Repair chat_template.jinja of the checkpoint (or chat_template in tokenizer_config.json), or do without it: "
    "--model_args ...,use_chat_template=false"
)


def chat_template(processor: Any) -> str | None:
    """The chat template that a processor or tokenizer uses by default, or None."""
    template = getattr(processor, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    return template or None


def template_sha256(template: str | None) -> str | None:
    return None if template is None else hashlib.sha256(template.encode()).hexdigest()


def check_placeholders(example: Example) -> None:
    """Raises an ExampleError unless the text holds a placeholder for each medium.

    The first ones are the places of the media; any further one, and one of a modality that the example has no medium
    of, is a word.
    """
    for modality, media in example.media.items():
        placeholder = PLACEHOLDERS[modality]
        count = example.text.count(placeholder)
        if count < len(media):
            what = {"image": "pictures", "video": "videos", "audio": "sounds"}[modality]
            raise ExampleError(example.id, f"its text holds {count} {placeholder} but it has {len(media)} {what}")


def places_of(example: Example) -> dict[str, float]:
    """Modality → how many placeholders of an example's conversation are the places of media.

    Of a prompt that somebody else has put through the template, all that stand for pictures.
    """
    if example.prompt is not None:
        return {"image": math.inf}
    return {modality: len(media) for modality, media in example.media.items()}


def chat(
    processor: Any,
    turns: Sequence[tuple[str, str]],
    places: Mapping[str, float],
    *,
    in_parts: bool,
    mark: Callable[[str], str] = str,
) -> str:
    """A conversation up to where the assistant's answer begins, or continues where the last turn begins it.

    ``places`` says how many placeholders of each modality are the places of media; any other is a word. ``in_parts``
    says whether the template takes typed parts (processors) or one string (tokenizers). Each text goes through ``mark``
    before the template gets it. A ValueError says that the template is not made for parts, or that a turn's words do
    not stand in the prompt whole and once.
    """
    prompt, texts = written(processor, turns, places, in_parts=in_parts, mark=mark)
    what = {role: "the question" if role == "user" else f"the {role} turn" for role, _ in texts}
    for role, text in texts:
        if text.strip() not in prompt:
            raise ValueError(f"it leaves out, cuts or changes {what[role]}")

    def again(also: Callable[[str], str]) -> str:
        return written(processor, turns, places, in_parts=in_parts, mark=lambda text: also(mark(text)))[0]

    try:
        own_characters(again, prompt)
    except ValueError:
        twice = next((role for role, text in texts if prompt.count(text.strip()) > 1), turns[-1][0])
        raise ValueError(f"it repeats or changes {what.get(twice, 'the question')}") from None
    return prompt


def written(
    processor: Any,
    turns: Sequence[tuple[str, str]],
    places: Mapping[str, float],
    *,
    in_parts: bool,
    mark: Callable[[str], str],
) -> tuple[str, list[tuple[str, str]]]:
    """What a template makes of a conversation, and the role and words of each text in it that is not blank."""
    left = dict(places) if in_parts else {}
    texts: list[tuple[str, str]] = []
    said: list[dict[str, Any]] = []
    for role, text in turns:
        parts = [(kind, mark(piece) if kind == "text" else "") for kind, piece in parts_of(text, left)]
        texts += [(role, piece) for kind, piece in parts if kind == "text" and piece.strip()]
        typed = [{"type": kind, "text": piece} if kind == "text" else {"type": kind} for kind, piece in parts]
        said.append({"role": role, "content": typed if in_parts else parts[0][1]})
    options: dict[str, Any] = {"add_generation_prompt": True}
    if turns[-1][0] == "assistant":
        options = {"add_generation_prompt": False, "continue_final_message": True}
    with _fixed_today():
        prompt = str(processor.apply_chat_template(said, tokenize=False, **options))
    if in_parts and any(str(turn["content"]) in prompt for turn in said):
        raise ValueError("it takes each turn for one string, and writes text and pictures as a list in Python")
    return prompt, texts


def raw_prompt(processor: Any | None, example: Example, overrides: Overrides, mark: Callable[[str], str] = str) -> str:
    """The example's text with the model's own tokens where its media belong; without such a token an AdapterError."""
    tokens = {}
    for modality in example.media:
        token = getattr(processor, f"{modality}_token", None) if overrides.writes_image_token else ""
        token = overrides.image_mark or token
        if token is None:
            raise AdapterError(
                f"{type(processor).__name__} names no {modality} token and the checkpoint has no chat template, so the "
                f"place of {modality} in the prompt is unknown. Override encode() in an adapter of your own."
            )
        tokens[modality] = str(token)
    parts = parts_of(example.text, places_of(example))
    text = "".join(mark(piece) if kind == "text" else tokens[kind] for kind, piece in parts)
    return (overrides.prompt_start or "") + text


def parts_of(text: str, left: dict[str, float]) -> list[tuple[str, str]]:
    """A text cut at the places of its media: (modality, placeholder) and ("text", words), in their order.

    ``left`` says how many placeholders of each modality are places, and is counted down; any further one is a word.
    """
    kinds = {PLACEHOLDERS[modality]: modality for modality in left}
    parts: list[tuple[str, str]] = []
    for piece in re.split(f"({'|'.join(kinds)})", text) if kinds else [text]:
        kind = kinds.get(piece)
        if kind is not None and left[kind] > 0:
            left[kind] -= 1
            parts.append((kind, piece))
        elif parts and parts[-1][0] == "text":
            parts[-1] = ("text", parts[-1][1] + piece)
        elif piece or not kinds:
            parts.append(("text", piece))
    return parts


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


def in_parts(example: Example, prompt: str, mark: str) -> list[Any]:
    """The texts and pictures of an example as one list, each picture where its mark stands in the prompt."""
    first, *rest = prompt.split(mark)
    parts = [first, *(part for pair in zip(example.images, rest, strict=True) for part in pair)]
    return [part for part in parts if part != ""]


def template_fails(what: str, cause: str) -> str:
    return f"its chat template cannot render {what} ({cause}). {_REPAIR_TEMPLATE}"


@functools.cache
def template_takes_too_much(template: str) -> str | None:
    """What a chat template takes too much of, tried on short conversations in a process of its own; or None."""
    parts = [[], *([{"type": modality}] for modality in PLACEHOLDERS)]
    contents: list[Any] = ["What?", *([*medium, {"type": "text", "text": "What?"}] for medium in parts)]
    conversations = [[{"role": "user", "content": content}] for content in contents]
    conversations += [[{"role": role, "content": "What?"} for role in ("system", "user", "assistant", "user")]]
    given = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True, "tools": None, "documents": None}
    for messages in conversations:
        try:
            text = render_chat(template, {**given, "messages": messages})
        except TaskError as error:
            return str(error)
        except Exception:  # it may refuse a conversation
            continue
        if len(text) > LONGEST:
            return f"it writes more than {LONGEST:,} characters"
    return None


def check_template(name: str, modalities: Collection[str], render: Callable[..., str]) -> None:
    """Raises an AdapterError where a chat template renders no question, or writes nothing at the place of a medium.

    ``render`` makes the prompt of a conversation that has so many media of each modality.
    """
    places = dict.fromkeys(modalities, 1)
    turns = [("user", "".join(map(PLACEHOLDERS.__getitem__, places)) + "What?")]
    try:
        prompt = render(turns, places)
    except Exception as error:  # a template is a program of the checkpoint's: it may raise anything
        raise AdapterError(f"{name}: {template_fails('a question', said(error))}") from error
    for modality in places:
        with suppress(ValueError):  # a template may take the placeholder that is a word for its own
            without = render(turns, {**places, modality: 0})
            if prompt == without.replace(PLACEHOLDERS[modality], ""):
                raise AdapterError(
                    f"{name}: its chat template writes nothing where the {modality} belongs. {_REPAIR_TEMPLATE}"
                )


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
