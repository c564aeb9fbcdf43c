"""Pieces of tensor expressions that several families of rows share."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from fxpasses.relax import tvm_api as T

__all__ = [
    "ALONE",
    "CELL",
    "LONG_SUM",
    "PARALLEL_ELEMENTS",
    "WITH_TAIL",
    "accumulator",
    "cells",
    "const",
    "convert",
    "few_rows",
    "grid",
    "highest",
    "is_at_most",
    "is_known",
    "is_static",
    "load",
    "loops",
    "lowest",
    "parallel",
    "position",
    "product",
    "rows",
    "safe_index",
    "store",
    "used",
    "when",
]

WITH_TAIL = {"op_pattern": 4}
"""The attributes of a kernel that takes the elementwise calls behind it into its loops."""

ALONE = {"op_pattern": 8}
"""The attributes of a kernel that is fused with no other."""

CELL = "fxpasses.cell"
"""The annotation of a block made by `cells`."""

_HALF = ("float16", "bfloat16")

PARALLEL_ELEMENTS = 16384
"""Below this many elements the start of the threads costs more than it saves."""


LONG_SUM = 256
"""Terms beyond which a sum in float32 loses digits to rounding, which PyTorch keeps by adding in a tree.

One after the other, 256 equal terms add up to an error of 2e-6, 16,384 of them to 1.5e-4.
"""


def accumulator(dtype: str, terms: Any = 0, most: int = LONG_SUM) -> str:
    """The dtype that sums over values of *dtype* are kept in: half types use float32.

    A sum of more than *most* float32 values, or of a number that is not known, uses float64.
    """
    dtype = "float32" if dtype in _HALF else dtype
    known = terms if isinstance(terms, int) else getattr(terms, "value", None)
    return "float64" if dtype == "float32" and (known is None or int(known) > most) else dtype


def const(value: Any, dtype: str) -> Any:
    """A Python number, or a TIR expression of a size, as a TIR value of *dtype*.

    Numbers are converted the way PyTorch converts them: floats are rounded once,
    integers wrap around.
    """
    if not isinstance(value, bool | int | float):
        return convert(value, dtype)
    kind = getattr(torch, dtype)
    if kind.is_floating_point:
        return T.tirx.const(torch.tensor(value, dtype=torch.float64).to(kind).item(), dtype)
    if kind is torch.bool:
        return T.tirx.const(bool(value), "bool")
    return T.tirx.const(torch.tensor(int(value)).to(kind).item(), dtype)


def convert(value: Any, dtype: str) -> Any:
    """A TIR value in another dtype; nothing is added where it has it already."""
    return value if str(value.ty.dtype) == dtype else value.astype(dtype)


def lowest(dtype: str) -> Any:
    """The value that a maximum over *dtype* starts from."""
    kind = getattr(torch, dtype)
    if kind.is_floating_point:
        return const(float("-inf"), dtype)
    return const(False if kind is torch.bool else torch.iinfo(kind).min, dtype)


def highest(dtype: str) -> Any:
    """The value that a minimum over *dtype* starts from."""
    kind = getattr(torch, dtype)
    if kind.is_floating_point:
        return const(float("inf"), dtype)
    return const(True if kind is torch.bool else torch.iinfo(kind).max, dtype)


def position(dim: int, rank: int) -> int:
    """A dim in ``[0, rank)``; a tensor without dims counts as having one."""
    return dim % max(rank, 1)


def is_static(size: Any, value: int) -> bool:
    """Whether a size is known to be *value*."""
    return isinstance(size, T.tirx.IntImm) and int(size) == value


def is_known(size: Any) -> bool:
    """Whether a size is a number, and not one that shows at run time."""
    return isinstance(size, T.tirx.IntImm)


def is_at_most(size: Any, bound: int) -> bool:
    """Whether a size is known to be no larger than *bound*."""
    return isinstance(size, T.tirx.IntImm) and int(size) <= bound


def few_rows(rows: Any, terms: Any, lanes: int = 16) -> Any:
    """Whether so many rows are multiplied with a matrix faster as it lies, along its *terms*, than with a turned copy.

    To add up the lanes of a sum takes as long as a few vectors of terms.
    """
    return T.tirx.all(rows <= 64, rows * lanes <= terms * 2, terms >= lanes)


def product(sizes: Sequence[Any]) -> Any:
    """The product of sizes; 1 for none."""
    result: Any = T.tirx.IntImm("int64", 1)
    for size in sizes:
        result = result * size
    return result


def safe_index(index: Any, size: Any) -> Any:
    """An index read from a tensor, counted from the end where negative, kept inside ``[0, size)``.

    The clamp changes no valid index. It is there so that an invalid one reads
    some element of the tensor and never memory that belongs to something else.
    """
    tirx = T.tirx
    zero = tirx.IntImm("int64", 0)
    index = convert(index, "int64")
    index = tirx.Select(index < zero, index + size, index)
    return tirx.max(tirx.min(index, size - tirx.IntImm("int64", 1)), zero)


def used(b: Any, result: int) -> bool:
    """Whether the graph uses this result of the call that is being lowered."""
    return any(user.target is not operator.getitem or user.args[1] == result for user in b.node.users)


def loops(
    inputs: Sequence[Any],
    results: Sequence[tuple[Sequence[Any], str]],
    body: Callable[..., None],
    name: str,
) -> Any:
    """A kernel that is written as loops, for what no tensor expression says.

    ``body(*inputs, *results)`` writes the loops with the builder ``T.ir_builder.tirx``;
    buffers are read by `load` and written by `store`.

    Args:
        inputs: tensors of a tensor expression.
        results: shape and dtype of each result.
        body: writes the loops.
        name: what the kernel is called in the IR.
    """
    buffers = [
        T.tirx.decl_buffer(tuple(shape), dtype, f"{name}_{index}", layout=None)
        for index, (shape, dtype) in enumerate(results)
    ]

    def statement(ins: Any, outs: Any) -> Any:
        with T.ir_builder.IRBuilder() as builder:
            # The builder needs a frame around several statements; this one means nothing.
            with T.ir_builder.tirx.attr(0, "fxpasses.loops", 1):
                body(*ins, *outs)
            return builder.get()

    return T.te.extern(
        [tuple(shape) for shape, _ in results],
        list(inputs),
        statement,
        dtype=[dtype for _, dtype in results],
        out_buffers=buffers,
        name=name,
    )


def cells(shape: Sequence[Any], element: Callable[..., Any], sizes: Sequence[int | None], name: str) -> Any:
    """A tensor expression whose elements are made so many together along each axis.

    Its *element* may depend on the place in a cell; the schedule writes a cell
    out, so that what its elements have in common is computed once.

    Args:
        shape: of the result.
        element: as for ``te.compute``.
        sizes: of a cell; None for a vector, along the last axis.
        name: what the kernel is called in the IR.
    """
    attrs = {CELL: [0 if size is None else size for size in sizes]}
    return T.te.compute(tuple(shape), element, name=name, attrs=attrs)


@contextmanager
def grid(*sizes: Any) -> Iterator[list[Any]]:
    """Nested serial loops of a kernel written as loops; a list with each position."""
    if not sizes:
        yield []
        return
    with T.ir_builder.tirx.grid(*sizes) as at:
        yield [at] if T.ir.is_prim_expr(at) else list(at)


def parallel(count: Any, work: Any, *, least: int = PARALLEL_ELEMENTS) -> Any:
    """A loop of a kernel written as loops whose steps run in threads, unless *work* is known to be below *least*."""
    small = is_at_most(work, least - 1)
    return (T.ir_builder.tirx.serial if small else T.ir_builder.tirx.parallel)(0, count)


@contextmanager
def rows(shape: Sequence[Any], dim: int, *, work: Any = None) -> Iterator[Callable[[Any], list[Any]]]:
    """A loop over the rows along *dim*, in threads where that pays; from a place in the row to the position.

    Args:
        shape: of the tensor.
        dim: in ``[0, rank)``; 0 for a tensor without dims, which has one row.
        work: elements, where they are not those of *shape*.
    """
    others = [*shape[:dim], *shape[dim + 1 :]]
    with parallel(product(others), product(shape) if work is None else work) as row:
        rest, index = row, []
        for size in reversed(others):
            index.append(T.tirx.floormod(rest, size))
            rest = T.tirx.floordiv(rest, size)
        index.reverse()
        yield lambda k: [*index[:dim], k, *index[dim:]] if shape else []


@contextmanager
def when(condition: Any) -> Iterator[None]:
    """What a kernel written as loops does only where *condition* holds."""
    builder = T.ir_builder.tirx
    with builder.If(convert(condition, "bool")), builder.Then():
        yield


def store(buffer: Any, value: Any, at: Sequence[Any]) -> None:
    """Write one element in a kernel written as loops."""
    T.ir_builder.tirx.buffer_store(buffer, value, list(at))


def load(buffer: Any, at: Sequence[Any]) -> Any:
    """Read one element in a kernel written as loops."""
    return T.tirx.BufferLoad(buffer, list(at))
