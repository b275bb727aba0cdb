"""The checks that text is what the task wrote, all of it, and nothing that the chat template did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from microscope_bench.adapters.base import PADDING, TEMPLATE, TEXT
from microscope_bench.check.captured_pass import CapturedPass
from microscope_bench.check.check_report import Outcome, Skip
from microscope_bench.example import PLACEHOLDERS


def text_is_the_tasks_own(captured: CapturedPass) -> Outcome:
    """What is labelled text, decoded, is the question: its first and its last word are there, and no role name is."""
    adapter, tokenizer = captured.adapter, getattr(captured.adapter, "tokenizer", None)
    if adapter.template_untold is not None or tokenizer is None:
        raise Skip(adapter.template_untold or "the adapter has no tokenizer as .tokenizer")

    def letters(ids: Sequence[int]) -> str:
        return "".join(tokenizer.decode(list(ids), skip_special_tokens=False).split())

    n_template = 0
    for ids, row, example in zip(captured.batch.tokens, captured.labels, captured.examples, strict=True):
        labels = row[row != PADDING]
        if len(labels) != len(ids):
            if adapter.info.template is not None:
                raise Skip("the adapter has no ids for some positions")
            continue  # the model itself adds some; there are no words but the task's
        task = "".join(text for _, text in example.conversation)
        for mark in PLACEHOLDERS.values():
            task = task.replace(mark, "")
        # through the tokenizer and back: it may not know every word
        wanted = letters(tokenizer(task, add_special_tokens=False)["input_ids"])
        text = ids[labels == TEXT].tolist()
        # the first and the last token may hold something of the template too; a raw prompt may begin with a mark
        more = adapter.info.template is not None and letters(text[1:-1]) not in wanted
        if wanted not in letters(text) or more:
            seen = f"the task of {example.id} reads {wanted!r}, the positions labelled text {letters(text)!r}"
            return False, seen, "Words of the template belong to template, those of the task to text: encode()"
        n_template += int((labels == TEMPLATE).sum())
    return True, f"{int((captured.labels == TEXT).sum())} text positions, {n_template} template positions", ""


_REPEATS = (0, 50, 850, 1650)
_WORDS = " and so on it goes"


def prompts_arrive_whole(captured: CapturedPass) -> Outcome:
    """Longer questions give more tokens, each repeated word as many, and end in their own last words."""
    adapter, example = captured.adapter, captured.examples[0]
    if "tap" in adapter.info.options:
        raise Skip("the positions of another stream are no words")
    tokenizer, numbers = getattr(adapter, "tokenizer", None), []
    for n in _REPEATS:
        words = f"{_WORDS * n}. The last word is whole{n}"
        turns = tuple((role, text + words) for role, text in example.turns)
        batch = adapter.prepare([replace(example, text=example.text + words, turns=turns)])
        (ids,), labels = batch.tokens, batch.labels[0][batch.labels[0] != PADDING]
        known = len(labels) == len(ids)  # else the processor may write something behind the question
        text = ids[labels == TEXT] if known else ids
        numbers.append(len(ids))
        if tokenizer is not None and adapter.template_untold is None:
            end = "".join(tokenizer.decode(text[-30:].tolist()).split())
            # through the tokenizer and back: it may not know every word
            words = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(f" whole{n}"))
            wanted = "".join(tokenizer.decode(words).split())
            if not (end.rstrip(".").endswith(wanted) if known else wanted in end):
                return False, f"the prompt ends in {end!r}, its question in {wanted!r}", _CUT
    more = [b - a for a, b in pairwise(numbers)]
    seen = f"{numbers} tokens where the question has {[n * len(_WORDS.split()) for n in _REPEATS]} more words"
    return more[0] > 0 and more[1] == more[2] > 10 * more[0], seen, _CUT


_CUT = "Something cuts or pads prompts: a length in the tokenizer's or the processor's files, or encode()"
