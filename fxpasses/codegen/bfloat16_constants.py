"""`bfloat16_constants`: constants of bfloat16, and vectors of one number, as their bits.

TVM 0.27 keeps bfloat16 as integers of 16 bits, but leaves constants and
broadcasts as they are, and then refuses to store a vector of them.
"""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.codegen.schedules.expressions import op_name
from fxpasses.relax import tvm_api as T

__all__ = ["bfloat16_constants"]


def bfloat16_constants() -> Any:
    """The pass, for kernels whose vectors are written out."""
    tirx = T.tirx

    def as_bits(number: Any) -> Any:
        if str(number.ty.dtype) != "bfloat16":
            return number
        bits = torch.tensor(number.value, dtype=torch.bfloat16).view(torch.uint16).item()
        return tirx.reinterpret("bfloat16", tirx.const(bits, "uint16"))

    def widened(vector: Any) -> Any:
        value, dtype = vector.value, str(vector.ty.dtype)
        if not dtype.startswith("bfloat16"):
            return vector
        is_bits = isinstance(value, T.ir.Call) and op_name(value) == "reinterpret"
        bits = value.args[0] if is_bits else tirx.reinterpret("uint16", value)
        return tirx.reinterpret(dtype, tirx.Broadcast(bits, vector.lanes))

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(tirx.FloatImm, as_bits), (tirx.Broadcast, widened)])

    return tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.bfloat16_constants")
