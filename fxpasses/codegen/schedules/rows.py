"""Blocks that share their leading loops (softmax, layer norm): one parallel loop over rows."""

from __future__ import annotations

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.expressions import elements, static_product
from fxpasses.codegen.schedules.kernel import Kernel, NoFit
from fxpasses.codegen.schedules.reductions import in_lanes, vector_axis

__all__ = ["rows"]


def rows(kernel: Kernel, blocks: list[Block]) -> None:
    """Blocks that share their leading axes: one parallel loop over rows, all blocks inside."""
    sch = kernel.sch
    if not all(block.is_plain and (block.is_elementwise or block.is_reduction) for block in blocks):
        raise NoFit
    *inner, last = blocks
    reductions = [block for block in blocks if block.is_reduction]
    if not reductions or len(sch.get_output_blocks("root")) != 1:
        raise NoFit
    shared = min(map(_leading, reductions))
    if shared == 0 or (len(last.vars) <= shared and not last.is_reduction):
        raise NoFit
    if any(block.rank < shared for block in blocks) or any(vector_axis(b) is not None for b in reductions):
        raise NoFit
    work = max(elements(block.extents) for block in blocks)
    sizes = {block.name: static_product(block.extents[shared : block.rank]) for block in inner}
    lanes = {block.name: block.lanes(kernel.cpu) for block in blocks}
    row = kernel.fuse(sch.get_loops(last.rv)[:shared], *blocks)
    kernel.parallel(row, work)
    for block in reversed(blocks):
        if block is not last:
            kernel.move(block.rv, row)
            kernel.keep_on_stack(block, sizes[block.name])
        if block.is_reduction:
            in_lanes(kernel, block)
    for block in blocks:
        if block.is_elementwise:
            loops = sch.get_loops(block.rv)[1:]
            if loops:
                kernel.vectorize(kernel.without_units(loops)[-1], lanes[block.name])


def _leading(block: Block) -> int:
    """How many axes of a reduction's output lead it: those without the summed dims that it kept with size 1."""
    count = block.rank
    while count > 1 and block.extents[count - 1] == 1:
        count -= 1
    return count
