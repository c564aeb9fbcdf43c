"""The table of our own decompositions: ``(g, *schema arguments) -> value``.

They stand in the place of torch's where torch's form depends on strides (matmul,
linear), where a canonical spelling exists (views, splits, casts), and for the
operators that every model calls many times. A row may return None to leave a
call to torch's decomposition. See `fxpasses.operator_table`.
"""

from __future__ import annotations

from fxpasses.operator_table import OperatorTable

__all__ = ["decomposition", "decompositions"]

_TABLE = OperatorTable("decomposition", "fxpasses.passes.decompositions")
decomposition = _TABLE.row
decompositions = _TABLE.rows
