"""Finds the decoder blocks inside a transformers model, and what stands around them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from microscope_bench.errors import AdapterError

_BLOCK_LISTS = {"layers", "h", "block", "blocks", "layer"}
_NOT_TEXT = re.compile(r"vision|visual|image|audio|speech|video|qformer|projector|connector|resampler")
_FINAL_NORMS = (
    *("norm", "final_layer_norm", "final_layernorm", "ln_f", "final_norm", "layer_norm", "layernorm"),
    *("embedding_norm", "norm_f"),
    "hyper_connection_mixer",  # norm and mix of parallel streams in one
)


def module_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)}


def describe_module_lists(model: nn.Module) -> str:
    lists = {name: m for name, m in module_lists(model).items() if name.rpartition(".")[2] in _BLOCK_LISTS}
    return ", ".join(f"{name} ({len(module)})" for name, module in lists.items()) or "none"


def find_blocks(model: Any, stack: str | None = None) -> nn.ModuleList:
    """The list of decoder blocks of a transformers model, or an AdapterError that names the lists the model has.

    The rule: a ModuleList named like a list of blocks below ``get_decoder()`` (or the module at the dotted path
    ``stack``), on no vision or audio path; first the one as long as the text configuration says, then the shallowest.
    """
    try:
        decoder = model.get_decoder() if stack is None else model.get_submodule(stack)
    except AttributeError as error:
        raise AdapterError(
            f"{type(model).__name__} has no module {stack!r}, which its overrides name as the stack. Block lists: "
            f"{describe_module_lists(model)}"
        ) from error
    expected = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    candidates = [
        (len(module) != expected, name.count("."), name, module)
        for name, module in module_lists(decoder).items()
        if name.rpartition(".")[2] in _BLOCK_LISTS and not _NOT_TEXT.search(name)
    ]
    if not candidates:
        raise AdapterError(
            f"{type(model).__name__}: no list of decoder blocks found below {type(decoder).__name__}. Block lists "
            f"of the model: {describe_module_lists(model)}. Override blocks() in an adapter of your own."
        )
    return min(candidates, key=lambda candidate: candidate[:3])[3]


def find_final_norm(model: nn.Module, blocks: Sequence[nn.Module]) -> nn.Module | None:
    """The norm that follows the last block, beside the list of blocks, or None where the decoder has none."""
    for module in model.modules():
        lists = [child for child in module.children() if isinstance(child, nn.ModuleList) and len(child)]
        if any(child[-1] is blocks[-1] for child in lists):
            for name in _FINAL_NORMS:
                norm = getattr(module, name, None)
                if isinstance(norm, nn.Module):
                    return norm
    return None


def first_tensor_at(module: nn.Module, run: Callable[[], object], *, output: bool = False) -> Tensor | None:
    """What enters a module first (``output``: leaves it) while ``run`` makes a pass, which ends there; or None."""
    seen: list[Tensor] = []

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(hidden_given(args, kwargs))
        raise _Seen

    def leaving(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        seen.append(hidden_among(result))
        raise _Seen

    handle = (
        module.register_forward_hook(leaving)
        if output
        else module.register_forward_pre_hook(entering, with_kwargs=True)
    )
    try:
        with torch.no_grad():
            run()
    except _Seen:
        pass
    finally:
        handle.remove()
    return seen[0] if seen else None


def hidden_among(output: Any) -> Any:
    """The hidden state in what a module returned: itself, the first of several, or an output's last state."""
    state = getattr(output, "last_hidden_state", output)
    return state[0] if isinstance(state, tuple | list) else state


def hidden_given(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else kwargs.get("hidden_states", kwargs.get("hidden_state"))


class _Seen(BaseException):
    """Ends a pass; a BaseException so that model code does not catch it."""
