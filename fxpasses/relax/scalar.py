"""Arithmetic on single elements, with PyTorch's meaning, as TIR expressions.

Kernels are written with these functions and not with TVM's operators, because
TVM treats floats as real numbers when it simplifies (``x - x`` and ``x * 0.0``
become 0, ``x + 0.0`` and ``(x + y) - y`` become x, ``x == x`` is true, and
``not (x < y)`` becomes ``y <= x``), which is wrong for NaN, infinities, zeros
of either sign and rounding. The spelling here keeps the simplifier off without
costing an instruction. There is no `Let` in them either: TVM's passes for
bfloat16 do not look into it, and an inlined one may bind its variable twice.

Elements are in a *compute dtype*: float32, float64, an integer type, or bool
for truth values. Half types are converted to float32 first, as PyTorch does.

Integers wrap around, as in PyTorch. TVM and LLVM take sums and products of integers
not to overflow (``x + 1 > x`` becomes true, ``x * 2 // 2`` becomes x), so these are
computed in twice the width, int64 in 128 bits; LLVM narrows them to what they were.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from fxpasses.relax import tvm_api as T

__all__ = [
    "BITS",
    "add",
    "call_libm",
    "cast",
    "const",
    "copysign",
    "divide",
    "dtype_of",
    "equal",
    "greatest",
    "highest",
    "is_float",
    "is_half",
    "is_integer",
    "isinf",
    "isnan",
    "least",
    "logical_not",
    "lowest",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "not_equal",
    "opaque",
    "power",
    "rounded",
    "select",
    "subtract",
]

BITS = {"int8": 8, "uint8": 8, "int16": 16, "int32": 32, "int64": 64}

_SAME_WIDTH = {"float64": "int64", "float32": "int32", "float16": "int16", "bfloat16": "int16"}

_TWICE = {"int8": "int16", "uint8": "int16", "int16": "int32", "int32": "int64", "int64": "int128"}

_LARGEST = {
    "float64": 1.7976931348623157e308,
    "float32": 3.4028234663852886e38,
    "bfloat16": 3.3895313892515355e38,
    "float16": 65504.0,
}


def dtype_of(x: Any) -> str:
    """The dtype name of an expression."""
    return str(x.ty.dtype)


def is_float(dtype: str) -> bool:
    """Whether *dtype* is a floating-point type, half types included."""
    return "float" in dtype


def is_half(dtype: str) -> bool:
    """Whether *dtype* is computed in float32."""
    return dtype in ("float16", "bfloat16")


def is_integer(dtype: str) -> bool:
    """Whether *dtype* is an integer type; bool is none."""
    return dtype in BITS


# -- constants ---------------------------------------------------------------------


def const(value: Any, dtype: str) -> Any:
    """A Python number in *dtype*: wrapped for integers; float zeros kept from folding.

    An expression passes through `cast`.
    """
    if isinstance(value, T.tirx.IntImm):
        value = int(value)
    if not isinstance(value, bool | int | float):
        return cast(value, dtype)
    if dtype == "bool":
        return T.tirx.const(bool(value), "bool")
    if is_integer(dtype):
        return T.tirx.const(_wrap(int(value), dtype), dtype)
    if is_half(dtype):  # nothing computes in these
        return T.tirx.const(rounded(value, dtype), dtype)
    if dtype == "float32" and math.isfinite(value) and abs(value) > _LARGEST[dtype]:
        value = (
            torch.tensor(value, dtype=torch.float64).float().item()
        )  # TVM takes none that is infinite in it
    number = T.tirx.const(abs(float(value)) if value == 0 else float(value), dtype)
    if value != 0 and math.isfinite(value):
        return number
    # By way of an integer, since TVM's last pass but one takes away `opaque`.
    bits = _SAME_WIDTH[dtype]
    number = T.tirx.reinterpret(dtype, T.tirx.reinterpret(bits, number))
    negative_zero = value == 0 and math.copysign(1.0, value) < 0
    return number * T.tirx.const(-1.0, dtype) if negative_zero else number  # both zeros are equal to TVM


def _wrap(value: int, dtype: str) -> int:
    bits = BITS[dtype]
    value &= (1 << bits) - 1
    return value - (1 << bits) if dtype != "uint8" and value >> (bits - 1) else value


def rounded(value: float, dtype: str) -> float:
    """A Python number rounded to *dtype* where that is a half type."""
    if not is_half(dtype):
        return value
    return torch.tensor(float(value), dtype=torch.float64).to(getattr(torch, dtype)).item()


def opaque(x: Any) -> Any:
    """*x*, which TVM's simplifier cannot look into; it is nothing in machine code.

    By way of an integer, since TVM's last pass but one takes away a
    reinterpretation as the same type.
    """
    dtype = dtype_of(x)
    return T.tirx.reinterpret(dtype, T.tirx.reinterpret(_SAME_WIDTH[dtype], x))


def copysign(x: Any, y: Any) -> Any:
    """The size of the float *x* with the sign of *y*, by their bits: TVM 0.27 has its function for no vector."""
    dtype = dtype_of(x)
    bits = _SAME_WIDTH[dtype]
    size, sign = (
        T.tirx.const(number, bits) for number in ((1 << BITS[bits] - 1) - 1, -(1 << BITS[bits] - 1))
    )
    number, other = (T.tirx.reinterpret(bits, value) for value in (x, y))
    return T.tirx.reinterpret(dtype, (number & size) | (other & sign))


def lowest(dtype: str) -> Any:
    """The least value of *dtype*: -inf for floats."""
    if is_float(dtype):
        return const(-math.inf, dtype)
    if dtype in ("bool", "uint8"):
        return const(0, dtype)
    return const(-(1 << (BITS[dtype] - 1)), dtype)


def highest(dtype: str) -> Any:
    """The greatest value of *dtype*: inf for floats."""
    if is_float(dtype):
        return const(math.inf, dtype)
    if dtype == "bool":
        return const(True, dtype)
    return const(255 if dtype == "uint8" else (1 << (BITS[dtype] - 1)) - 1, dtype)


# -- conversion --------------------------------------------------------------------


def cast(x: Any, dtype: str) -> Any:
    """*x* converted as PyTorch's CPU kernels do.

    Floats become integers by truncation; where they do not fit, through a wider
    integer. Everything reaches a half type, and leaves one, through float32.
    """
    source = dtype_of(x)
    if source == dtype:
        return x
    if is_half(source) and dtype != "float32":
        return cast(x.astype("float32"), dtype)
    if is_half(dtype) and source != "float32":
        return cast(cast(x, "float32"), dtype)
    if is_half(dtype) and isinstance(x, T.tirx.FloatImm):
        return const(float(x.value), dtype)
    if dtype == "bfloat16":
        return _to_bfloat16(x)
    if is_float(source) and dtype == "uint8":
        return x.astype("int64").astype(dtype)
    if is_float(source) and dtype in ("int8", "int16"):
        return x.astype("int32").astype(dtype)
    return x.astype(dtype)


def _to_bfloat16(x: Any) -> Any:
    """Rounded half to even.

    TVM's own conversion repeats the expression of *x*, calls included. Here it
    is rounded by one addition of float64: the bits of *x* are the last ones
    of the float64 ``2**52 + bits``, and at ``2**68`` a float64 has steps of
    ``2**16``, so that adding the two leaves the upper half of the bits.
    """
    tirx = T.tirx
    bits = tirx.reinterpret("uint32", x).astype("uint64") | tirx.const(0x433 << 52, "uint64")
    rounded = tirx.reinterpret("float64", bits) + tirx.const(2.0**68, "float64")
    return tirx.reinterpret("bfloat16", tirx.reinterpret("uint64", rounded).astype("uint16"))


# -- truth values ------------------------------------------------------------------


def select(condition: Any, x: Any, y: Any) -> Any:
    """*x* where *condition* holds, else *y*; both are computed."""
    return T.tirx.Select(condition, x, y)


def logical_not(x: Any) -> Any:
    """The negation of a truth value."""
    return T.tirx.bitwise_xor(x, T.tirx.const(True, "bool"))


def equal(x: Any, y: Any) -> Any:
    """Whether *x* is *y*; false for NaN."""
    if is_float(dtype_of(x)):
        return (x <= y) & (x >= y)
    return x.equal(y)


def not_equal(x: Any, y: Any) -> Any:
    """Whether *x* is not *y*; true for NaN."""
    return logical_not(equal(x, y))


def isnan(x: Any) -> Any:
    """Whether *x* is NaN; never for an integer."""
    return T.tirx.isnan(x) if is_float(dtype_of(x)) else const(False, "bool")


def isinf(x: Any) -> Any:
    """Whether *x* is infinite; never for an integer."""
    dtype = dtype_of(x)
    if not is_float(dtype):
        return const(False, "bool")
    return T.tirx.abs(x) > T.tirx.const(_LARGEST[dtype], dtype)


# -- arithmetic --------------------------------------------------------------------


def add(x: Any, y: Any) -> Any:
    """``x + y``."""
    return _wrapping(lambda a, b: a + b, x, y)


def subtract(x: Any, y: Any) -> Any:
    """``x - y``."""
    if is_float(dtype_of(x)):
        return x - opaque(y)
    return _wrapping(lambda a, b: a - b, x, y)


def multiply(x: Any, y: Any) -> Any:
    """``x * y``."""
    return _wrapping(lambda a, b: a * b, x, y)


def negative(x: Any) -> Any:
    """``-x``."""
    dtype = dtype_of(x)
    if is_float(dtype):
        return x * T.tirx.const(-1.0, dtype)
    return subtract(const(0, dtype), x)


def divide(x: Any, y: Any) -> Any:
    """``x / y`` for floats; TVM takes what a zero is divided by for another number than zero."""
    return T.tirx.div(opaque(x), y)


def _wrapping(function: Any, x: Any, y: Any) -> Any:
    """The sum, difference or product, of integers in twice the width."""
    dtype = dtype_of(x)
    wide = _TWICE.get(dtype)
    if wide is None:
        return function(x, y)
    return function(x.astype(wide), y.astype(wide)).astype(dtype)


def maximum(x: Any, y: Any) -> Any:
    """The greater one; NaN where one of them is NaN."""
    if is_float(dtype_of(x)):
        return select((x > y) | isnan(x), x, y)
    return T.tirx.max(x, y)


def minimum(x: Any, y: Any) -> Any:
    """The lesser one; NaN where one of them is NaN."""
    if is_float(dtype_of(x)):
        return select((x < y) | isnan(x), x, y)
    return T.tirx.min(x, y)


def greatest(so_far: Any, x: Any) -> Any:
    """As `maximum`, for many values in turn: *so_far* goes through two instructions for each."""
    return select(isnan(x), x, select(so_far < x, x, so_far)) if is_float(dtype_of(x)) else maximum(so_far, x)


def least(so_far: Any, x: Any) -> Any:
    """As `minimum`, for many values in turn: *so_far* goes through two instructions for each."""
    return select(isnan(x), x, select(x < so_far, x, so_far)) if is_float(dtype_of(x)) else minimum(so_far, x)


def power(x: Any, y: Any) -> Any:
    """``x ** y`` of floats."""
    return T.tirx.power(x, opaque(y))  # TVM has advice on constant exponents, which it prints


def call_libm(name: str, *operands: Any) -> Any:
    """A function of C's math library on float32 or float64."""
    dtype = dtype_of(operands[0])
    return T.tirx.call_pure_extern(dtype, name + ("f" if dtype == "float32" else ""), *operands)
