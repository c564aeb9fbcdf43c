"""Fourier transforms: see `fxpasses.dialect.fourier`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

import fxpasses.dialect  # noqa: F401  (registers the operators)
from fxpasses.dialect.fourier_plan import column_tables, convolution_plan, halves, is_smooth, plan, row_tables
from fxpasses.errors import UnsupportedOperatorError
from fxpasses.relax import tvm_api as T
from fxpasses.relax.fourier import Columns, Rows
from fxpasses.relax.kernel import loops, parallel, position, product
from fxpasses.relax.table import lowering

dialect = torch.ops.fxpasses

_VECTOR_BYTES = 64
"""Where the vectors of a target are shorter, LLVM makes several of one."""


@lowering(dialect.fourier.default)
def fourier(b: Any, input: Any, dim: Any, forward: Any, scale: Any) -> Any:
    *sizes, _ = b.shape_of(input)
    dim = position(dim, len(sizes))
    if dim < len(sizes) - 1:
        return _columns(b, input, dim, forward, scale)
    *batch, size = sizes
    return _rows(b, input, batch, int(size), scale, Rows.pairs, forward)


@lowering(dialect.fourier_of_real.default)
def fourier_of_real(b: Any, input: Any, scale: Any) -> Any:
    *batch, length = b.shape_of(input)
    size = int(length)
    if size % 2:
        return _rows(b, input, batch, size, scale, Rows.of_odd, True)
    return _rows(b, input, batch, size // 2, scale / 2, Rows.of_even, True, halves(size, back=False))


@lowering(dialect.fourier_to_real.default)
def fourier_to_real(b: Any, input: Any, size: Any, scale: Any) -> Any:
    *batch, _, _ = b.shape_of(input)
    if size % 2:
        return _rows(b, input, batch, size, scale * 2, Rows.to_odd, False)
    return _rows(b, input, batch, size // 2, scale, Rows.to_even, False, halves(size, back=True))


def _rows(
    b: Any,
    input: Any,
    batch: Sequence[Any],
    size: int,
    scale: float,
    row: Callable[..., None],
    forward: bool,
    own: Mapping[str, torch.Tensor] | None = None,
) -> Any:
    """A kernel of *row* for each row, whose transform has *size* complex elements, with tables of its *own*."""
    lanes, count = _lanes(b, input), product(batch)
    found = plan(size, lanes) or convolution_plan(size, lanes)
    if size < 2 * found.lanes:
        raise UnsupportedOperatorError(f"a Fourier transform of {size} elements, which fill no vectors")

    def body(source: Any, result: Any, tables: Mapping[str, Any]) -> None:
        rows = Rows(size, found, str(source.dtype), tables, forward)
        with parallel(count, count * size) as at:
            row(rows, source, result, at)

    return _called(b, input, {**row_tables(size, found, scale), **(own or {})}, body)


def _columns(b: Any, input: Any, dim: int, forward: bool, scale: float) -> Any:
    *sizes, _ = b.shape_of(input)
    size, width, lanes = int(sizes[dim]), int(product(sizes[dim + 1 :])), _lanes(b, input)
    while lanes > width:
        lanes //= 2
    if not is_smooth(size) or lanes == 1:
        raise UnsupportedOperatorError(f"a Fourier transform of {size} elements that lie {width} apart")
    count, vectors = product(sizes[:dim]), -(-width // lanes)

    def body(source: Any, result: Any, tables: Mapping[str, Any]) -> None:
        columns = Columns(str(source.dtype), lanes, tables, forward)
        with parallel(count * vectors, count * size * width) as at:
            start = T.tirx.floordiv(at, vectors) * (size * width)
            column = T.tirx.min(T.tirx.floormod(at, vectors) * lanes, width - lanes)
            columns.across(source, result, size, width, start + column, scale)

    return _called(b, input, column_tables(size), body)


def _lanes(b: Any, input: Any) -> int:
    return 8 * _VECTOR_BYTES // int(T.tvm.DataType(b.dtype_of(input)).bits)


def _called(b: Any, input: Any, tables: Mapping[str, torch.Tensor], body: Callable[..., None]) -> Any:
    """A kernel with the loops of ``body(source, result, tables)``, which sees each tensor as one row of numbers."""
    dtype, shape = b.dtype_of(input), b.shape(b.val)
    constants = [T.relax.const(table.to(getattr(torch, dtype)).numpy(), dtype) for table in tables.values()]
    flat = b.emit(T.relax.op.reshape(input, [product(b.shape_of(input))]))

    def write(source: Any, *others: Any) -> None:
        body(source, others[-1], dict(zip(tables, others, strict=False)))

    def kernel(*tensors: Any) -> Any:
        return loops(tensors, [((product(shape),), dtype)], write, "fourier")

    return b.emit(T.relax.op.reshape(b.te(kernel, flat, *constants), shape))
