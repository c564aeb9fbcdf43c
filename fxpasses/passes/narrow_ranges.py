"""`narrow_ranges`: the sizes at which a program is right."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxpasses.guards import assert_conditions, points, test
from fxpasses.program import Program
from fxpasses.schema import OF_ELEMENTS, bind
from fxpasses.signature import determined_by

__all__ = ["narrow_ranges"]

aten = torch.ops.aten


def narrow_ranges(program: Program) -> Program:
    """*program* for those sizes of its inputs at which its values have the sizes that capture found.

    Capture takes ``x[1:]`` to have one row less than x, and ``x[:1]`` to have one, also where x has none, and
    ``x[len(y)]`` to be a row of x. What the range of one size cannot say is asserted.
    """
    import sympy

    if not program.ranges:
        return program
    numbers = [number for node in program.inputs for number in (*_sizes(node), node.meta.get("val"))]
    exprs = [number.node.expr for number in numbers if isinstance(number, torch.SymInt)]
    inputs = dict.fromkeys(symbol for expr in exprs for symbol in determined_by(expr))
    # Torch's symbols are positive, and what only a size of 0 breaks is true of them.
    plain = {symbol: sympy.Symbol(symbol.name, integer=True) for symbol in inputs if symbol in program.ranges}
    ranges = {plain[symbol]: program.ranges[symbol] for symbol in plain}
    torchs = {plain[symbol]: symbol for symbol in plain}
    conditions = [
        condition
        for condition in _conditions(program, plain)
        if condition.free_symbols
        and condition.free_symbols <= ranges.keys()
        and not _is_plain(condition, ranges)
    ]
    for symbol, bounds in ranges.items():
        ranges[symbol] = _narrowed(symbol, bounds, [c for c in conditions if c.free_symbols == {symbol}])
    for condition in conditions:
        ranges = _without_zero(condition, condition.xreplace(torchs), ranges)
    program = program.replace(
        ranges={**program.ranges, **{torchs[s]: bounds for s, bounds in ranges.items()}}
    )
    return assert_conditions(program, [condition.xreplace(torchs) for condition in conditions])


_MOST_ROWS = 64


def _narrowed(symbol: Any, bounds: Any, conditions: list[Any]) -> Any:
    """*bounds* of *symbol* without the first sizes, for which *conditions* of it alone do not hold."""
    from torch.utils._sympy.value_ranges import ValueRanges

    if not conditions or not bounds.lower.is_Integer:
        return bounds
    tests, least = [test(condition) for condition in conditions], int(bounds.lower)
    while least < _MOST_ROWS and not all(holds({symbol: least}) for holds in tests):
        least += 1
    return ValueRanges(least, bounds.upper) if least <= bounds.upper else bounds


def _without_zero(condition: Any, said: Any, ranges: dict[Any, Any]) -> dict[Any, Any]:
    """*ranges* in which *condition* does not fail where *said*, which is the same of positive sizes, holds."""
    from torch.utils._sympy.value_ranges import ValueRanges

    symbols = [symbol for symbol in ranges if symbol in condition.free_symbols]
    holds, is_said = test(condition), test(said)
    for sizes in points(symbols, ranges):
        zero = next((symbol for symbol in symbols if sizes[symbol] == 0 == ranges[symbol].lower), None)
        if zero is not None and not holds(sizes) and is_said(sizes):
            ranges = {**ranges, zero: ValueRanges(1, ranges[zero].upper)}
    return ranges


def _is_plain(condition: Any, ranges: dict[Any, Any]) -> bool:
    """Whether *condition* follows from the bounds of each symbol."""
    import sympy
    from torch.utils._sympy.value_ranges import bound_sympy

    if not isinstance(condition, sympy.Ge):
        return False
    return bool(bound_sympy(condition.lhs - condition.rhs, ranges).lower >= 0)


def _conditions(program: Program, plain: dict[Any, Any]) -> list[Any]:
    """What must hold of the sizes, with the symbols *plain* in the place of torch's."""
    import sympy

    def number(value: Any) -> Any:
        if isinstance(value, fx.Node):
            value = value.meta["val"]
        return value.node.expr.xreplace(plain) if isinstance(value, torch.SymInt) else sympy.Integer(value)

    found: list[Any] = []
    for node in program.nodes():
        found += [sympy.Ge(number(size), 0) for size in _sizes(node)]
        if node.target in _OF_CALLS:
            arguments = bind(node.target, node.args, node.kwargs)[0]  # type: ignore[arg-type]
            found += _OF_CALLS[node.target](number, node, *arguments)
    return list(dict.fromkeys(found))


def _slice(
    number: Any, part: fx.Node, whole: fx.Node, dim: int, start: Any, end: Any, step: Any
) -> Iterator[Any]:
    """*part* has the size of ``whole[start:end:step]``."""
    import sympy
    from torch.utils._sympy.functions import FloorDiv, Max

    size, length, step = number(_size(part, dim)), number(_size(whole, dim)), number(step)
    starts = _places(number(0 if start is None else start), length)
    ends = _places(number(sys.maxsize if end is None else end), length)
    for (starts_there, first), (ends_there, last) in itertools.product(starts, ends):
        count = Max(0, FloorDiv(last - first + step - 1, step))
        yield sympy.Or(sympy.Not(starts_there), sympy.Not(ends_there), sympy.Eq(size, count))


def _places(place: Any, length: Any) -> list[tuple[Any, Any]]:
    """What may hold of *place*, and where it is then: a negative one counts from the end."""
    from torch.utils._sympy.functions import Max, Min

    cases = ((place >= 0, place), (place < 0, place + length))
    return [(sign, Min(length, Max(0, at))) for sign, at in cases if sign != False]  # noqa: E712, of sympy


def _slice_scatter(number: Any, node: fx.Node, whole: fx.Node, part: fx.Node, *where: Any) -> Iterator[Any]:
    return _slice(number, part, whole, *where)


def _select(number: Any, node: fx.Node, whole: fx.Node, *more: Any) -> Iterator[Any]:
    """The place is inside; one that is told by its distance from the end does not count from there again."""
    import sympy

    dim, index = more[-2:]
    length, place = number(_size(whole, dim)), number(index)
    from_end = sympy.expand(place - length).is_Integer
    yield from (place + (0 if from_end else length) >= 0, length - 1 - place >= 0)


def _convolution(number: Any, node: fx.Node, image: fx.Node, weight: fx.Node, *more: Any) -> Iterator[Any]:
    """Windows and what comes out have pixels."""
    yield from (number(size) >= 1 for of in (weight, node) for size in _sizes(of)[2:])


def _elements(number: Any, node: fx.Node, whole: fx.Node, *more: Any) -> Iterator[Any]:
    """What is reduced has elements."""
    sizes, dim = _sizes(whole) or [1], OF_ELEMENTS[node.target]
    yield from (number(size) >= 1 for size in (sizes if dim is None else [sizes[more[dim - 1]]]))


_OF_CALLS: dict[Any, Callable[..., Iterator[Any]]] = {
    aten.slice.Tensor: _slice,
    aten.slice_scatter.default: _slice_scatter,
    aten.select.int: _select,
    aten.select_scatter.default: _select,
    aten.convolution.default: _convolution,
    **dict.fromkeys(OF_ELEMENTS, _elements),
}
"""By operator, what must hold of the sizes of a call."""


def _size(node: fx.Node, dim: int) -> Any:
    return node.meta["val"].shape[dim]


def _sizes(node: fx.Node) -> list[Any]:
    vals = pytree.tree_leaves(node.meta.get("val"))
    return [size for val in vals if isinstance(val, torch.Tensor) for size in val.shape]
