"""`opaque_floats`: float numbers that are made of sizes are no concern of an analyzer of integers.

LLVM's code generation tells TVM's analyzer the value of each variable that it meets. TVM 0.27
fails on products of floats that are made of integers within known bounds, as the scales of
`interpolate` are where sizes of input and output vary. Such a value takes a detour through the
integer of the same bits, which costs nothing and says nothing.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules.expressions import returning_none
from fxpasses.relax import tvm_api as T

__all__ = ["opaque_floats"]

_BITS = {"float16": "int16", "float32": "int32", "float64": "int64"}


def opaque_floats() -> Any:
    """The pass; it comes behind what makes variables of common subexpressions."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(T.tirx.Bind, _opaque)])

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.opaque_floats")


def _opaque(bind: Any) -> Any:
    dtype = str(bind.var.ty.dtype)
    if dtype not in _BITS or not _is_made_of_integers(bind.value):
        return bind
    bits = T.tirx.reinterpret(_BITS[dtype], bind.value)
    return T.tirx.Bind(bind.var, T.tirx.reinterpret(dtype, bits))


def _is_made_of_integers(value: Any) -> bool:
    casts: list[Any] = []
    T.tvm_ffi.structural_walk(value, (T.tirx.Cast, returning_none(casts.append)))
    return any("int" in str(cast.value.ty.dtype) for cast in casts)
