"""What the properties share."""

from __future__ import annotations

from fxpasses.testing.rows import BINARY, INDEXING, MOVEMENT, POINTWISE, SELECTION, SORTING, VIEW

WITHOUT_SUMS = [*POINTWISE, *BINARY, *SELECTION, *VIEW, *MOVEMENT, *INDEXING, *SORTING]
"""Rows for special values. Sums of infinities, and of numbers next to them, come out by the
order of summation, in PyTorch too."""
