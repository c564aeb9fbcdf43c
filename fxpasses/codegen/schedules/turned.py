"""Blocks that read along another axis than they write: transposed copies, and what is computed on the way."""

from __future__ import annotations

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.expressions import elements
from fxpasses.codegen.schedules.kernel import Kernel, NoFit
from fxpasses.codegen.schedules.memory import step

__all__ = ["TURNED", "turned"]

TURNED = "fxpasses.turned"
"""The annotation of the loop along which a block reads, for `fxpasses.codegen.turned`: how many lanes a vector has."""

# So many independent squares are enough for the threads.
_MANY = 8


def turned(kernel: Kernel, block: Block) -> None:
    """Squares, that are read in vectors along one axis and written in vectors along another."""
    if not (block.is_elementwise and block.is_plain and len(block.vars) > 1) or block.has_parts:
        raise NoFit
    assert block.store is not None
    writing = max(len(block.vars) - 1 - block.units, 0)
    across = [load for load in block.loads if step(block, load, writing) not in (0, 1)]
    if not across:
        raise NoFit
    source = across[0]
    along = [
        axis for axis in range(writing) if block.extents[axis] != 1 and step(block, source, axis) in (1, -1)
    ]
    lanes = kernel.cpu.lanes(source.source.dtype)
    sizes = [block.extents[axis] for axis in (*along, writing)]
    wide = source.source.dtype.bits in (32, 64) and block.lanes(kernel.cpu) == lanes
    if len(along) != 1 or not wide or any(size is not None and size < lanes for size in sizes):
        raise NoFit
    (reading,) = along
    loops = block.loops
    others = [loop for axis, loop in enumerate(loops) if axis not in (reading, writing)]
    kernel.sch.reorder(*others, loops[reading], loops[writing])
    outer = kernel.fuse(others, block) if others else None
    work = elements(block.extents)
    if outer is not None and (kernel.extent(outer) or _MANY) >= _MANY:
        kernel.parallel(outer, work)
    else:
        kernel.parallel(loops[reading], work)
    kernel.sch.annotate(loops[reading], TURNED, lanes)
