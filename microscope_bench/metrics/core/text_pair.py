"""A cloud beside the text tokens at the same boundary: what the metrics between two modalities share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.core.jackknife import jackknifed, non_finite


@dataclass(frozen=True)
class TextPair:
    """A cloud of image, video or audio tokens and its text; leaving a fold out leaves its examples out of both."""

    cloud: Cloud
    text: Cloud

    @classmethod
    def of(cls, cloud: Cloud) -> TextPair | None:
        """The cloud and its text; None for a cloud that stands beside none."""
        return None if cloud.text is None else cls(cloud, cloud.text)

    @property
    def n_tokens(self) -> int:
        return self.cloud.n_tokens + self.text.n_tokens

    @property
    def folds(self) -> list[int]:
        return sorted({*self.cloud.moments.occupied, *self.text.moments.occupied})

    @property
    def zero_flags(self) -> tuple[str, ...]:
        """``zero_norm=share`` of the tokens of both clouds, where there are any without a direction."""
        zero = self.cloud.directions.zero + self.text.directions.zero
        return (f"zero_norm={zero / self.n_tokens:.4f}",) if zero else ()

    def problem(self, metric: str, least: int = 1) -> Estimate | None:
        """The null of a pair that is not finite, or of which one side has fewer than ``least`` tokens; else None."""
        n, n_examples = self.n_tokens, self.cloud.n_examples
        if bad := self.cloud.moments.non_finite_x + self.text.moments.non_finite_x:
            return non_finite(bad, n, n_examples)
        if min(self.cloud.n_tokens, self.text.n_tokens) < least:
            found = f"got {self.cloud.n_tokens} and {self.text.n_tokens} text tokens"
            reason = f"{metric} needs at least {least} token{'s' * (least > 1)} of each modality, {found}"
            return Estimate(None, None, n, n_examples, (), reason)
        return None

    def estimate(self, outcome: Callable[[int | None], float], *flags: str) -> Estimate:
        """The value of all examples, with the jackknife over the folds of both clouds."""
        return jackknifed(outcome, self.folds, self.n_tokens, self.cloud.n_examples, flags)
