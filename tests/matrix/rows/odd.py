"""Cross-attention, encoder-decoders, prefixes, masks: what fits in no other table."""

from __future__ import annotations

from tests.matrix.media import each, ones, pictures
from tests.matrix.row import Row

ROWS = [
    Row("git", {"image": pictures(1)}),
]
