"""Products with packed matrices, which are written tile by tile already."""

from __future__ import annotations

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.expressions import elements
from fxpasses.codegen.schedules.kernel import Kernel, NoFit

__all__ = ["tiles"]

# So many products take the time of one element of an elementwise kernel, about.
_PRODUCTS_AN_ELEMENT = 16


def tiles(kernel: Kernel, block: Block, tail: Block | None) -> None:
    """Each tile stays in registers while the summed axis runs; *tail* takes it to its place, [M, N]."""
    sch = kernel.sch
    if not block.is_tiled or tail is None or not (tail.is_elementwise and tail.is_plain and tail.rank == 2):
        raise NoFit
    _, _, rows, width = block.extents[:4]
    lanes = block.lanes(kernel.cpu)
    if rows is None or width is None:
        raise NoFit
    lanes = lanes if width % lanes == 0 else width
    i, j = tail.loops
    tile, row = sch.split(i, [None, rows])
    panel, vector, lane = sch.split(j, [None, width // lanes, lanes])
    sch.reorder(panel, tile, row, vector, lane)
    each = sch.fuse(panel, tile)
    kernel.parallel(each, elements(block.extents) / _PRODUCTS_AN_ELEMENT)
    kernel.move(block.rv, each)
    sch.set_scope(block.rv, 0, "local")
    *_, row_of, column_of, summed = sch.get_loops(block.rv)
    inner = [row_of, *sch.split(column_of, [width // lanes, lanes])]
    sch.reorder(summed, *inner)
    kernel.in_registers(inner)
    start = sch.decompose_reduction(block.rv, summed)
    kernel.in_registers(sch.get_loops(start)[-3:])
    kernel.in_registers([row, vector, lane])
