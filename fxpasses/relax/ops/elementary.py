"""Elementary functions: roots, exponentials, logarithms, trigonometry, error function."""

from __future__ import annotations

import math
from typing import Any

import torch

from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.elementwise import Element, Promotion, binary, compute_dtype, elementwise, unary
from fxpasses.relax.table import lowering

aten = torch.ops.aten

FLOAT = Promotion.INT_TO_FLOAT


def _intrinsic(name: str) -> Element:
    """A function that TVM has an intrinsic for, as exact as C's."""
    return lambda x: getattr(T.tirx, name)(x)


def _libm(name: str) -> Element:
    """A function that TVM has no intrinsic for, or an inexact one."""
    return lambda *operands: S.call_libm(name, *operands)


def rsqrt(x: Any) -> Any:
    """``1 / sqrt(x)``."""
    return S.divide(S.const(1.0, S.dtype_of(x)), T.tirx.sqrt(x))


def sigmoid(x: Any) -> Any:
    """``1 / (1 + exp(-x))``."""
    return T.tirx.sigmoid(x)


_UNARY: dict[Any, Element] = {
    aten.sqrt.default: _intrinsic("sqrt"),
    aten.rsqrt.default: rsqrt,
    aten.exp.default: _intrinsic("exp"),
    aten.exp2.default: _intrinsic("exp2"),
    aten.expm1.default: _libm("expm1"),
    aten.log.default: _intrinsic("log"),
    aten.log2.default: _intrinsic("log2"),
    aten.log10.default: _intrinsic("log10"),
    aten.log1p.default: _intrinsic("log1p"),
    aten.sin.default: _intrinsic("sin"),
    aten.cos.default: _intrinsic("cos"),
    aten.tan.default: _intrinsic("tan"),
    aten.asin.default: _intrinsic("asin"),
    aten.acos.default: _intrinsic("acos"),
    aten.atan.default: _intrinsic("atan"),
    aten.sinh.default: _libm("sinh"),
    aten.cosh.default: _libm("cosh"),
    aten.tanh.default: _libm("tanh"),
    aten.asinh.default: _libm("asinh"),
    aten.acosh.default: _libm("acosh"),
    aten.atanh.default: _libm("atanh"),
    aten.erf.default: _intrinsic("erf"),
    aten.erfc.default: _libm("erfc"),
    aten.lgamma.default: _libm("lgamma"),
    aten.sigmoid.default: sigmoid,
}
for _op, _function in _UNARY.items():
    lowering(_op)(unary(_function, FLOAT))

lowering(aten.atan2.default)(binary(_libm("atan2"), FLOAT))
lowering(aten.hypot.default)(binary(_libm("hypot")))
lowering(aten.copysign.Tensor, aten.copysign.Scalar)(binary(S.copysign, FLOAT))


def _next_half(x: Any, y: Any) -> Any:
    """The number of a half type that comes after *x* on the way to *y*: their bits are in order."""
    dtype = S.dtype_of(x)
    here, there = S.cast(x, "float32"), S.cast(y, "float32")
    zero, one = S.const(0.0, "float32"), T.tirx.const(1, "int16")
    bits, bits_there = (_bits_of_half(v, dtype) for v in (x, y))
    larger = ((here < there) & (here > zero)) | ((here > there) & (here < zero))
    least = S.select(there < zero, T.tirx.const(1 - (1 << 15), "int16"), one)
    moved = S.select(S.equal(here, zero), least, S.select(larger, bits + one, bits - one))
    moved = S.select(S.equal(here, there), bits_there, moved)
    lost = S.isnan(here) | S.isnan(there)
    return S.select(lost, S.const(math.nan, dtype), T.tirx.reinterpret(dtype, moved))


def _bits_of_half(x: Any, dtype: str) -> Any:
    """The bits of a half type; those of bfloat16 by way of float32, in which TVM computes what *x* is."""
    if dtype != "bfloat16":
        return T.tirx.reinterpret("int16", x)
    return T.tirx.shift_right(
        T.tirx.reinterpret("int32", S.cast(x, "float32")), T.tirx.const(16, "int32")
    ).astype("int16")


@lowering(aten.nextafter.default)
def nextafter(b: Any, self: Any, other: Any) -> Any:
    dtype = b.dtype(b.val.dtype)
    step = _next_half if S.is_half(dtype) else _libm("nextafter")
    return elementwise(b, step, self, other, compute=dtype)


def _logit(x: Any) -> Any:
    return T.tirx.log(S.divide(x, S.subtract(S.const(1.0, S.dtype_of(x)), x)))


def _logit_within(x: Any, eps: Any) -> Any:
    high = S.subtract(S.const(1.0, S.dtype_of(x)), eps)
    return _logit(S.minimum(high, S.maximum(eps, x)))


@lowering(aten.logit.default)
def logit(b: Any, self: Any, eps: Any) -> Any:
    compute = compute_dtype(b, FLOAT)
    if eps is None:
        return elementwise(b, _logit, self, compute=compute)
    return elementwise(b, _logit_within, self, eps, compute=compute)
