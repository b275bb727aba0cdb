"""Stream ``mainflow``: the decoder's blocks run without their skip connections, inside the ordinary forward pass.

mf_0 = boundary 0, mf_(l+1) = mlp(norm(attention(norm(mf_l)))), cumulative, with the parts of block l + 1. What else the
parts are given (attention mask, positions, ...) is what the block itself has just given them, so the chain sees the
same mask and the same positions as the residual stream does.

Such a chain exists only for blocks of the usual pre-norm form: h + attention(norm(h)), then + mlp(norm(.)). The names
of a block's parts suggest the form and every pass proves it: what enters and leaves each part is noted while the block
runs, and must add up to what the block returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from microscope_bench.adapters.base import PADDING, Adapter, Batch
from microscope_bench.capture.hooks import hidden_in, hidden_out, run_pass
from microscope_bench.errors import MainflowError

OnState = Callable[[int, Tensor], None]

_FORMS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("input_layernorm", "self_attn"), ("post_attention_layernorm", "mlp")),  # Llama, Mistral, Qwen, Gemma 1, Phi-3
    (("input_layernorm", "attention"), ("post_attention_layernorm", "mlp")),  # GPT-NeoX without parallel residual
    (("ln_1", "attn"), ("ln_2", "mlp")),  # GPT-2
    (("self_attn_layer_norm", "self_attn"), ("final_layer_norm", "fc1", "activation_fn", "fc2")),  # OPT
)
"""Names of a block's parts in the order they run: one tuple for each of the two branches added to the stream."""
_CACHES = ("past_key_values", "past_key_value", "layer_past", "cache_params")


@dataclass(frozen=True)
class Mainflow:
    """Whether a model has the chain that stream ``mainflow`` is made of, or why it has none, in one line."""

    missing_because: str | None = None

    @property
    def exists(self) -> bool:
        return self.missing_because is None


@dataclass(frozen=True)
class _Call:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def entered(self) -> Tensor:
        return hidden_in(self.args, self.kwargs)

    @property
    def left(self) -> Tensor:
        return hidden_out(self.output)

    def repeated(self, module: nn.Module, hidden: Tensor) -> Tensor:
        hidden = hidden.to(self.entered.device)
        if self.args:
            return hidden_out(module(hidden, *self.args[1:], **self.kwargs))
        return hidden_out(module(**{**self.kwargs, "hidden_states": hidden}))


@dataclass
class _Block:
    """A decoder block with its parts by name, branch by branch, and their calls in the pass under way."""

    title: str
    branches: tuple[dict[str, nn.Module], ...]
    calls: dict[nn.Module, list[_Call]] = field(default_factory=dict)

    @classmethod
    def read(cls, block: nn.Module, number: int) -> _Block:
        title = f"block {number} ({type(block).__name__})"
        parts = {name: child for name, child in block.named_children() if child is not None}
        for form in _FORMS:
            names = {name for branch in form for name in branch}
            if not names <= parts.keys():
                continue
            others = [n for n, part in parts.items() if n not in names and next(part.parameters(), None) is not None]
            if others:
                raise MainflowError(f"{title} has parts beside norm, attention, norm and MLP: {', '.join(others)}")
            return cls(title, tuple({name: parts[name] for name in branch} for branch in form))
        raise MainflowError(
            f"{title} is not made of norm, attention, norm and MLP under the usual names, but of {', '.join(parts)}"
        )

    @property
    def parts(self) -> list[nn.Module]:
        return [part for branch in self.branches for part in branch.values()]

    def verify(self, entering: Tensor, leaving: Tensor) -> None:
        """Raises unless the calls add up to h + attention(norm(h)), then + mlp(norm(.)), within rounding."""
        stream, called = entering, "the block's input"
        for branch in self.branches:
            flow = stream
            for name, part in branch.items():
                calls = self.calls.get(part, [])
                if len(calls) != 1:
                    raise MainflowError(f"in {self.title}, {name} ran {len(calls)} times")
                call = calls[0]
                if any(call.kwargs.get(cache) is not None for cache in _CACHES):
                    raise MainflowError(f"in {self.title}, {name} was given a KV cache")
                if not _same(call.entered, flow):
                    raise MainflowError(f"in {self.title}, what enters {name} is not {called}")
                flow, called = call.left, f"what leaves {name}"
            if flow.numel() != stream.numel():
                raise MainflowError(f"in {self.title}, {called} has another shape than the block's input")
            stream = stream.to(flow.device) + flow.reshape(stream.shape)
            called = f"the stream with {called} added to it"
        if not _same(leaving, stream):
            raise MainflowError(f"what leaves {self.title} is not {called}")

    def without_skips(self, state: Tensor) -> Tensor:
        for part in self.parts:
            state = self.calls[part][0].repeated(part, state)
        return state


def _same(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are equal within rounding in their dtype; shapes may be folded, not-a-numbers are equal."""
    if found.dtype != expected.dtype or found.numel() != expected.numel():
        return False
    expected = expected.to(found.device).reshape(found.shape)
    return torch.allclose(found, expected, rtol=2 * torch.finfo(found.dtype).eps, atol=0.0, equal_nan=True)


class _Chain:
    """The skip-free chain of one forward pass; ``enter``, ``note`` and ``leave`` are the hooks."""

    def __init__(self, blocks: Sequence[nn.Module], padding: Tensor, on_state: OnState) -> None:
        self.blocks = [_Block.read(block, number) for number, block in enumerate(blocks, start=1)]
        self.padding = padding
        self.on_state = on_state
        self.running: _Block | None = None
        self.state: Tensor | None = None
        self.stream: Tensor | None = None

    def enter(self, layer: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        block, entering = self.blocks[layer], hidden_in(args, kwargs)
        if self.stream is None:
            self.state = entering
        elif not _same(entering, self.stream):
            raise MainflowError(f"what enters {block.title} is not what left the block before it")
        self.stream, self.running = entering, block

    def note(self, part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.running is not None:
            self.running.calls.setdefault(part, []).append(_Call(args, kwargs, output))

    def leave(self, layer: int, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        block, self.running = self.blocks[layer], None  # what the chain itself calls is not noted
        leaving = hidden_out(output)
        assert self.stream is not None and self.state is not None  # a block is left after it was entered
        block.verify(self.stream, leaving)
        # attention gives padding the weight 0, and 0 times an overflow there would be not-a-number everywhere
        state = self.state.masked_fill(self.padding.to(self.state.device), 0.0)
        self.state = block.without_skips(state).reshape(leaving.shape)
        self.stream = leaving
        block.calls.clear()
        self.on_state(layer + 1, self.state)


@contextmanager
def mainflow_hooks(blocks: Sequence[nn.Module], labels: np.ndarray, on_state: OnState) -> Iterator[None]:
    """Calls ``on_state(l, mf_l)`` for l = 1..L while the blocks run inside this context; mf_0 is boundary 0.

    mf_l, (B, S, d) in the model's dtype, comes after boundary l − 1 and before boundary l. By ``labels``, int8 (B, S),
    padding is told, on which no state depends. A block that is not of the usual pre-norm form, which may show when it
    runs, raises a MainflowError.
    """
    chain = _Chain(blocks, torch.from_numpy(labels == PADDING).unsqueeze(-1), on_state)
    with ExitStack() as hooks:
        for part in {part: None for block in chain.blocks for part in block.parts}:
            hooks.enter_context(part.register_forward_hook(chain.note, with_kwargs=True))
        for layer, block in enumerate(blocks):
            hooks.enter_context(block.register_forward_pre_hook(partial(chain.enter, layer), with_kwargs=True))
            hooks.enter_context(block.register_forward_hook(partial(chain.leave, layer)))
        yield


def find_mainflow(adapter: Adapter, batch: Batch) -> Mainflow:
    """Whether the model has a main flow, as one forward pass shows."""

    def check_labels(layer: int, hidden: Tensor) -> None:
        if layer == 0:
            adapter.check_labels(batch, hidden)

    hooks = partial(mainflow_hooks, adapter.blocks(), batch.labels, lambda layer, state: None)
    try:
        run_pass(adapter, batch, check_labels, logits=False, beside=hooks)
    except MainflowError as error:
        return Mainflow(error.reason)
    return Mainflow()
