"""Blocks without a sum: outer loops in parallel, the innermost in vectors."""

from __future__ import annotations

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.expressions import elements
from fxpasses.codegen.schedules.kernel import PARALLEL_ELEMENTS, Kernel, NoFit
from fxpasses.codegen.schedules.memory import stretch

__all__ = ["elementwise", "outer", "outermost"]


def elementwise(kernel: Kernel, block: Block) -> None:
    """Outer loops in parallel, the innermost in vectors."""
    if not (block.is_elementwise and block.is_plain and block.vars):
        raise NoFit
    lanes = block.lanes(kernel.cpu)
    loops = block.loops
    flat = stretch(block, range(len(block.vars)))
    outer, inner = loops[: len(loops) - flat], kernel.fuse(loops[len(loops) - flat :], block)
    guarded = False
    if not outer:
        extent = kernel.extent(inner)
        size = _chunk(extent, lanes)
        if size is not None:
            guarded = extent is None or extent % size != 0
            chunk, inner = kernel.sch.split(inner, [None, size])
            outer = [chunk]
    if outer:
        kernel.parallel(kernel.fuse(outer, block), elements(block.extents))
    kernel.vectorize(inner, lanes, guarded=guarded)


def _chunk(extent: int | None, lanes: int) -> int | None:
    """How much of a flat loop one thread takes at a time; None to take all of it."""
    if extent is None:
        return 64 * lanes
    if extent < PARALLEL_ELEMENTS:
        return None
    if extent % lanes == 0:
        vectors = extent // lanes
        return lanes * max(size for size in range(1, 129) if vectors % size == 0)
    return 64 * lanes


def outer(kernel: Kernel, block: Block) -> None:
    """A block of any other form: its leading loops over the output in parallel."""
    count = len(block.kinds) - len(block.kinds.lstrip("S"))
    if not (count and block.is_plain):
        raise NoFit
    kernel.parallel(kernel.fuse(block.loops[:count], block), elements(block.extents))


def outermost(kernel: Kernel, block: Block) -> None:
    """A block whose loops must stay apart: the outermost in parallel, the innermost in vectors."""
    if not (block.is_elementwise and block.is_plain and block.vars):
        raise NoFit
    *outer, inner = block.loops
    first = next((loop for loop in outer if kernel.extent(loop) != 1), None)
    if first is not None:
        kernel.parallel(first, elements(block.extents))
    kernel.vectorize(inner, block.lanes(kernel.cpu))
