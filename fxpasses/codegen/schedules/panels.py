"""Products whose right operand is made in the kernel, a panel of columns at a time, so that it stays in the cache."""

from __future__ import annotations

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.expressions import elements, static_product
from fxpasses.codegen.schedules.kernel import STACK_BYTES, Kernel, NoFit
from fxpasses.codegen.schedules.products import axes_of, tile_of

__all__ = ["maker", "panels"]

# With so many rows, a panel is made in a fiftieth of the time in which they are multiplied with it.
_ROWS = 128

# What is made together goes to memory this far apart: a page, in which the cache would have one place
# for all of it, and a line.
_PAGE_BYTES, _LINE_BYTES = 4096, 64


def maker(kernel: Kernel, product: Block) -> Block | None:
    """The block of cells that makes an operand of *product*."""
    blocks = map(kernel.block, kernel.sch.get_producers(product.rv))
    return next((block for block in blocks if block.cell), None)


def panels(kernel: Kernel, block: Block, cells: Block) -> None:
    """Tile a product; the *cells* of its right operand are made for the columns of one vector at a time.

    Where few rows are multiplied with a panel, it is made in parts that stay in
    the first cache, and the sums of all rows wait for the next part.
    """
    sch = kernel.sch
    if not block.factors or cells.cell is None or not block.is_plain or len(block.vars) != block.rank + 1:
        raise NoFit
    axes = axes_of(block)
    m, rows, vectors, width = tile_of(kernel.cpu, block, axes, False, vectors=1)
    size, inner = (None if m is None else block.extents[m]), block.extents[-1]
    if m is None or size is None or inner is None:
        raise NoFit
    number = axes.right.source.dtype.bits // 8
    made = block.uses(index for index, cell in zip(axes.right.indices, cells.cell, strict=True) if cell > 1)
    others = [axis for axis in range(block.rank - 1) if axis != m]
    each = (static_product([block.extents[axis] for axis in made]) or 0) * width * number
    if not each:  # none is made, or how many is known at run time
        raise NoFit
    is_cut = size * each <= STACK_BYTES
    part = _divisor(inner, STACK_BYTES // each) if is_cut else inner
    out = sch.cache_write(block.rv, 0, "local")
    loops = list(sch.get_loops(block.rv))
    panel, *columns = sch.split(loops[axes.columns], [None, vectors, width])
    tile, row = sch.split(loops[m], [None, rows])
    chunk, tile = sch.split(tile, [_divisor(size // rows, size // _ROWS) if size % rows == 0 else 1, None])
    over, summed = sch.split(loops[-1], [None, part])
    around = [*(loops[axis] for axis in others if axis not in made), chunk, panel]
    within = [*(loops[axis] for axis in others if axis in made), tile]
    together = [row, *columns]
    sch.reorder(*around, *([over, *within] if is_cut else [*within, over]), summed, *together)
    task = kernel.fuse(around, block)
    kernel.parallel(task, elements(block.extents))
    kernel.move(cells.rv, over if is_cut else task)
    sizes = [*zip(sch.get_loops(cells.rv)[-len(cells.cell) :], cells.cell, strict=True)]
    cell = [loop for loop, size in sizes if size != 1]
    sch.reorder(*(loop for loop, size in sizes if size == 1), *cell)
    kernel.in_registers(cell)
    last = max(axis for axis, size in enumerate(cells.cell) if size > 1)
    sch.storage_align(cells.rv, 0, last, _PAGE_BYTES // number, _LINE_BYTES // number)
    if size % rows:
        sch.annotate(tile, "pragma_loop_partition_hint", 1)  # the last tile has fewer rows
    kernel.move(out, task if is_cut else tile, after=True)
    sch.set_scope(block.rv, 0, "local")
    kernel.in_registers(together)
    start = sch.decompose_reduction(block.rv, over)
    kernel.in_registers(sch.get_loops(start)[-len(together) :])
    kernel.in_registers(sch.get_loops(out)[-1:])


def _divisor(size: int, most: int) -> int:
    """The largest divisor of *size* up to *most*, which counts as 1 if it is less."""
    return next(count for count in range(max(min(size, most), 1), 0, -1) if size % count == 0)
