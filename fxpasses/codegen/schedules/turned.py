"""Blocks that read along another axis than they write: transposed copies, and what is computed on the way."""

from __future__ import annotations

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.expressions import elements
from fxpasses.codegen.schedules.kernel import Kernel, NoFit
from fxpasses.codegen.schedules.memory import step

__all__ = ["TURNED", "turned"]

TURNED = "fxpasses.turned"
"""The annotation of the loop along which a block reads, for `fxpasses.codegen.turned`: how many lanes a vector has."""

# So many elements stay together: the parts of a complex number.
_UNIT = 2

# So many independent squares are enough for the threads.
_MANY = 8


def turned(kernel: Kernel, block: Block) -> None:
    """Squares, that are read in vectors along one axis and written in vectors along another.

    What lies side by side on both sides, as the parts of a complex number do, stays together.
    """
    if not (block.is_elementwise and block.is_plain and len(block.vars) > 1) or block.has_parts:
        raise NoFit
    assert block.store is not None
    writing = max(len(block.vars) - 1 - block.units, 0)
    unit = 1
    if block.extents[writing] == _UNIT and writing > 1 and _is_unit(block, writing):
        unit, writing = _UNIT, writing - 1
    across = [load for load in block.loads if step(block, load, writing) not in (0, unit)]
    if not across:
        raise NoFit
    source = across[0]
    along = [
        axis
        for axis in range(writing)
        if block.extents[axis] != 1 and step(block, source, axis) in (unit, -unit)
    ]
    # Half types are turned in the half of a vector: a square of all its lanes would not stay in registers.
    bits, whole = source.source.dtype.bits, kernel.cpu.lanes(source.source.dtype)
    lanes = whole // 2 if bits == 16 else whole
    sizes = [block.extents[axis] for axis in (*along, writing)]
    if len(along) != 1 or bits not in (16, 32, 64) or block.lanes(kernel.cpu) not in (lanes, whole):
        raise NoFit
    if lanes < 2 * unit or any(size is not None and size < lanes // unit for size in sizes):
        raise NoFit
    (reading,) = along
    loops = block.loops
    inner = [reading, writing, *range(writing + 1, len(loops) if unit > 1 else writing + 1)]
    others = [loop for axis, loop in enumerate(loops) if axis not in inner]
    kernel.sch.reorder(*others, *(loops[axis] for axis in inner))
    outer = kernel.fuse(others, block) if others else None
    work = elements(block.extents)
    if outer is not None and (kernel.extent(outer) or _MANY) >= _MANY:
        kernel.parallel(outer, work)
    else:
        kernel.parallel(loops[reading], work)
    if unit > 1:
        kernel.without_units(kernel.sch.get_loops(block.rv))  # one loop inside the two
    kernel.sch.annotate(loops[reading], TURNED, lanes)


def _is_unit(block: Block, axis: int) -> bool:
    """Whether all operands have the elements along *axis* side by side, and nothing else depends on it."""
    return axis not in block.places and all(step(block, load, axis) == 1 for load in block.loads)
