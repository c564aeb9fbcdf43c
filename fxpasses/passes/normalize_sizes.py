"""`normalize_sizes`: every symbolic size computed in one way from the inputs' shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from fxpasses.program import Program
from fxpasses.schema import SYMBOLIC_BUILTINS

__all__ = ["normalize_sizes"]


def normalize_sizes(program: Program) -> Program:
    """Recompute each symbolic argument from its expression.

    However a graph arrived at a size (products of sizes, sizes of
    intermediate values), it is read by `aten.sym_size.int` from the first
    input that has the symbol, followed by plain arithmetic. Sizes that turn
    out to be constant become ints. Torch simplifies expressions as if no size
    were 0: one that is wrong there leaves 0 out of the ranges.
    """
    if not any(_is_symbolic(node) for node in program.nodes()):
        return program
    g = _without_wrong_sizes(program).edit()

    def canonical(arg: Any) -> Any:
        if not isinstance(arg, fx.Node) or arg.op != "call_function":
            return arg
        val = arg.meta.get("val")
        if isinstance(val, torch.SymInt):
            return g._materialise(val)
        return val if isinstance(val, int) and not isinstance(val, bool) else arg

    for node in g.nodes():
        if node._erased or not any(_is_symbolic(arg) for arg in node.all_input_nodes):
            continue
        if _is_symbolic(node) and isinstance(node.meta["val"], torch.SymInt | int):
            continue
        with g.at(node):
            node.args, node.kwargs = map_aggregate((node.args, node.kwargs), canonical)  # type: ignore[misc]
    return g.finish()


def _without_wrong_sizes(program: Program) -> Program:
    """*program* with no 0 in the range of a symbol for which the expression of a value is not the value."""
    from torch.utils._sympy.value_ranges import ValueRanges

    empty = {symbol for symbol, bounds in program.ranges.items() if bounds.lower <= 0 < bounds.upper}
    wrong = {
        symbol
        for node in program.nodes()
        if _is_symbolic(node) and node.target in SYMBOLIC_BUILTINS
        for symbol in _symbols_of(node) & empty
        if not _is_right(node, symbol)
    }
    return program.replace(
        ranges={s: ValueRanges(1, b.upper) if s in wrong else b for s, b in program.ranges.items()}
    )


def _symbols_of(node: fx.Node) -> set[Any]:
    """The symbols of sizes of inputs in the arguments of *node*."""
    found: set[Any] = set()

    def add(arg: Any) -> None:
        value = _value(arg)
        expr = _expression(value)
        if expr is not None:
            found.update(expr.free_symbols & value.node.shape_env.backed_var_to_val.keys())

    map_aggregate(node.args, add)
    return found


def _is_right(node: fx.Node, empty: Any) -> bool:
    """Whether the expression of *node* is the value that it computes where the size *empty* is 0."""
    import sympy

    def at(value: Any) -> Any:
        expr = _expression(value)
        if expr is None:
            return value
        known = value.node.shape_env.backed_var_to_val
        sizes = {symbol: sympy.Integer(known.get(symbol, 5)) for symbol in expr.free_symbols}
        number = expr.xreplace({**sizes, empty: sympy.Integer(0)})
        return int(number) if number.is_Integer else bool(number) if number.is_Boolean else float(number)

    try:
        value = node.target(*map_aggregate(node.args, lambda arg: at(_value(arg))))  # type: ignore[operator]
        return value == at(node.meta["val"])
    except (ArithmeticError, TypeError, ValueError):
        return True  # there is no such size


def _value(arg: Any) -> Any:
    return arg.meta.get("val") if isinstance(arg, fx.Node) else arg


def _expression(value: Any) -> Any:
    return value.node.expr if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool) else None


def _is_symbolic(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(
        node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool | int | float
    )
