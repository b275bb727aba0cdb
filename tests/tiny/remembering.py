"""A block that remembers its first pass."""

import torch
from torch import nn


class Remembering(nn.Module):
    """A block that keeps a table of a pass, as some position encodings do."""

    def __init__(self, block):
        super().__init__()
        self.block, self.table = block, None

    def forward(self, hidden_states, *args, **kwargs):
        if self.table is None or not self.training:
            self.table = torch.ones(hidden_states.shape[-1])
        return self.block(hidden_states * self.table, *args, **kwargs)
