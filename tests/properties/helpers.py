"""What the properties share."""

from __future__ import annotations

import torch

from fxpasses.testing.drawers import Row
from fxpasses.testing.rows import BINARY, INDEXING, MOVEMENT, POINTWISE, SELECTION, SORTING, VIEW

WITHOUT_SUMS = [
    row
    for row in (*POINTWISE, *BINARY, *SELECTION, *VIEW, *MOVEMENT, *INDEXING, *SORTING)
    if not (isinstance(row, Row) and row.op is torch.ops.aten.topk.default)
]
"""Rows for special values. Sums of infinities, and of numbers next to them, come out by the
order of summation, in PyTorch too; and of equal values `topk` may name any."""
