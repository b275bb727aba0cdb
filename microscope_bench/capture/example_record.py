"""What a token store says of each example."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class ExampleRecord:
    """What a store knows of one example besides its states.

    Attributes:
        id: the example's id.
        tokens_seen: label → number of positions.
        example_sha256: of the example as the task renders it, the same for every model (text, choices, answer,
            pictures); "" for one that could not be rendered.
        tokens_sha256: of the token ids.
        media_sha256: of the pixels and samples of the data set's media, whatever a control shows in their place, before
            any processor; None without media. Examples of one hash share a fold.
        converted_from: what was changed of the pictures before they were shown, such as "RGBA over white".
        answer: index of the right choice, or None.
        choice_logprobs: log-probability of each choice as the next token, or None where it was not scored.
        unscored: why ``choice_logprobs`` is None although the task has choices.
        skipped: why the example could not be measured; None for one that was.
    """

    id: str
    tokens_seen: dict[str, int] = field(default_factory=dict)
    example_sha256: str = ""
    tokens_sha256: str = ""
    media_sha256: str | None = None
    converted_from: list[str] = field(default_factory=list)
    answer: int | None = None
    choice_logprobs: list[float] | None = None
    unscored: str | None = None
    skipped: str | None = None

    @property
    def right(self) -> bool | None:
        """Whether the most likely choice is the right one; None where no answer was scored, or several are right."""
        if self.skipped is not None or self.choice_logprobs is None or self.answer is None:
            return None
        return max(range(len(self.choice_logprobs)), key=self.choice_logprobs.__getitem__) == self.answer
