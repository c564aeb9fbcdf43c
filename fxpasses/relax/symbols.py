"""Sympy expressions of sizes as TIR expressions."""

from __future__ import annotations

from functools import reduce
from typing import Any

from fxpasses.errors import LoweringError
from fxpasses.relax import tvm_api as T

__all__ = ["SymbolTable"]


class SymbolTable:
    """One TIR variable for each symbol of a program."""

    def __init__(self) -> None:
        self._vars: dict[Any, Any] = {}

    def prim(self, expr: Any) -> Any:
        """The int64 TIR expression of a sympy expression over sizes."""
        tirx = T.tirx
        if expr.is_Integer:
            return tirx.IntImm("int64", int(expr))
        if expr.is_Symbol:
            if expr not in self._vars:
                self._vars[expr] = tirx.Var(str(expr), "int64")
            return self._vars[expr]
        name = type(expr).__name__
        if name == "Pow" and expr.exp.is_Integer and int(expr.exp) > 0:
            base = self.prim(expr.base)
            return reduce(lambda a, b: a * b, [base] * int(expr.exp))
        operands = [self.prim(arg) for arg in expr.args] if name in _OPERATORS else []
        if operands:
            return reduce(_OPERATORS[name], operands)
        raise LoweringError(f"the size {expr} uses {name}, which has no TIR expression")


_OPERATORS: dict[str, Any] = {
    "Add": lambda a, b: a + b,
    "Mul": lambda a, b: a * b,
    "FloorDiv": lambda a, b: T.tirx.floordiv(a, b),
    "CleanDiv": lambda a, b: T.tirx.floordiv(a, b),
    "Mod": lambda a, b: T.tirx.floormod(a, b),
    "PythonMod": lambda a, b: T.tirx.floormod(a, b),
    "Max": lambda a, b: T.tirx.max(a, b),
    "Min": lambda a, b: T.tirx.min(a, b),
}
