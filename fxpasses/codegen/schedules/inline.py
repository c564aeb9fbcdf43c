"""Elementwise blocks are inlined into those that read them, where that repeats little work."""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.kernel import Kernel
from fxpasses.codegen.target import CpuInfo
from fxpasses.relax import tvm_api as T

__all__ = ["inline"]

_LARGEST = 32
"""Loads of an expression, each counted as often as it is written out, up to which blocks are inlined into it.

A value that is used twice is written out twice, and so is each that it was made of.
"""

_FEW = 8
"""Instructions that are rather repeated for every element of a reader than kept in memory."""


def inline(kernel: Kernel) -> None:
    """Inline what is worth it."""
    for rv in [block.rv for block in kernel.blocks()]:
        block = kernel.block(rv)  # as it is now, with what was inlined into it
        readers = [kernel.block(reader) for reader in kernel.sch.get_consumers(rv)]
        if (
            readers
            and block.is_elementwise
            and block.cell is None
            and _worth_inlining(block, readers)
            and not (block.is_costly and any(_is_wider(reader, block, kernel.cpu) for reader in readers))
        ):
            try:
                kernel.sch.compute_inline(rv)
            except T.ScheduleError:
                continue  # it stays a block of its own


def _worth_inlining(block: Block, readers: list[Block]) -> bool:
    if any(reader.store is None or reader.factors or reader.cell for reader in readers):
        return False  # it reads each element many times, and wants plain loads
    loads = [(reader, load) for reader in readers for load in reader.loads_of(block)]
    if len(loads) > 4:
        return False
    size = sum(block.occurrences.values())
    if any(reader.occurrences[block.store.buffer] * size > _LARGEST for reader in readers):  # type: ignore[union-attr]
        return False
    if not block.is_costly and block.steps * len(loads) <= _FEW:
        return True
    # Not if it is used for many elements of a reader, nor if it is costly and used more than once.
    return all(_used_once(reader, load) for reader, load in loads) and (
        len(loads) == 1 or not block.is_costly
    )


def _is_wider(reader: Block, block: Block, cpu: CpuInfo) -> bool:
    """Whether *reader* sums up in a type of which a vector has fewer elements than *block* makes at a time."""
    return reader.is_reduction and reader.lanes(cpu) < block.lanes(cpu)


def _used_once(reader: Block, load: Any) -> bool:
    used = reader.uses(load.indices)
    return all(i in used or extent == 1 for i, extent in enumerate(reader.extents))
