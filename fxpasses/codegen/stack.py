"""`local_on_stack`: small buffers of the scope ``local`` live on the stack, where LLVM can keep them in registers.

TVM 0.27 asks its runtime for them, on each turn of the loop around them.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules.expressions import int_value, static_product
from fxpasses.codegen.schedules.kernel import STACK_BYTES
from fxpasses.relax import tvm_api as T

__all__ = ["local_on_stack"]


def local_on_stack() -> Any:
    """The pass, which runs before the calls of the runtime are written out."""

    def keep(allocation: Any) -> Any:
        buffer = allocation.buffer
        count = static_product([int_value(size) for size in buffer.shape])
        if buffer.scope() != "local" or count is None or count * buffer.dtype.bits // 8 > STACK_BYTES:
            return allocation
        kept = {**(allocation.annotations or {}), "disable_lower_builtin": T.tirx.IntImm("int32", 1)}
        return T.tirx.AllocBuffer(buffer, kept)

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(T.tirx.AllocBuffer, keep)])

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.local_on_stack")
