"""Elementwise blocks are inlined into those that read them, where that repeats little work."""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.kernel import Kernel
from fxpasses.relax import tvm_api as T

__all__ = ["inline"]


def inline(kernel: Kernel) -> None:
    """Inline what is worth it."""
    for block in kernel.blocks():
        readers = [kernel.block(rv) for rv in kernel.sch.get_consumers(block.rv)]
        if readers and block.is_elementwise and block.cell is None and _worth_inlining(block, readers):
            try:
                kernel.sch.compute_inline(block.rv)
            except T.ScheduleError:
                continue  # it stays a block of its own


def _worth_inlining(block: Block, readers: list[Block]) -> bool:
    if any(reader.store is None or reader.factors or reader.cell for reader in readers):
        return False  # it reads each element many times, and wants plain loads
    loads = [(reader, load) for reader in readers for load in reader.loads_of(block)]
    if len(loads) > 4:
        return False
    if not block.is_costly:
        return True
    # Not if the value is used more than once, or for many elements of a reader.
    return len(loads) == 1 and all(_used_once(reader, load) for reader, load in loads)


def _used_once(reader: Block, load: Any) -> bool:
    used = reader.uses(load.indices)
    return all(i in used or extent == 1 for i, extent in enumerate(reader.extents))
