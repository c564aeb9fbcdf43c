"""`count_work`: what a kernel has to compute and to move, read off its loops before they are scheduled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fxpasses.codegen.schedules.expressions import int_value, op_name, returning_none
from fxpasses.relax import tvm_api as T

__all__ = ["Work", "count_work"]


@dataclass(frozen=True)
class Work:
    """Of one call of a kernel.

    Attributes:
        flops: floating-point operations; a multiply-add is two, a function such as exp one.
        bytes: of the arguments, each element that is touched once; what stays inside the kernel is not counted.
    """

    flops: float
    bytes: float


def count_work(function: Any, shapes: Sequence[Sequence[int]]) -> Work:
    """The work of *function*, a kernel without a schedule, on arguments of these *shapes*.

    NaN where a loop runs as often as the data say.
    """
    buffers = [param for param in function.params if hasattr(param, "shape")]
    sizes: dict[Any, Any] = {}
    for buffer, shape in zip(buffers, shapes, strict=False):
        for dim, size in zip(buffer.shape, shape, strict=False):
            if isinstance(dim, T.tirx.Var):
                sizes[dim] = T.tirx.const(int(size), str(dim.ty.dtype))
    flops = 0.0
    touched: dict[Any, float] = {}
    for store, times in _stores(function.body, 1.0, sizes):
        flops += times * _flops(store.value)
        for data in [store.buffer, *_loaded(store)]:
            touched[data] = touched.get(data, 0.0) + times
    moved = 0.0
    for buffer in buffers:
        elements = math.prod(_number(size, sizes) for size in buffer.shape)
        bits = buffer.dtype.bits * buffer.dtype.lanes if hasattr(buffer.dtype, "bits") else 32
        moved += min(elements, touched.get(buffer, 0.0)) * bits / 8
    return Work(flops, moved)


def _stores(stmt: Any, times: float, sizes: Mapping[Any, Any]) -> Iterator[tuple[Any, float]]:
    """Each store below *stmt*, and how often it is made; the start of a sum is left out."""
    tirx = T.tirx
    if isinstance(stmt, tirx.BufferStore):
        yield stmt, times
    elif isinstance(stmt, tirx.For):
        yield from _stores(stmt.body, times * _number(stmt.extent, sizes), sizes)
    elif isinstance(stmt, tirx.SeqStmt):
        for part in stmt.seq:
            yield from _stores(part, times, sizes)
    elif isinstance(stmt, tirx.While):
        yield from _stores(stmt.body, math.nan, sizes)
    else:
        for name in ("block", "body", "then_case", "else_case"):
            part = getattr(stmt, name, None)
            if part is not None:
                yield from _stores(part, times, sizes)


def _number(expression: Any, sizes: Mapping[Any, Any]) -> float:
    """The value of a size; NaN where it is not known."""
    known = int_value(expression)
    if known is None and sizes:
        fixed = T.tvm_ffi.structural_map(expression, [(T.tirx.Var, lambda var: sizes.get(var, var))])
        known = int_value(T.Analyzer().simplify(fixed))
    return math.nan if known is None else known


def _loaded(store: Any) -> list[Any]:
    """The memory of each load in *store*."""
    loads: list[Any] = []
    T.tvm_ffi.structural_walk(store, (T.ir.TensorLoad, returning_none(loads.append)))
    return [load.source for load in loads]


# Calls that no arithmetic unit sees.
_FREE = {"if_then_else", "likely", "reinterpret"}


def _flops(value: Any) -> int:
    found: list[Any] = []
    kinds = [(kind, returning_none(found.append)) for kind in (*_arithmetic(), T.ir.Call)]
    T.tvm_ffi.structural_walk(value, kinds)
    return sum(
        "float" in str(node.ty.dtype) and not (isinstance(node, T.ir.Call) and op_name(node) in _FREE)
        for node in found
    )


@cache
def _arithmetic() -> tuple[Any, ...]:
    tirx = T.tirx
    return tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min
