"""The identity of a model as it is in memory: its weights and its code decide, whatever a checkpoint says."""

from __future__ import annotations

import sys

from msgspec import structs

from microscope_bench.adapters.base import Adapter
from microscope_bench.adapters.weights_digest import weights_digest
from microscope_bench.identity import ModelInfo
from microscope_bench.system.local_code import local_code_digest


def measured_model(adapter: Adapter) -> ModelInfo:
    """``adapter.info``, its revision followed by a digest of the weights unless they are those that were loaded.

    An adapter that was made, not loaded by name, also gets a digest of its local code behind its name.
    """
    info = adapter.info
    if (digest := weights_digest(adapter)) != adapter.loaded_weights:
        info = structs.replace(info, revision=f"{info.revision}+weights-{digest}")
    made = type(getattr(adapter, "whole", adapter))
    module = sys.modules.get(made.__module__)
    if "@" not in info.adapter and module is not None and (code := local_code_digest(module, made=made)):
        info = structs.replace(info, adapter=f"{info.adapter}@{code}")
    return info
