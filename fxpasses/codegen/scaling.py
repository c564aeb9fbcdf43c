"""Products of float32 numbers with powers of two, ``ldexp(x, n)``, in vectors.

AVX-512 has an instruction for them, which LLVM chooses. For any other target
they are written as products with two powers of two, since the powers of the
largest and the smallest results are no float32.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules.expressions import op_name
from fxpasses.codegen.target import target_features
from fxpasses.relax import tvm_api as T

__all__ = ["by_factors", "has_scale", "scale_in_vectors"]


def has_scale(function: Any) -> bool:
    """Whether the target that *function* is bound to has the instruction."""
    return "avx512f" in target_features(function.attrs["target"])


def by_factors(call: Any) -> Any:
    """``x * 2 ** h * 2 ** (n - h)`` for ``ldexp(x, n)``; any other call as it is."""
    if op_name(call) != "ldexp" or str(call.ty.dtype) != "float32":
        return call
    value, n = call.args
    half = n >> 1
    return value * _power_of_two(half) * _power_of_two(n - half)


def _power_of_two(exponent: Any) -> Any:
    return T.tirx.reinterpret("float32", (exponent + 127) << 23)


def scale_in_vectors() -> Any:
    """The pass that takes the instruction, once the vectors are written out; TVM would call the C library."""

    def replace(call: Any) -> Any:
        if op_name(call) != "ldexp" or not str(call.ty.dtype).startswith("float32"):
            return call
        return T.tirx.call_llvm_pure_intrin(call.ty.dtype, "llvm.ldexp", *call.args)

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(T.ir.Call, replace)]) if has_scale(function) else function

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.scale_in_vectors")
