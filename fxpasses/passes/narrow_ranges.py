"""`narrow_ranges`: the sizes at which a program is right."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxpasses.program import Program
from fxpasses.schema import bind

__all__ = ["narrow_ranges"]

aten = torch.ops.aten


def narrow_ranges(program: Program) -> Program:
    """*program* for those sizes of its inputs at which its values have the sizes that capture found.

    Capture takes ``x[1:]`` to have one row less than x, and ``x[:1]`` to have one, also where x has none.
    """
    import sympy
    from torch.fx.experimental.symbolic_shapes import free_symbols

    inputs = {symbol for node in program.inputs for symbol in free_symbols(node.meta["val"])}
    ranges = dict(program.ranges)
    for symbol, conditions in _conditions(program).items():
        bounds = ranges.get(symbol)
        if symbol not in inputs or bounds is None or not bounds.lower.is_Integer:
            continue
        least = int(bounds.lower)
        while least < _MOST_ROWS and not all(condition(least) for condition in conditions):
            least += 1
        if int(bounds.lower) < least <= bounds.upper:
            ranges[symbol] = type(bounds)(sympy.Integer(least), bounds.upper)
    return program if ranges == dict(program.ranges) else program.replace(ranges=ranges)


_MOST_ROWS = 64


def _conditions(program: Program) -> dict[Any, list[Callable[[int], bool]]]:
    """By symbol, what must hold of its value, from the sizes that depend on it alone."""
    found: dict[Any, list[Callable[[int], bool]]] = {}
    for node in program.nodes():
        if node.target is aten.slice.Tensor:
            _add(found, _slice_sizes(node), _is_size_of_slice)
        if node.target is aten.slice_scatter.default:
            _add(found, _scattered_sizes(node), _is_size_of_slice)
        if node.target in (aten.select.int, aten.select_scatter.default):
            _add(found, _place(node), _is_inside)
        for val in pytree.tree_leaves(node.meta.get("val")):
            for size in val.shape if isinstance(val, torch.Tensor) else ():
                _add(found, [size], lambda size: size >= 0)
    return found


def _add(
    found: dict[Any, list[Callable[[int], bool]]], sizes: Sequence[Any], holds: Callable[..., bool]
) -> None:
    import sympy

    if None in sizes:
        return
    numbers = [_number_of(size) for size in sizes]
    symbols = {symbol for number in numbers for symbol in number.free_symbols}
    if len(symbols) == 1:
        (symbol,) = symbols

        def condition(value: int) -> bool:
            try:
                return holds(*(int(number.xreplace({symbol: sympy.Integer(value)})) for number in numbers))
            except ZeroDivisionError:  # no size
                return False

        found.setdefault(symbol, []).append(condition)


def _slice_sizes(node: fx.Node) -> list[Any]:
    source, *where = bind(aten.slice.Tensor, node.args, node.kwargs)[0]
    return _sizes_along(node, source, *where)


def _scattered_sizes(node: fx.Node) -> list[Any]:
    whole, source, *where = bind(aten.slice_scatter.default, node.args, node.kwargs)[0]
    return _sizes_along(source, whole, *where)


def _sizes_along(part: Any, whole: Any, dim: int, start: Any, end: Any, step: Any) -> list[Any]:
    start, end = 0 if start is None else start, sys.maxsize if end is None else end
    return [part.meta["val"].shape[dim], whole.meta["val"].shape[dim], start, end, step]


def _place(node: fx.Node) -> list[Any]:
    args = bind(node.target, node.args, node.kwargs)[0]  # type: ignore[arg-type]
    source, dim, index = args[0], *args[-2:]
    return [source.meta["val"].shape[dim], index]


def _is_inside(size: int, index: int) -> bool:
    return -size <= index < size


def _is_size_of_slice(size: int, whole: int, start: int, end: int, step: int) -> bool:
    return size == len(range(whole)[start:end:step])


def _number_of(value: Any) -> Any:
    import sympy

    if isinstance(value, fx.Node):
        value = value.meta["val"]
    return value.node.expr if isinstance(value, torch.SymInt) else sympy.Integer(value)
