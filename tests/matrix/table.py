"""All rows, by model type."""

from __future__ import annotations

from tests.matrix.row import Row
from tests.matrix.rows import native, odd, patches, pictures, sound, timm_towers

TABLE: dict[str, Row] = {
    row.model_type: row
    for module in (pictures, patches, native, odd, sound, timm_towers)
    for row in sorted(module.ROWS, key=lambda row: row.model_type)
}
