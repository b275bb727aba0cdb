"""What one run is asked for. Imports no torch.

The command line, ``evaluate``, lm-eval's ``--model_args`` and the manifest of a token store fill the same object, and
whatever a value must be is checked here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from microscope_bench.errors import MicroscopeError, unknown_name
from microscope_bench.protocol import DEFAULT_PROTOCOL, PROTOCOLS, Protocol, named_protocol
from microscope_bench.system.disk import read_regular
from microscope_bench.system.key_values import at_least, flag, key_values, memory_size, number, whole

DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla", "meta")
"""What torch calls the kinds of device, but for those that a package beside it adds."""

SPLITS = ("correct",)
"""By what scores can be split."""

MEASURED_AGAIN = ("metrics", "split_by", "id_tokens", "output_path", "device", "measure_memory", "progress")
"""The fields that can still be asked for when the states are captured."""

OF_FLOW = (
    *("limit", "samples", "sample", "max_skipped", "seed", "model_args", "task_args", "include_path", "num_fewshot"),
    *("apply_chat_template", "system_instruction", "control", "batch_size", "device", "output_path", "progress"),
)
"""The fields that attention knockout can be asked for."""


LARGEST_SAMPLES = 10_000_000
"""Bytes of a file of ``samples``, at most."""


class FourSeeds(NamedTuple):
    """Lm-eval's ``--seed``."""

    python: int
    numpy: int
    torch: int
    fewshot: int


def _default_metrics() -> tuple[str, ...]:
    from microscope_bench.metrics.registry import DEFAULT_METRICS

    return tuple(DEFAULT_METRICS)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a run can be asked for, beside its model and its task.

    Each field also takes the text that a command line has for it (``metrics="linearity,anisotropy"``,
    ``measure_memory="8GB"``); what is kept is of the type that is declared.

    Attributes:
        protocol: name of the protocol; see `ls protocols`.
        limit: measure only the first N examples, below 1 that share of them (a deviation).
        samples: task name → rows to measure instead of the whole split, {"task": [0, 1, 2]}, or a file of such JSON;
            excludes limit.
        sample: measure only N examples of each task, drawn by the first of the seeds; excludes limit and samples.
        tokens_per_example: keep N tokens of each modality of an example (a deviation).
        id_tokens: estimate intrinsic dimension on draws of N distinct tokens (a deviation).
        max_skipped: share of examples that may be unmeasurable (a deviation).
        seed: of the token selection and the folds (a deviation), and of few-shot examples; or lm-eval's four (Python,
            NumPy, torch, few-shot), of which the first and the last are these.
        model_args: for the adapter: pretrained=org/name or a directory, revision=..., dtype=bfloat16, ...
        task_args: for the tasks: data_dir=DIR, revision=...; each gets those that it knows.
        include_path: directory with further task YAMLs.
        num_fewshot: solved examples before each question (text only); left to the task where it is not given.
        apply_chat_template: whether prompts go through the model's chat template (default: where it has one).
        system_instruction: stands before every prompt, as a system turn where there is a chat template.
        metrics: see `ls metrics`; or all (default: linearity, intrinsic_dimension, anisotropy).
        split_by: "correct" also scores the examples answered rightly and those answered wrongly apart, as many of each.
        control: measure something deliberately changed; see `ls controls`.
        tap: where the residual stream is watched: language, vision (the tower's blocks) or projector.
        mainflow: capture the skip-free chain of blocks too, for stream `mainflow`; doubles the work and the store.
        batch_size: examples per forward pass; changes speed and memory, not the protocol.
        device: cpu, cuda, cuda:1, ... (default: a GPU where there is one).
        measure_memory: what the metrics may take of the device, such as 8GB, or a number of bytes; scores are the same
            (default: half of what is free on a GPU, no bound elsewhere).
        output_path: directory that the result files go to.
        store: directory of the token store (default: inside output_path, or a temporary one).
        keep_store: keep the token store, to `measure` it again.
        progress: show progress bars on standard error.

    Raises:
        MicroscopeError: a value that means nothing, or two that contradict each other.
    """

    protocol: Protocol = PROTOCOLS[DEFAULT_PROTOCOL]
    limit: float | None = None
    samples: Mapping[str, Sequence[int]] = field(default_factory=dict)
    sample: int | None = None
    tokens_per_example: int | None = None
    id_tokens: int | None = None
    max_skipped: float | None = None
    seed: FourSeeds | None = None
    model_args: Mapping[str, str] = field(default_factory=dict)
    task_args: Mapping[str, str] = field(default_factory=dict)
    include_path: Path | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool | None = None
    system_instruction: str | None = None
    metrics: tuple[str, ...] = field(default_factory=_default_metrics)
    split_by: str | None = None
    control: str | None = None
    tap: str = "language"
    mainflow: bool = False
    batch_size: int = 8
    device: str | None = None
    measure_memory: int | None = None
    output_path: Path | None = None
    store: Path | None = None
    keep_store: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is None:  # as if it had not been given
                value = f.default if f.default_factory is MISSING else f.default_factory()
            if value is not None:
                value = read_field(f.name, value)
            object.__setattr__(self, f.name, value)
        if self.samples and self.limit is not None:
            raise MicroscopeError("samples and limit exclude each other, as in lm-eval; leave one of them out")
        if self.sample is not None and (self.samples or self.limit is not None):
            raise MicroscopeError(
                "sample draws the rows, which limit and samples choose otherwise; leave one of them out"
            )
        changes = {name: getattr(self, name) for name in ("tokens_per_example", "id_tokens", "max_skipped")}
        protocol = self.protocol.with_changes(**changes, seed=None if self.seed is None else self.seed.python)
        object.__setattr__(self, "protocol", protocol)
        if self.apply_chat_template is not None:
            object.__setattr__(self, "model_args", self._with_chat_template(self.apply_chat_template))

    def _with_chat_template(self, apply: bool) -> dict[str, str]:
        """The model args with ``use_chat_template``, the adapters' name of the same setting."""
        from microscope_bench.adapters.model_args import boolean_arg

        text = str(apply).lower()
        if boolean_arg(self.model_args, "use_chat_template", apply) != apply:
            raise MicroscopeError(
                f"apply_chat_template is {text} but model arg use_chat_template is "
                f"{self.model_args['use_chat_template']}; they are one setting, leave one of them out"
            )
        return {**self.model_args, "use_chat_template": text}

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON has them; ``RunConfig(**config.as_dict())`` is an equal one."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {name: str(value) for name, value in values.items() if isinstance(value, Path)}
        return {**values, "protocol": self.protocol.as_dict()}


def read_field(name: str, value: Any) -> Any:
    """A field's value from its text on a command line, or from a value of its type; MicroscopeError for others."""
    return _READERS[name](name, value)


def _chat_template(name: str, value: Any) -> bool:
    try:
        return flag(name, value)
    except MicroscopeError as error:
        raise MicroscopeError(f"{error}; the template is the checkpoint's default one and cannot be named") from None


def _limit(name: str, value: Any) -> float:
    limit = number(name, value)
    if not (0 < limit < 1 or (limit >= 1 and limit.is_integer())):
        raise MicroscopeError(f"{name} must be a positive whole number, or a share between 0 and 1, not {value!r}")
    return limit if limit < 1 else int(limit)


def _seeds(name: str, value: Any) -> FourSeeds:
    texts = value.split(",") if isinstance(value, str) else value if isinstance(value, Sequence) else (value,)
    seeds = [at_least(0)(name, text) for text in texts] * (4 if len(texts) == 1 else 1)
    if len(seeds) != 4:
        raise MicroscopeError(f"{name} must be one seed, or four: python,numpy,torch,fewshot; not {value!r}")
    return FourSeeds(*seeds)


def _samples(name: str, value: Any) -> dict[str, list[int]]:
    was_text = isinstance(value, str)
    try:
        if was_text:
            value = json.loads(value if "{" in value else read_regular(Path(value), LARGEST_SAMPLES))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MicroscopeError(f"{name}: {value!r:.300} is neither JSON nor a file of JSON: {reason}") from None
    rows_of: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {"": value}
    if was_text and not rows_of:
        raise MicroscopeError(f"{name} names no task; leave it out to measure every row")
    if not all(isinstance(rows, list | tuple | range) for rows in rows_of.values()) or "" in rows_of:
        raise MicroscopeError(f'{name}: {value!r} is not of the form {{"task": [0, 1, 2]}}')
    return {task: list(rows) for task, rows in rows_of.items()}


def _path(name: str, value: Any) -> Path:
    if not isinstance(value, str | Path):
        raise MicroscopeError(f"{name} must be a path, not {value!r}")
    if "\0" in str(value):
        raise MicroscopeError(f"{name}: {str(value)!r} holds a NUL character, and no file's name does")
    return Path(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise MicroscopeError(f"{name} must be text, not {value!r}")
    return value


def _protocol(name: str, value: Any) -> Protocol:
    if isinstance(value, Mapping):
        try:
            return Protocol(**value)
        except TypeError as error:  # fields that are missing or unknown
            every = ", ".join(PROTOCOLS[DEFAULT_PROTOCOL].as_dict())
            known = ", ".join(known for known, protocol in PROTOCOLS.items() if protocol.window is None)
            raise MicroscopeError(f"{name}: {error}. Name a protocol ({known}), or give every field: {every}") from None
    protocol = value if isinstance(value, Protocol) else named_protocol(str(value))
    if protocol.window is not None:
        raise MicroscopeError(f"{name} {protocol.name} is that of attention knockout; run: microscope-bench flow")
    return protocol


def _metrics(name: str, value: Any) -> tuple[str, ...]:
    from microscope_bench.metrics.registry import metric_names

    return tuple(metric_names(value))


def _control(name: str, value: Any) -> str:
    from microscope_bench.controls import named_control

    return named_control(str(value)).name


def _tap(name: str, value: Any) -> str:
    from microscope_bench.adapters.tap_names import check_tap

    check_tap(str(value))
    return str(value)


def _device(name: str, value: Any) -> str:
    kind, colon, which = str(value).partition(":")
    if kind == "gpu":
        raise MicroscopeError(f"unknown {name} {value!r}. Did you mean cuda{colon}{which}?")
    if kind not in DEVICES and not list(entry_points(group="torch.backends")):
        raise unknown_name(name, str(value), list(DEVICES))
    return str(value)


def _split(name: str, value: Any) -> str:
    if value not in SPLITS:
        raise unknown_name(name, str(value), list(SPLITS))
    return str(value)


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "protocol": _protocol,
    "limit": _limit,
    "samples": _samples,
    "sample": at_least(1),
    "tokens_per_example": whole,
    "id_tokens": whole,
    "max_skipped": number,
    "seed": _seeds,
    "model_args": key_values,
    "task_args": key_values,
    "include_path": _path,
    "num_fewshot": at_least(0),
    "apply_chat_template": _chat_template,
    "metrics": _metrics,
    "split_by": _split,
    "control": _control,
    "tap": _tap,
    "mainflow": flag,
    "batch_size": at_least(1),
    "measure_memory": memory_size,
    "output_path": _path,
    "store": _path,
    "keep_store": flag,
    "progress": flag,
    "device": _device,
    "system_instruction": _text,
}
"""Field → what turns the text of a command line, or a value, into the declared type; raises for what means nothing."""
