"""The check that text is what the task wrote, and nothing that the chat template did."""

from __future__ import annotations

from collections.abc import Sequence

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
