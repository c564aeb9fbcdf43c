"""Blocks whose elements are made a few together: see `fxpasses.relax.kernel.cells`."""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.expressions import elements
from fxpasses.codegen.schedules.kernel import Kernel, NoFit

__all__ = ["cells"]


def cells(kernel: Kernel, block: Block, tail: Block | None) -> None:
    """Write out the loops inside a cell; what borders the operand and what follows is computed beside it."""
    sch = kernel.sch
    if block.cell is None or not block.is_plain or not block.is_elementwise:
        raise NoFit
    lanes = block.lanes(kernel.cpu)
    outer: list[Any] = []
    inner: list[Any] = []
    for loop, size in zip(block.loops, block.cell, strict=True):
        over, within = sch.split(loop, [None, size or lanes])
        outer.append(over)
        inner.append(within)
    sch.reorder(*outer, *inner)
    fused = [block, *([] if tail is None else [tail])]
    row = kernel.fuse(outer[:-2], *fused)
    kernel.parallel(row, elements(block.extents))
    for rv in sch.get_producers(block.rv):
        kernel.move(rv, row)
        kernel.vectorize(sch.get_loops(rv)[-1], lanes)
    kernel.in_registers(inner)
    if tail is not None:
        kernel.move(tail.rv, outer[-1], after=True)
        sch.set_scope(block.rv, 0, "local")
        kernel.in_registers(sch.get_loops(tail.rv)[-len([size for size in block.cell if size != 1]) :])
