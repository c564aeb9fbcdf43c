"""Elementary functions: roots, exponentials, logarithms, trigonometry, error function."""

from __future__ import annotations

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
    one = S.const(1.0, S.dtype_of(x))
    return S.divide(one, S.add(one, T.tirx.exp(S.negative(x))))


# tanh(x) = x + x**3 * p(x**2) for |x| < 0.6; least maximal error, coefficients rounded to float32.
_TANH = (
    -0.33333319425582886,
    0.13332554697990417,
    -0.053838204592466354,
    0.020979415625333786,
    -0.00610749376937747,
)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent.

    In float32 a polynomial near zero and an exponential elsewhere, both exact
    to two units in the last place, so that a loop over it needs no calls but
    those of exp. TVM's own loses all digits near zero.
    """
    dtype = S.dtype_of(x)
    if dtype != "float32":
        return S.call_libm("tanh", x)

    def body(v: Any) -> Any:
        square = S.multiply(v, v)
        series = S.const(_TANH[-1], dtype)
        for coefficient in reversed(_TANH[:-1]):
            series = S.add(S.multiply(series, square), S.const(coefficient, dtype))
        small = S.add(v, S.multiply(S.multiply(v, square), series))
        one, two = S.const(1.0, dtype), S.const(2.0, dtype)
        size = T.tirx.abs(v)
        rest = S.divide(two, S.add(T.tirx.exp(S.multiply(size, two)), one))
        large = S.subtract(one, rest)
        large = S.select(v < S.const(0.0, dtype), S.negative(large), large)
        return S.select(size < S.const(0.6, dtype), small, large)

    return S.let(x, body)


def copysign(x: Any, y: Any) -> Any:
    """The size of *x* with the sign of *y*."""
    return T.tirx.copysign(x, y)


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
    aten.tanh.default: tanh,
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
lowering(aten.nextafter.default)(binary(_libm("nextafter")))
lowering(aten.copysign.Tensor, aten.copysign.Scalar)(binary(copysign, FLOAT))


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
