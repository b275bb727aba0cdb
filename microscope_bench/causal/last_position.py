"""Edges to the last position, all of their windows in one pass.

Nothing reads the last position, so such an edge changes its state alone. A pass carries copies of it behind the
sequence, one for each edge and window: each reads what the last position reads, itself in its place, and nobody reads
it. That is a pass and a few positions instead of a pass for each window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from microscope_bench.adapters.decoder import hidden_among
from microscope_bench.causal.block_calls import BlockCall, readable
from microscope_bench.errors import AdapterError


class Copies:
    """Copies of the last position in one pass; ``cut``, bool (m, B, S): the keys that each cannot read in its window.

    ``states``, (B, m, d), are those that leave the last block that has run.
    """

    def __init__(self, real: Tensor, cut: Tensor, windows: Sequence[range]) -> None:
        self.states: Tensor | None = None
        self._real, self._cut, self._windows = real, cut, windows
        n, length = real.shape
        self._rows = torch.arange(n)
        self._last = length - 1 - real.flip(1).int().argmax(dim=1)
        self._left = torch.empty(0)
        self._places = torch.cat(
            [torch.arange(length).expand(n, length), self._last[:, None].expand(n, len(windows))], dim=1
        )

    def run(self, number: int, call: BlockCall, forward: Callable[..., Any]) -> Any:
        """What block ``number`` returns, the copies taken along; ``call`` has its mask spelt out."""
        hidden, length = call.hidden, self._real.shape[1]
        if hidden.dim() != 3:
            raise TypeError("parallel streams")
        own = hidden[self._rows, self._last][:, None]
        if self.states is None:
            states = own.expand(-1, len(self._windows), -1)
        elif torch.equal(own, self._left):
            states = self.states
        else:
            raise TypeError("the model changes the last position between two blocks")
        call = call.of_mask(self._mask(number, call)).of_hidden(torch.cat([hidden, states], dim=1))
        kwargs = {name: self._extended(value) for name, value in call.kwargs.items()}
        output = replace(call, args=tuple(map(self._extended, call.args)), kwargs=kwargs).run(forward)
        left = hidden_among(output)
        self.states, self._left = left[:, length:], left[self._rows, self._last][:, None]
        left = left[:, :length]
        return (left, *output[1:]) if isinstance(output, tuple | list) else left

    def _mask(self, number: int, call: BlockCall) -> Tensor:
        """The mask (B, h, S + m, S + m) of a block."""
        mask, m = call.mask, len(self._windows)
        lowest = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        n, heads, length, _ = mask.shape
        rows, last = self._rows.to(mask.device), self._last.to(mask.device)
        of_last = mask[rows, :, last]  # (B, h, S)
        others = torch.arange(length, device=mask.device) != last[:, None]
        if (readable(mask[rows, :, :, last]) & (others & self._real.to(mask.device))[:, None]).any():
            raise TypeError("other positions read the last one")
        copies = of_last[:, :, None].expand(n, heads, m, length).clone()
        within = torch.tensor([number in window for window in self._windows])
        cut = (self._cut & within[:, None, None]).permute(1, 0, 2).to(mask.device)  # (B, m, S)
        copies.masked_fill_(cut[:, None], lowest)
        itself = copies[rows, :, :, last]  # (B, h, m)
        copies[rows, :, :, last] = lowest
        if not (readable(copies).any(dim=-1) | readable(itself)).all():
            raise AdapterError(
                f"an edge to the last position leaves it nothing to read in {call.title}; cut another edge"
            )
        beside = mask.new_full((n, heads, m, m), lowest)
        beside.diagonal(dim1=-2, dim2=-1).copy_(itself)
        above = torch.cat([mask, mask.new_full((n, heads, length, m), lowest)], dim=-1)
        return torch.cat([above, torch.cat([copies, beside], dim=-1)], dim=-2)

    def _extended(self, value: Any) -> Any:
        """A block's argument with the last position's entries behind those of the sequence; what has none, as it is."""
        if isinstance(value, tuple | list):
            return type(value)(self._extended(one) for one in value)
        n, length = self._real.shape
        if not isinstance(value, Tensor):
            return value
        sizes = value.shape
        axis = next((a for a in range(1, value.dim()) if sizes[a] == length and sizes[a - 1] in (1, n)), None)
        if axis is None:
            return value
        shape = list(sizes)
        shape[axis - 1] = n
        by_row = value.expand(shape).movedim((axis - 1, axis), (0, 1))
        places = self._places.to(value.device)
        return by_row[torch.arange(n, device=value.device)[:, None], places].movedim((0, 1), (axis - 1, axis))
