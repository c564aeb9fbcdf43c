"""`conditions_of`: sizes for which torch's decomposition of a call does not do what the call does.

Torch traces a decomposition for the sizes of the example: where its code asks
whether a size is 1, or larger than another, it takes the branch of the example.
Mostly both branches give the same (they look at strides); where they do not, the
trace must not be called with sizes of the other one. So both run, on small random
tensors, for sizes of 0 and 1 and for sizes that torch's guards leave out.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxpasses.capture.unsafe_kernels import Watched
from fxpasses.guards import violations
from fxpasses.program import Program
from fxpasses.schema import bind
from fxpasses.signature import asserted_sizes

__all__ = ["conditions_of"]

aten = torch.ops.aten

_MOST_ELEMENTS = 1 << 20
"""Operands of a trial are no larger than this in all."""

_MOST_VIOLATIONS = 6
"""So many sizes are tried for a guard."""

Point = Mapping[Any, int]
"""A size for each symbol."""


def conditions_of(
    program: Program, call: Callable[..., Any], traced: fx.GraphModule, vals: Sequence[Any]
) -> list[Any]:
    """The conditions on sizes, as sympy expressions, under which *traced* does what *call* does.

    Args:
        program: has the ranges and the conditions of the sizes.
        call: the operator, as a function of operands.
        traced: its decomposition.
        vals: metadata of the operands.
    """
    import sympy

    example = _example(program, vals)
    if not example:
        return []
    held = list(asserted_sizes(program).values())
    known: dict[tuple[int, ...], bool] = {}

    def differs(point: Point) -> bool:
        key = tuple(point.values())
        if key not in known:
            known[key] = _is_within(program, held, point) and not _same(call, traced, vals, point)
        return known[key]

    found: list[Any] = []
    for size in (0, 1):
        wrong = [symbol for symbol in example if differs({**example, symbol: size})]
        if not wrong and differs(dict.fromkeys(example, size)):
            wrong = list(example)
        # sympy takes it for granted that no size is 0
        found += [sympy.Ne(symbol, size, evaluate=False) for symbol in wrong]
    for guard in _guards(vals, example):
        points = itertools.islice(violations(guard, program, example), _MOST_VIOLATIONS)
        if any(map(differs, points)):
            found.append(guard)
    return found


def _example(program: Program, vals: Sequence[Any]) -> dict[Any, int]:
    """The symbols in the shapes of *vals*, with their sizes in the example; none where a value is no size."""
    found: dict[Any, int] = {}
    for size in _symbolic(vals):
        if not isinstance(size, torch.SymInt):
            return {}
        for symbol in size.node.expr.free_symbols:
            hint = size.node.shape_env.backed_var_to_val.get(symbol)
            if symbol not in program.ranges:
                return {}
            lower = program.ranges[symbol].lower
            found[symbol] = max(3, int(lower) if lower.is_Integer else 3) if hint is None else int(hint)
    return dict(sorted(found.items(), key=lambda item: str(item[0])))


def _symbolic(vals: Sequence[Any]) -> Iterator[Any]:
    for val in vals:
        for size in val.shape if isinstance(val, torch.Tensor) else (val,):
            if isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool):
                yield size


def _guards(vals: Sequence[Any], example: Point) -> list[Any]:
    """What torch has found to hold for the sizes of the example, of these symbols alone."""
    env = next(size.node.shape_env for size in _symbolic(vals))
    guards = dict.fromkeys(guard.expr for guard in env.guards)
    return [guard for guard in guards if guard.free_symbols and guard.free_symbols <= example.keys()]


def _is_within(program: Program, held: Sequence[Any], point: Point) -> bool:
    numbers = _numbers(point)
    try:
        holds = all(condition.xreplace(numbers) != False for condition in held)  # noqa: E712, of sympy
    except (ZeroDivisionError, AssertionError):  # of torch's functions, outside of where they are defined
        return False
    ranges = program.ranges
    return holds and all(
        ranges[symbol].lower <= size <= ranges[symbol].upper for symbol, size in point.items()
    )


def _numbers(point: Point) -> dict[Any, Any]:
    import sympy

    return {symbol: sympy.Integer(size) for symbol, size in point.items()}


def _same(call: Callable[..., Any], traced: fx.GraphModule, vals: Sequence[Any], point: Point) -> bool:
    """Whether both give the same; also where *call* raises, or the sizes are none."""
    operands = _operands(vals, _numbers(point))
    if operands is None:
        return True
    with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings(), _filled_memory():
        warnings.simplefilter("ignore")
        try:
            with Watched():
                expected = call(*operands)
        except Exception:  # what raises in eager PyTorch has no result to differ from
            return True
        try:
            found = _Lowered(traced).run(*operands)
        except Exception:  # whatever it is, the call gives a result
            return False
    pairs = zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True)
    return all(_is_near(a, b) for a, b in pairs)


@contextmanager
def _filled_memory() -> Iterator[None]:
    """What `torch.empty` and its kin give is the same each time, by torch's own switch."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


class _Lowered(fx.Interpreter):
    """Runs a trace as what it is lowered to: no view depends on strides, and extremes of nothing are infinite."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in (aten.view.default, aten._unsafe_view.default):
            target = aten.reshape.default
        if target in _EXTREMES and not args[0].numel():
            x, dims, *_ = bind(target, args, kwargs)[0]
            reduced = {dim % x.dim() for dim in dims or range(x.dim())}
            if any(x.shape[dim] == 0 for dim in reduced):
                sizes = [1 if dim in reduced else size for dim, size in enumerate(x.shape)]
                args = (x.new_full(sizes, _EXTREMES[target]), *args[1:])
        return super().call_function(target, args, kwargs)


_EXTREMES = {aten.amax.default: -math.inf, aten.amin.default: math.inf}


def _operands(vals: Sequence[Any], numbers: Mapping[Any, Any]) -> list[Any] | None:
    """Random tensors for *vals*; zeros for integers, which may be indices."""

    def size(value: Any) -> Any:
        return int(value.node.expr.xreplace(numbers)) if isinstance(value, torch.SymInt) else value

    generator = torch.Generator().manual_seed(0)
    shapes = [[size(n) for n in val.shape] if isinstance(val, torch.Tensor) else [] for val in vals]
    if any(n < 0 for shape in shapes for n in shape) or sum(map(math.prod, shapes)) > _MOST_ELEMENTS:
        return None
    operands: list[Any] = []
    for val, shape in zip(vals, shapes, strict=True):
        if not isinstance(val, torch.Tensor):
            operands.append(size(val))
        elif val.dtype.is_floating_point or val.dtype.is_complex:
            wide = torch.complex64 if val.dtype.is_complex else torch.float32
            operands.append(torch.randn(shape, dtype=wide, generator=generator).to(val.dtype))
        else:
            operands.append(torch.zeros(shape, dtype=val.dtype))
    return operands


def _is_near(a: Any, b: Any) -> bool:
    """Whether shapes and values are alike; rounding, by the order of sums, is no difference here."""
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return type(a) is type(b) and bool(a == b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.dtype.is_floating_point and not a.dtype.is_complex:
        return torch.equal(a, b)
    accuracy = math.sqrt(torch.finfo(a.dtype).eps)
    return torch.allclose(a, b, rtol=accuracy, atol=accuracy, equal_nan=True)
