"""Reductions: sums, maxima and the like, in vectors along the summed axes or across them."""

from __future__ import annotations

import math
from typing import Any

from fxpasses.codegen.combination import Combination, combination
from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.expressions import elements
from fxpasses.codegen.schedules.kernel import Kernel, NoFit
from fxpasses.codegen.schedules.memory import innermost, step, stretch
from fxpasses.relax import tvm_api as T

__all__ = ["COLUMNS", "LANES", "in_lanes", "reduction", "vector_axis"]

LANES = "fxpasses.lanes"
"""The annotation of each loop of a reduction that `fxpasses.codegen.lanes` writes out: how many lanes a vector has."""

COLUMNS = "fxpasses.columns"
"""The annotation of the loop over the columns of a reduction that `fxpasses.codegen.columns` writes out: the same."""

# So many independent rows are enough for the threads.
_MANY = 8

# Fewer terms than this are not worth a vector.
_LEAST_LANES = 8


def reduction(kernel: Kernel, block: Block) -> None:
    """A reduction by itself."""
    if not (block.is_reduction and block.is_plain):
        raise NoFit
    work = elements(block.extents)
    axis = vector_axis(block)
    loops = block.loops
    if axis is None:
        if block.rank:
            kernel.parallel(kernel.fuse(loops[: block.rank], block), work)
        in_lanes(kernel, block)
        return
    _by_columns(kernel, block, axis, work)


def _by_columns(kernel: Kernel, block: Block, axis: int, work: float) -> None:
    """A reduction whose operand is contiguous along an axis of the output."""
    sch = kernel.sch
    loops = block.loops
    count = stretch(block, range(axis + 1)) if axis == block.rank - 1 and not block.wraps_round else 1
    columns = loops[axis - count + 1 : axis + 1]
    others = [loop for loop in loops[: block.rank] if not any(loop.same_as(column) for column in columns)]
    summed = loops[block.rank :]
    sch.reorder(*others, *columns, *summed)
    column = kernel.fuse(columns, block)
    outer = kernel.fuse(others, block) if others else None
    if outer is not None and (kernel.extent(outer) or _MANY) >= _MANY:
        kernel.parallel(outer, work)
    else:
        kernel.parallel(column, work)
    if _combination(block) is None:
        return
    start = sch.decompose_reduction(block.rv, column)
    kernel.vectorize(sch.get_loops(start)[-1], block.lanes(kernel.cpu))
    sch.annotate(column, COLUMNS, block.lanes(kernel.cpu))


def in_lanes(kernel: Kernel, block: Block) -> None:
    """Let a reduction along memory, which is at its row by now, run in the lanes of vectors.

    Nothing changes for another reduction, or for one of a few terms.
    """
    sch = kernel.sch
    axis = _contiguous_axis(block)
    if axis is None or _combination(block) is None:
        return
    summed = list(sch.get_loops(block.rv)[block.rank - len(block.kinds) :])
    order = [at for at in range(block.rank, len(block.kinds)) if at != axis] + [axis]
    if order != sorted(order):
        sch.reorder(*(summed[at - block.rank] for at in order))
    count = stretch(block, order)
    loops = [summed[at - block.rank] for at in order]
    if count > 1 and not block.wraps_round:
        loops = [*loops[:-count], sch.fuse(*loops[-count:])]
    lanes = block.lanes(kernel.cpu)
    length = kernel.extent(loops[-1])
    while length is not None and lanes > length:
        lanes //= 2
    if lanes < min(_LEAST_LANES, block.lanes(kernel.cpu)) or lanes < 2:
        return
    sch.decompose_reduction(block.rv, loops[0])
    for loop in loops:
        sch.annotate(loop, LANES, lanes)


def _combination(block: Block) -> Combination | None:
    """How a reduction combines its terms, where that is known."""
    assert block.store is not None
    own = block.store.buffer

    def is_total(value: Any) -> bool:
        return isinstance(value, T.ir.TensorLoad) and value.source.same_as(own)

    return combination(block.store.value, is_total)


def _contiguous_axis(block: Block) -> int | None:
    """The summed axis along which an operand lies side by side in memory, if there is one."""
    for load in block.loads:
        for axis in block.uses(innermost(load)):
            if block.kinds[axis] == "R" and step(block, load, axis) == 1:
                return axis
    return None


def vector_axis(block: Block) -> int | None:
    """The axis of the output along which the main operand of a reduction is contiguous, if one is."""

    def size(load: Any) -> tuple[int, int]:
        """Of what is read: axes that are not known, and elements along the others."""
        extents = [block.extents[axis] for axis in block.uses(load.indices)]
        return extents.count(None), math.prod(extent for extent in extents if extent is not None)

    load = max(block.loads, key=size, default=None)
    if load is None:
        return None
    return max((axis for axis in block.uses(innermost(load)) if block.kinds[axis] == "S"), default=None)
