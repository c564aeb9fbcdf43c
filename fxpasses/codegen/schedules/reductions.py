"""Reductions: sums, maxima and the like, in vectors along the summed axes or across them."""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.combination import combination
from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.expressions import elements
from fxpasses.codegen.schedules.kernel import Kernel, NoFit
from fxpasses.codegen.schedules.memory import step, stretch
from fxpasses.relax import tvm_api as T

__all__ = ["LANES", "in_lanes", "reduction", "vector_axis"]

LANES = "fxpasses.lanes"
"""The annotation of each loop of a reduction that `fxpasses.codegen.lanes` writes out: how many lanes a vector has."""

# Fewer terms than this are not worth a vector.
_LEAST_LANES = 8


def reduction(kernel: Kernel, block: Block) -> None:
    """A reduction by itself."""
    sch = kernel.sch
    if not (block.is_reduction and block.is_plain):
        raise NoFit
    work = elements(block.extents)
    lanes = block.lanes(kernel.cpu)
    axis = vector_axis(block)
    loops = block.loops
    if axis is None:
        if block.rank:
            kernel.parallel(kernel.fuse(loops[: block.rank], block), work)
        in_lanes(kernel, block)
        return
    others = [loop for i, loop in enumerate(loops[: block.rank]) if i != axis]
    summed = loops[block.rank :]
    extent = kernel.extent(loops[axis])
    if extent is None or extent > 4 * lanes:
        outer, inner = sch.split(
            loops[axis], [None, 4 * lanes if extent is None or extent >= 64 * lanes else lanes]
        )
        others.append(outer)
    else:
        inner = loops[axis]
    sch.reorder(*others, *summed, inner)
    if others:
        kernel.parallel(kernel.fuse(others, block), work)
    size = kernel.extent(inner)
    if size is not None and size > 1:
        sch.vectorize(inner)
        sch.vectorize(sch.get_loops(sch.decompose_reduction(block.rv, summed[0]))[-1])


def in_lanes(kernel: Kernel, block: Block) -> None:
    """Let a reduction along memory, which is at its row by now, run in the lanes of vectors.

    Nothing changes for another reduction, or for one of a few terms.
    """
    sch = kernel.sch
    axis = _contiguous_axis(block)
    own = block.store.buffer  # type: ignore[union-attr]
    if axis is None or combination(block.store.value, lambda value: _loads(value, own)) is None:  # type: ignore[union-attr]
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


def _loads(value: Any, buffer: Any) -> bool:
    return isinstance(value, T.ir.TensorLoad) and value.source.same_as(buffer)


def _contiguous_axis(block: Block) -> int | None:
    """The summed axis along which an operand lies side by side in memory, if there is one."""
    for load in block.loads:
        for axis in block.uses([load.indices[-1]]) if len(load.indices) else ():
            if block.kinds[axis] == "R" and step(block, load, axis) == 1:
                return axis
    return None


def vector_axis(block: Block) -> int | None:
    """The axis of the output along which the main operand of a reduction is contiguous, if one is."""
    load = max(block.loads, key=lambda load: len(block.uses(load.indices)), default=None)
    if load is None or not len(load.indices):
        return None
    return max((axis for axis in block.uses([load.indices[-1]]) if block.kinds[axis] == "S"), default=None)
