"""Blocks without a sum: outer loops in parallel, the innermost in vectors."""

from __future__ import annotations

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.expressions import elements
from fxpasses.codegen.schedules.kernel import Kernel, NoFit
from fxpasses.codegen.schedules.memory import stretch
from fxpasses.relax.kernel import PARALLEL_ELEMENTS

__all__ = ["elementwise", "outer", "outermost"]

_SHARES = 16
"""Steps of a loop that are enough to share among threads."""


def elementwise(kernel: Kernel, block: Block) -> None:
    """Outer loops in parallel, the innermost in vectors."""
    if not (block.is_elementwise and block.is_plain and block.vars):
        raise NoFit
    lanes = block.lanes(kernel.cpu)
    loops = block.loops
    flat = stretch(block, range(max(block.places, default=-1) + 1, len(block.vars)))
    flat = max(flat, min(block.units + 1, len(loops)))
    outer, inner = loops[: len(loops) - flat], kernel.fuse(loops[len(loops) - flat :], block)
    within = elements([kernel.extent(inner)])
    shared = inner
    if outer:
        around = kernel.fuse(outer, block)
        if within < PARALLEL_ELEMENTS or elements([kernel.extent(around)]) >= _SHARES:
            shared, within = around, elements(block.extents)
    kernel.parallel(shared, within)
    kernel.vectorize(inner, lanes)


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
    *outer, inner = kernel.without_units(block.loops)
    first = next((loop for loop in outer if kernel.extent(loop) != 1), None)
    if first is not None:
        kernel.parallel(first, elements(block.extents))
    kernel.vectorize(inner, block.lanes(kernel.cpu))
