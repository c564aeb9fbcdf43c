"""Sympy expressions of sizes as TIR expressions."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any

import sympy
from torch.utils._sympy.symbol import SymT, symbol_is_type

from fxpasses.errors import LoweringError
from fxpasses.relax import tvm_api as T

__all__ = ["SymbolTable"]


class SymbolTable:
    """One TIR variable for each symbol of a program.

    Args:
        held: conditions that every call is held to. A size that is a number by one of them is
            that number: TVM broadcasts a size of 1 only where it sees it.
    """

    def __init__(self, held: Iterable[Any] = ()) -> None:
        self._vars: dict[Any, Any] = {}
        for condition in held:
            if isinstance(condition, sympy.Eq) and condition.rhs.is_Integer:
                self.enter(condition.lhs, condition.rhs)

    def enter(self, expr: Any, symbol: Any) -> None:
        """Let *symbol* stand for *expr*, which the sizes that are known do not give."""
        self._vars[expr] = self.prim(symbol)

    def prim(self, expr: Any) -> Any:
        """The TIR expression of a sympy expression over sizes: int64, float64 or bool."""
        tirx = T.tirx
        if expr in self._vars:
            return self._vars[expr]
        if expr.is_Integer:
            return tirx.IntImm("int64", int(expr))
        if expr.is_Float or expr.is_Rational:
            return tirx.FloatImm("float64", float(expr))
        if expr.is_Boolean and expr.is_Atom and not expr.is_Symbol:
            return tirx.const(bool(expr), "bool")
        if expr.is_Symbol:
            if symbol_is_type(expr, SymT.UNBACKED_FLOAT):
                raise LoweringError(
                    f"a size depends on {expr}, a floating-point number that is read from a tensor"
                )
            self._vars[expr] = tirx.Var(str(expr), "int64")
            return self._vars[expr]
        name = type(expr).__name__
        if name == "Pow" and expr.exp.is_Integer and int(expr.exp) > 0:
            base = self.prim(expr.base)
            return reduce(lambda a, b: a * b, [base] * int(expr.exp))
        if name == "PowByNatural" and expr.args[0] == 2:
            return tirx.IntImm("int64", 1) << self.prim(expr.args[1])
        if name == "Piecewise":
            *cases, (last, _) = expr.args
            result = self.prim(last)
            for value, condition in reversed(cases):
                result = tirx.Select(self.prim(condition), self.prim(value), result)
            return result
        if name in ("CeilToInt", "FloorToInt") and (fraction := _fraction(expr.args[0])) is not None:
            numerator, denominator = (self.prim(part) for part in fraction)
            if name == "CeilToInt":
                numerator = numerator + (denominator - 1)
            return T.Analyzer().simplify(tirx.floordiv(numerator, denominator))
        if name in _UNARY:
            return _UNARY[name](self.prim(expr.args[0]))
        operands = [self.prim(arg) for arg in expr.args] if name in _OPERATORS else []
        if operands:
            # In the form that TVM gives what it infers: it compares some sizes by how they are written.
            return T.Analyzer().simplify(reduce(_OPERATORS[name], operands))
        raise LoweringError(f"the size {expr} uses {name}, which has no TIR expression")


def _fraction(expr: Any) -> tuple[Any, Any] | None:
    """Numerator and denominator of an integer divided by a small one, plus small ones.

    Python computes it in float64, which neither reaches nor passes an integer that the fraction
    does not for any size below 2**32; so it can be rounded as a fraction, as ``(n - 3) / 2 + 1`` is.
    """
    terms = expr.args if expr.is_Add else (expr,)
    quotients = [term for term in terms if type(term).__name__ == "IntTrueDiv"]
    rest = sum(term for term in terms if type(term).__name__ != "IntTrueDiv")
    if len(quotients) != 1 or not sympy.sympify(rest).is_number or float(rest) % 1 or abs(rest) > _SMALL:
        return None
    numerator, denominator = quotients[0].args
    if not denominator.is_Integer or not 0 < denominator <= _SMALL:
        return None
    return numerator + int(rest) * denominator, denominator


_SMALL = 1 << 16

_UNARY: dict[str, Any] = {
    "Not": lambda a: T.tirx.Not(a),
    "Abs": lambda a: T.tirx.max(a, -a),
    "ToFloat": lambda a: a.astype("float64"),
    "TruncToInt": lambda a: _trunc(a),
    "FloorToInt": lambda a: _trunc(a) - _one_if(_float(_trunc(a)) > a),
    "CeilToInt": lambda a: _trunc(a) + _one_if(_float(_trunc(a)) < a),
    "RoundToInt": lambda a: _round(a),
    **{
        f"OpaqueUnaryFn_{name}": lambda a, name=name: getattr(T.tirx, name)(_float(a))
        for name in ("sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan")
    },
}

_OPERATORS: dict[str, Any] = {
    "Add": lambda a, b: a + b,
    "Mul": lambda a, b: a * b,
    "FloorDiv": lambda a, b: T.tirx.floordiv(a, b),
    "CleanDiv": lambda a, b: T.tirx.floordiv(a, b),
    "Mod": lambda a, b: T.tirx.floormod(a, b),
    "PythonMod": lambda a, b: T.tirx.floormod(a, b),
    "Max": lambda a, b: T.tirx.max(a, b),
    "Min": lambda a, b: T.tirx.min(a, b),
    "FloatTrueDiv": lambda a, b: _float(a) / _float(b),
    "IntTrueDiv": lambda a, b: _float(a) / _float(b),
    "Equality": lambda a, b: T.tirx.EQ(a, b),
    "Unequality": lambda a, b: T.tirx.NE(a, b),
    "StrictLessThan": lambda a, b: T.tirx.LT(a, b),
    "StrictGreaterThan": lambda a, b: T.tirx.GT(a, b),
    "LessThan": lambda a, b: T.tirx.LE(a, b),
    "GreaterThan": lambda a, b: T.tirx.GE(a, b),
    "FloatPow": lambda a, b: T.tirx.power(_float(a), _float(b)),
    "BitwiseFn_bitwise_and": lambda a, b: a & b,
    "BitwiseFn_bitwise_or": lambda a, b: a | b,
    "BitwiseFn_bitwise_xor": lambda a, b: a ^ b,
    "And": lambda a, b: T.tirx.And(a, b),
    "Or": lambda a, b: T.tirx.Or(a, b),
}


def _float(value: Any) -> Any:
    return value.astype("float64")


# Relax has no rounding of scalars, but a cast to int64 cuts off what is behind the point.


def _trunc(value: Any) -> Any:
    # TVM's analyzer takes 1.5 times an even number for even; of the greater of it and another it knows nothing.
    return T.tirx.max(_float(value), T.tirx.FloatImm("float64", -(2.0**62))).astype("int64")


def _one_if(condition: Any) -> Any:
    return condition.astype("int64")


def _round(value: Any) -> Any:
    """The nearest integer; of two the even one, as Python has it."""
    low = _UNARY["FloorToInt"](value)
    rest = value - _float(low)
    odd = T.tirx.EQ(T.tirx.floormod(low, T.tirx.IntImm("int64", 2)), T.tirx.IntImm("int64", 1))
    return low + _one_if(
        T.tirx.Or(rest > 0.5, T.tirx.And(T.tirx.EQ(rest, T.tirx.FloatImm("float64", 0.5)), odd))
    )
