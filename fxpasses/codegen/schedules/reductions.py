"""Reductions: sums, maxima and the like, in vectors along the summed axes or across them.

Along contiguous memory the sum is split into one for each lane of a vector,
and one of the lanes.
"""

from __future__ import annotations

import math
from typing import Any

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.expressions import elements, static_product
from fxpasses.codegen.schedules.kernel import Kernel, NoFit
from fxpasses.codegen.schedules.padding import pad_summed_axes
from fxpasses.relax import tvm_api as T

__all__ = ["pad_sums", "reduction", "split_sum", "vector_axis", "vector_sum"]


def pad_sums(kernel: Kernel) -> None:
    """Pad summed axes that run in vectors to whole ones."""
    sizes = {
        block.name: lanes
        for block in kernel.blocks()
        if (lanes := _sum_lanes(kernel, block)) > 1 and _needs_padding(block, lanes)
    }
    if sizes:
        kernel.start(pad_summed_axes(kernel.sch.mod["main"], sizes))


def reduction(kernel: Kernel, block: Block) -> None:
    """A reduction by itself."""
    sch = kernel.sch
    if not (block.is_reduction and block.is_plain and block.rank):
        raise NoFit
    work = elements(block.extents)
    lanes = block.lanes(kernel.cpu)
    axis = vector_axis(block)
    loops = block.loops
    if axis is None:
        part = split_sum(kernel, block)
        row = kernel.fuse(sch.get_loops(block.rv)[: block.rank], block)
        kernel.parallel(row, work)
        if part is not None:
            kernel.move(part, row)
            vector_sum(kernel, part, block)
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


def _sum_lanes(kernel: Kernel, block: Block) -> int:
    """Into how many lanes a reduction along contiguous memory is split; 1 to leave it whole."""
    if (
        not (block.is_reduction and block.is_plain and block.rank)
        or block.factors
        or vector_axis(block) is not None
    ):
        return 1
    lanes = block.lanes(kernel.cpu)
    summed = block.extents[block.rank :]
    count = static_product(summed)
    if count is not None and count < 2 * lanes:
        return 1
    if (count is None or count % lanes) and (len(summed) > 1 or not _can_pad(block)):
        return 1
    return lanes


def _needs_padding(block: Block, lanes: int) -> bool:
    count = static_product(block.extents[block.rank :])
    return count is None or count % lanes != 0


def _can_pad(block: Block) -> bool:
    """Whether its value combines the accumulator and one term, and starts from what changes nothing."""
    assert block.store is not None
    tirx = T.tirx
    value = block.store.value
    combines = isinstance(value, tirx.Add | tirx.Mul | tirx.Max | tirx.Min)
    return (
        combines
        and isinstance(block.stmt.init, tirx.BufferStore)
        and _is_neutral(value, block.stmt.init.value)
    )


def _is_neutral(value: Any, start: Any) -> bool:
    """Whether *start* changes nothing in a sum, product, maximum or minimum."""
    number = getattr(start, "value", None)
    if number is None:
        return False
    if isinstance(value, T.tirx.Add | T.tirx.Mul):
        return float(number) == (0 if isinstance(value, T.tirx.Add) else 1)
    dtype = start.ty.dtype
    bound = T.tirx.min_value(dtype) if isinstance(value, T.tirx.Max) else T.tirx.max_value(dtype)
    worst = -math.inf if isinstance(value, T.tirx.Max) else math.inf
    return float(number) in (float(bound.value), worst)


def split_sum(kernel: Kernel, block: Block) -> Any:
    """Split the summed axes of *block* into a sum for each lane and a sum of the lanes.

    Returns the block that sums for each lane; None where the axis stays whole.
    """
    sch = kernel.sch
    lanes = _sum_lanes(kernel, block)
    if lanes == 1:
        return None
    _, inner = sch.split(kernel.fuse(block.loops[block.rank :], block), [None, lanes])
    return sch.rfactor(inner, block.rank)


def vector_sum(kernel: Kernel, part: Any, block: Block) -> None:
    """Run the block of `_split_sum`, which is at its row by now, in vectors."""
    sch = kernel.sch
    # Its axes, and so its loops below the row, are the lane, those of the output, and the steps.
    lane, *_, steps = sch.get_loops(part)[1:]
    sch.reorder(steps, lane)
    sch.vectorize(lane)
    start = sch.decompose_reduction(part, steps)
    sch.vectorize(sch.get_loops(start)[-1])
    if block.is_padded:
        sch.annotate(steps, "pragma_loop_partition_hint", 1)
    sch.set_scope(part, 0, "local")


def vector_axis(block: Block) -> int | None:
    """The axis of the output along which the main operand of a reduction is contiguous, if one is."""
    load = max(block.loads, key=lambda load: len(block.uses(load.indices)), default=None)
    if load is None or not len(load.indices):
        return None
    return max((axis for axis in block.uses([load.indices[-1]]) if block.kinds[axis] == "S"), default=None)
