"""`with_typical_sizes`: other sizes than those of the example for torch to decide by, where these are special.

A size that varies carries its value in the example. Where torch's code asks about
a size, it goes the way of that value: if it is 1, also one that is computed, such as
half of 2, the tensor is taken for one that is broadcast. What comes out of it is of one
row, be there as many as there may.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from fxpasses.guards import test
from fxpasses.signature import asserted_sizes
from fxpasses.sizes import evaluate

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from fxpasses.program import Program

__all__ = ["example_sizes", "with_typical_sizes"]

Point = Mapping[Any, int]
"""A size for each symbol."""


def with_typical_sizes(program: Program) -> Program:
    """*program* for an example in which, as far as its ranges and conditions allow, no size is 0 or 1."""
    if not any(size.node.hint in (0, 1) for size in _dims(program)):
        return program
    example = example_sizes(program)
    sizes = _larger(program, example)
    if sizes == example:
        return program
    mode = _mode(program.fake_mode, sizes)
    g = program.edit()
    with torch.no_grad(), mode:
        for node in g.nodes():
            if "val" in node.meta:
                node.meta["val"] = pytree.tree_map(lambda leaf: _moved(leaf, mode), node.meta["val"])
    return g.finish()


def example_sizes(program: Program) -> dict[Any, int]:
    """The symbols in the shapes of *program*, with their sizes in the example."""
    found: dict[Any, int] = {}
    for size in _dims(program):
        known = size.node.shape_env.backed_var_to_val
        for symbol in size.node.expr.free_symbols & known.keys() & program.ranges.keys():
            found.setdefault(symbol, int(known[symbol]))
    return dict(sorted(found.items(), key=lambda item: str(item[0])))


def _dims(program: Program) -> Iterator[torch.SymInt]:
    """The symbolic sizes of the tensors of *program*."""
    for node in program.nodes():
        for val in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(val, torch.Tensor):
                yield from (size for size in val.shape if isinstance(size, torch.SymInt))


def _larger(program: Program, example: Point) -> dict[Any, int]:
    """Sizes within the ranges and conditions of *program* for which few of its dims, or none, are 0 or 1."""
    import sympy

    conditions = [test(condition) for condition in asserted_sizes(program).values()]
    dims = dict.fromkeys(size.node.expr for size in _dims(program))
    texts = [sympy.sstr(expr) for expr in dims if expr.free_symbols <= example.keys()]

    def special(point: Point) -> float:
        ranges = program.ranges
        within = all(ranges[symbol].lower <= size <= ranges[symbol].upper for symbol, size in point.items())
        if not within or not all(holds(dict(point)) for holds in conditions):
            return math.inf
        by_name = {str(symbol): size for symbol, size in point.items()}
        return sum(evaluate(text, by_name) < 2 for text in texts)

    point, least = dict(example), special(example)
    for symbols in (*([symbol] for symbol in example), list(example)):  # each alone, then all
        for tried in _candidates(point, symbols):
            count = special(tried) if least else math.inf
            if count < least:
                point, least = tried, count
    return point


def _candidates(point: Point, symbols: list[Any]) -> Iterator[dict[Any, int]]:
    """*point* with larger sizes for *symbols*; multiples first, and sizes that no other symbol has."""
    others = {size for symbol, size in point.items() if symbol not in symbols}
    grown = [{symbol: by * max(point[symbol], 1) for symbol in symbols} for by in range(2, 17)]
    grown += [{symbol: point[symbol] + by for symbol in symbols} for by in range(1, 17)]
    grown.sort(key=lambda sizes: bool(others & set(sizes.values())))
    yield from ({**point, **sizes} for sizes in grown)


# -- metadata with other sizes --------------------------------------------------------------


def _mode(mode: FakeTensorMode, sizes: Point) -> FakeTensorMode:
    """A mode that knows what *mode* knows of sizes, which have the values *sizes*."""
    import sympy
    from torch._subclasses.fake_tensor import FakeTensorMode

    env = copy.copy(mode.shape_env)
    for name, known in vars(env).items():
        if isinstance(known, dict | list | set):
            setattr(env, name, copy.copy(known))
    env.backed_var_to_val |= {symbol: sympy.Integer(size) for symbol, size in sizes.items()}
    new = FakeTensorMode(
        allow_fallback_kernels=mode.allow_fallback_kernels,
        allow_non_fake_inputs=mode.allow_non_fake_inputs,
        shape_env=env,
        static_shapes=mode.static_shapes,
    )
    new.allow_scalar_outputs = mode.allow_scalar_outputs
    return new


def _moved(value: Any, mode: FakeTensorMode) -> Any:
    """A fake tensor, or a number, like *value* of another mode."""
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return _number(value, mode)
    if not isinstance(value, torch.Tensor):
        return value
    shape, strides = ([_number(size, mode) for size in of] for of in (value.shape, value.stride()))
    offset = _number(value.storage_offset(), mode)
    length = offset + sum(abs(size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    result = torch.empty(length, dtype=value.dtype, device=value.device).as_strided(shape, strides, offset)
    result = result.conj() if value.is_conj() else result
    return torch._neg_view(result) if value.is_neg() else result


def _number(value: Any, mode: FakeTensorMode) -> Any:
    from torch.fx.experimental.sym_node import SymNode

    if not isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return value
    return type(value)(SymNode(value.node.expr, mode.shape_env, value.node.pytype, None))
