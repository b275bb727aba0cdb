"""microscope_bench: the geometry inside multimodal LLMs, measured per decoder layer and per modality.

The public names load on first use (PEP 562), so ``import microscope_bench`` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "evaluate": "microscope_bench.run.evaluate",
    "flow": "microscope_bench.run.flow",
    "RunConfig": "microscope_bench.config",
    "Result": "microscope_bench.results.result",
    "load_result": "microscope_bench.results.result",
    "difference": "microscope_bench.publish.difference.differences",
    "Protocol": "microscope_bench.protocol",
    "metrics": "microscope_bench.metrics",
}

if TYPE_CHECKING:
    from microscope_bench import metrics as metrics
    from microscope_bench.config import RunConfig as RunConfig
    from microscope_bench.protocol import Protocol as Protocol
    from microscope_bench.publish.difference.differences import difference as difference
    from microscope_bench.results.result import Result as Result
    from microscope_bench.results.result import load_result as load_result
    from microscope_bench.run.evaluate import evaluate as evaluate
    from microscope_bench.run.flow import flow as flow


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    return module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
