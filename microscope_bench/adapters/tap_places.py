"""Where the taps are set: the blocks of the vision tower or the projector, by the names transformers gives them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from microscope_bench.adapters.decoder import describe_module_lists, module_lists
from microscope_bench.adapters.tap_names import PROJECTOR, VISION
from microscope_bench.errors import AdapterError

_TOWER = re.compile(r"(^|[._])(vision|visual|image|img|vit|siglip|clip|dino\w*)")
_NO_TOWER = re.compile(r"projector|connector|merger|qformer|resampler|perceiver|audio|language_model|deepstack")
_BLOCKS = {"layers", "blocks", "layer", "block", "resblocks", "transformer_layers"}
_PROJECTORS = (
    *("multi_modal_projector", "mm_projector", "projector", "connector", "modality_projection", "aligner"),
    *("embed_vision", "vision_embed_tokens", "vision_projection", "perceiver_resampler", "language_projection"),
    *("image_to_text_projection", "visual_projection", "merger", "resampler"),
)


def find_places(model: nn.Module, tap: str, paths: Sequence[str] | None) -> tuple[Sequence[nn.Module], nn.Module]:
    """The blocks to watch and the module whose output is the last boundary; an AdapterError where there are none.

    Of the dotted ``paths`` the first that exists is taken; None looks for the usual names, and an empty sequence means
    that there is no such place.
    """
    named = dict(model.named_modules())
    found: Any = next((named[path] for path in paths or () if path in named), None)
    if found is None and paths is None:
        found = _tower_blocks(model) if tap == VISION else _projector(named)
    if found is None:
        what = "a vision tower made of blocks" if tap == VISION else "a projector"
        raise AdapterError(
            f"{type(model).__name__} has no place for this tap: not {what} that runs once in a pass and keeps its "
            f"positions. Block lists of the model: {describe_module_lists(model)}. Leave --tap out."
        )
    return ((), found) if tap == PROJECTOR else (list(found), found[-1])


def _tower_blocks(model: nn.Module) -> nn.ModuleList | None:
    """The longest list of blocks on a path that speaks of vision."""
    found = [
        (-len(module), name.count("."), name, module)
        for name, module in module_lists(model).items()
        if name.rpartition(".")[2] in _BLOCKS and _TOWER.search(name) and not _NO_TOWER.search(name)
    ]
    return min(found, key=lambda candidate: candidate[:3])[3] if found else None


def _projector(named: Mapping[str, nn.Module]) -> nn.Module | None:
    """The outermost module by the first of the names that transformers gives to projectors."""
    for wanted in _PROJECTORS:
        if paths := [name for name in named if name.rpartition(".")[2] == wanted and "audio" not in name]:
            return named[min(paths, key=lambda name: (name.count("."), name))]
    return None
