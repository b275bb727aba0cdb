"""The parts a result is made of: one frozen dataclass per section of the file, with the file's field names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from microscope_bench.protocol import Protocol


@dataclass(frozen=True)
class Score:
    """One row: metric × estimator × stream × modality × token set × layer → value ± standard error.

    Attributes:
        metric: "linearity", "intrinsic_dimension", "anisotropy", ...
        estimator: how the metric was estimated, "held_out", "twonn_mle", ...
        stream: what linearity maps to what, "hidden" or "update"; None for metrics of a single cloud.
        modality: "text", "image", "video", "audio", or "joint" for all of them together.
        tokens: the token set: "all", "no_sinks"; "correct", "wrong", "correct_no_sinks" and "wrong_no_sinks" where the
            run split its scores.
        layer: l in 0..L; of a metric between two boundaries, the first of them.
        value: finite, or None with a ``reason``.
        stderr: standard error of ``value``, or None.
        n_tokens: tokens the value was computed on.
        n_examples: distinct examples among them.
        flags: short remarks, ``name`` or ``name=value``.
        reason: why there is no value, or None.
    """

    metric: str
    estimator: str
    stream: str | None
    modality: str
    tokens: str
    layer: int
    value: float | None
    stderr: float | None
    n_tokens: int
    n_examples: int
    flags: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class SinkLayer:
    """The sinks of one modality at one boundary.

    Attributes:
        layer: l.
        n_tokens: tokens that meet the sink rule at this very boundary.
        dimensions: coordinates that hold more than a tenth of the squared norm of one of them.
        top_variance_share: share of σ₁² that the sinks carry here, or None.
    """

    layer: int
    n_tokens: int
    dimensions: tuple[int, ...]
    top_variance_share: float | None


@dataclass(frozen=True)
class Sinks:
    """The massive-activation tokens of one modality (``joint``: of all), which the token set ``no_sinks`` leaves out.

    Attributes:
        modality: whose tokens.
        n_tokens: tokens kept of that modality.
        n_sinks: those that are sinks at any boundary.
        n_examples: distinct examples that hold one.
        layers: one entry per boundary; empty where there are no sinks.
    """

    modality: str
    n_tokens: int
    n_sinks: int
    n_examples: int
    layers: tuple[SinkLayer, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why a run has no scores: the error's type, its message, and the stage in which it rose ("capture", ...)."""

    type: str
    message: str
    where: str


@dataclass(frozen=True)
class ModelRecord:
    """Which model was measured; ``control`` names a deliberately changed model, which no leaderboard shows."""

    name: str
    repo: str
    revision: str
    adapter: str
    architecture: str
    dtype: str
    quantization: str | None
    attention: str | None
    n_layers: int
    hidden_size: int
    n_parameters: int
    trained: bool = True
    control: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskRecord:
    """Which task, in which version."""

    name: str
    version: str


@dataclass(frozen=True)
class DatasetRecord:
    """Which data: hub repository or generator, configuration name, pinned revision, split."""

    path: str
    name: str | None
    revision: str
    split: str


@dataclass(frozen=True)
class Selection:
    """Name and version of the rule that picked the tokens, ``name/version``."""

    rule: str


@dataclass(frozen=True)
class Identity:
    """Everything that decides whether two results may be compared; the signature ends with a hash of it."""

    protocol: Protocol
    model: ModelRecord
    task: TaskRecord
    dataset: DatasetRecord
    n_examples: int
    example_ids_sha256: str | None
    prompt_sha256: str | None
    selection: Selection
    metrics: Mapping[str, int]


@dataclass(frozen=True)
class Skipped:
    """An example that was not measured, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Inputs:
    """What went into the model, hashed: tells a changed processor or tokenizer from a changed model."""

    chat_template_sha256: str | None
    tokens_sha256: str | None
    media_sha256: str | None
    tokens_seen: Mapping[str, int] = field(default_factory=dict)
    images_converted: Mapping[str, int] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class Environment:
    """Where and with what it was measured; :func:`microscope_bench.results.provenance.environment` fills it in.

    ``captured_with`` tells of the run that had captured the states, where a kept token store was measured again.
    """

    package_version: str
    commit: str | None
    dirty: bool | None
    python: str
    platform: str
    packages: Mapping[str, str]
    device: str
    processor: str
    image_processor: str | None
    command: str
    captured_with: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Timing:
    """When the run began (UTC, ISO 8601), seconds per stage, and the peak memory in bytes where it is known."""

    started_utc: str
    seconds: Mapping[str, float]
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class Accuracy:
    """Share of examples answered rightly, with its standard error and n; or no value and the reason why."""

    value: float | None
    stderr: float | None
    n: int
    reason: str | None = None
