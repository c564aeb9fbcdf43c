"""Evaluate expressions of sizes that were written as text, such as ``"2*s0"``.

The text is what sympy prints for a symbolic dim. It is checked against a short
list of operators and functions, compiled once, and evaluated on Python ints:
no sympy at run time, and no text from a file is ever run as code.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from functools import cache
from types import CodeType
from typing import Any

from fxpasses.errors import ArtifactError

__all__ = ["evaluate", "free_symbols", "holds", "readable", "solve"]


def _clean_div(a: int, b: int) -> int:
    return a // b


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Abs": abs,
    "And": lambda *xs: all(xs),
    "CeilToInt": math.ceil,
    "CleanDiv": _clean_div,
    "Eq": lambda a, b: a == b,
    "FloatPow": lambda a, b: float(a) ** float(b),
    "FloatTrueDiv": lambda a, b: a / b,
    "FloorDiv": lambda a, b: a // b,
    "FloorToInt": math.floor,
    "IntTrueDiv": lambda a, b: a / b,
    "Max": max,
    "Min": min,
    "Mod": lambda a, b: a % b,
    "Ne": lambda a, b: a != b,
    "Not": lambda a: not a,
    "OpaqueUnaryFn_sqrt": math.sqrt,
    "Or": lambda *xs: any(xs),
    "Piecewise": lambda *cases: next(value for value, condition in cases if condition),
    "PowByNatural": lambda a, b: a**b,
    "PythonMod": lambda a, b: a % b,
    "RoundToInt": round,
    "ToFloat": float,
    "TruncToInt": math.trunc,
    "Where": lambda c, a, b: a if c else b,
    "bool": bool,
    "ceiling": math.ceil,
    "float": float,
    "floor": math.floor,
    "sqrt": math.sqrt,
}

_GLOBALS = {"__builtins__": {}, **_FUNCTIONS}

_NODES = (
    ast.Expression,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.Call,
    ast.Tuple,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
)


@cache
def _compiled(expression: str) -> tuple[CodeType, frozenset[str]]:
    try:
        tree = ast.parse(expression, mode="eval")
    except SyntaxError as error:
        raise ArtifactError(f"{expression!r} is no expression of sizes: {error.msg}") from error
    names = set()
    functions = set()
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise ArtifactError(f"{expression!r} is no expression of sizes: it has a {type(node).__name__}")
        if isinstance(node, ast.Constant) and not isinstance(node.value, int | float):
            raise ArtifactError(f"{expression!r} is no expression of sizes: it has {node.value!r}")
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS or node.keywords:
                raise ArtifactError(f"{expression!r} calls a function that sizes do not have")
            functions.add(id(node.func))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) not in functions and node.id not in ("True", "False"):
            names.add(node.id)
    return compile(tree, "<size>", "eval"), frozenset(names)


def free_symbols(expression: str) -> frozenset[str]:
    """The symbols in *expression*."""
    return _compiled(expression)[1]


def evaluate(expression: str, symbols: Mapping[str, int]) -> Any:
    """The number (int, float or bool) that *expression* has with *symbols*; None if one is unknown."""
    code, names = _compiled(expression)
    if not names <= symbols.keys():
        return None
    return eval(code, _GLOBALS, dict(symbols))


def holds(condition: str, symbols: Mapping[str, int]) -> bool:
    """Whether *condition* holds; one that divides by a size of 0 does not."""
    try:
        return bool(evaluate(condition, symbols))
    except ZeroDivisionError:
        return False


def solve(expression: str, value: int, symbols: Mapping[str, int]) -> tuple[str, int | None] | None:
    """The one unknown of an affine *expression* such that it equals *value*.

    Returns:
        The symbol and its value (None where no integer fits), or None if the
        expression has no unknown, several, or is not affine in it.
    """
    unknown = sorted(free_symbols(expression) - symbols.keys())
    if len(unknown) != 1:
        return None
    (name,) = unknown
    at = [evaluate(expression, {**symbols, name: x}) for x in (0, 1, 2)]
    slope = at[1] - at[0]
    if slope == 0 or at[2] - at[1] != slope:
        return None
    quotient, rest = divmod(value - at[0], slope)
    return name, int(quotient) if rest == 0 else None


def readable(expression: str, names: Mapping[str, str]) -> str:
    """*expression* for a message: with *names* for its symbols, and operators as Python spells them."""
    return ast.unparse(_Readable(names).visit(ast.parse(expression, mode="eval")))


class _Readable(ast.NodeTransformer):
    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name(self._names.get(node.id, node.id))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if len(node.args) == 2 and name in _COMPARISONS:
            return ast.Compare(node.args[0], [_COMPARISONS[name]()], [node.args[1]])
        if len(node.args) == 2 and name in _OPERATORS:
            return ast.BinOp(node.args[0], _OPERATORS[name](), node.args[1])
        return node


_COMPARISONS: dict[str, type[ast.cmpop]] = {"Eq": ast.Eq, "Ne": ast.NotEq}
_OPERATORS: dict[str, type[ast.operator]] = {
    "CleanDiv": ast.FloorDiv,
    "FloorDiv": ast.FloorDiv,
    "Mod": ast.Mod,
    "PythonMod": ast.Mod,
}
