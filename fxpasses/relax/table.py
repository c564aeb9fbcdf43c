"""The lowering table: which function turns a call of which operator into Relax.

The first parameter of a row is the builder `b`. Tensors arrive as Relax
variables, symbolic sizes as TIR expressions, all else as Python values, always
in full form. See `fxpasses.operator_table`.

Reading the table does not import TVM: rows reach it through
`fxpasses.relax.tvm_api` when they run.
"""

from __future__ import annotations

from fxpasses.operator_table import OperatorTable

__all__ = ["lowering", "lowerings"]

_TABLE = OperatorTable("lowering", "fxpasses.relax.ops")
lowering = _TABLE.row
lowerings = _TABLE.rows
