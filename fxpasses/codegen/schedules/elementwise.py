"""Blocks without a sum: outer loops in parallel, the innermost in vectors."""

from __future__ import annotations

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.expressions import elements
from fxpasses.codegen.schedules.kernel import Kernel, NoFit
from fxpasses.codegen.schedules.memory import stretch

__all__ = ["elementwise", "outer", "outermost"]


def elementwise(kernel: Kernel, block: Block) -> None:
    """Outer loops in parallel, the innermost in vectors."""
    if not (block.is_elementwise and block.is_plain and block.vars):
        raise NoFit
    lanes = block.lanes(kernel.cpu)
    loops = block.loops
    flat = 1 if block.places else stretch(block, range(len(block.vars)))
    flat = max(flat, min(block.units + 1, len(loops)))
    outer, inner = loops[: len(loops) - flat], kernel.fuse(loops[len(loops) - flat :], block)
    if outer:
        kernel.parallel(kernel.fuse(outer, block), elements(block.extents))
    else:
        kernel.parallel(inner, elements(block.extents))
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
