"""`compact_buffers`: TVM's `CompactBufferAllocation`, for the kernels in which it can find anything.

Where a schedule moves the maker of a buffer into the loop of its reader, the
buffer shrinks to what one round reads. Kernels that are written as loops, such
as that of a sort, have their buffers in statements: TVM follows each index of
theirs through all conditions, for half of the time of a sort's build, and
changes nothing.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules.expressions import returning_none
from fxpasses.relax import tvm_api as T

__all__ = ["compact_buffers"]


def compact_buffers() -> Any:
    """The module pass."""
    compact = T.s_tir.transform.CompactBufferAllocation()

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return compact(T.tvm.IRModule({"main": function}))["main"] if _allocates(function) else function

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.compact_buffers")


def _allocates(function: Any) -> bool:
    """Whether a block of *function* has buffers of its own."""
    blocks: list[Any] = []
    T.tvm_ffi.structural_walk(function.body, (T.s_tir.SBlock, returning_none(blocks.append)))
    return any(block.alloc_buffers for block in blocks)
