"""Activation functions.

Half types are computed in float32 throughout and rounded once.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.elementwise import elementwise, unary
from fxpasses.relax.ops.elementary import sigmoid
from fxpasses.relax.table import lowering

aten = torch.ops.aten


def relu(x: Any) -> Any:
    """0 where *x* is negative, else *x*, NaN included."""
    zero = S.const(0, S.dtype_of(x))
    return S.select(x < zero, zero, x)


def silu(x: Any) -> Any:
    """``x * sigmoid(x)``."""
    return S.divide(x, S.add(S.const(1.0, S.dtype_of(x)), T.tirx.exp(S.negative(x))))


def mish(x: Any) -> Any:
    """``x * tanh(log(1 + exp(x)))``, written with one exponential.

    With ``e = exp(x)`` the hyperbolic tangent is ``e * (e + 2) / (e * (e + 2) + 2)``,
    which is 1 long before the product overflows.
    """
    dtype = S.dtype_of(x)
    two, limit = S.const(2.0, dtype), S.const(40.0, dtype)
    raised = T.tirx.exp(S.select(x > limit, limit, x))
    product = S.multiply(raised, S.add(raised, two))
    return S.multiply(x, S.divide(product, S.add(product, two)))


def _zero_to_six(x: Any) -> Any:
    dtype = S.dtype_of(x)
    shifted = S.add(x, S.const(3.0, dtype))
    return S.minimum(S.const(6.0, dtype), S.maximum(S.const(0.0, dtype), shifted))


def hardsigmoid(x: Any) -> Any:
    """``min(max(x + 3, 0), 6) / 6``."""
    return S.divide(_zero_to_six(x), S.const(6.0, S.dtype_of(x)))


def hardswish(x: Any) -> Any:
    """``x * hardsigmoid(x)``."""
    return S.divide(S.multiply(x, _zero_to_six(x)), S.const(6.0, S.dtype_of(x)))


for _op, _function in {
    aten.relu.default: relu,
    aten.silu.default: silu,
    aten.mish.default: mish,
    aten.hardsigmoid.default: hardsigmoid,
    aten.hardswish.default: hardswish,
}.items():
    lowering(_op)(unary(_function))


def gelu_erf(x: Any) -> Any:
    """``x / 2 * (1 + erf(x / sqrt(2)))``."""
    dtype = S.dtype_of(x)
    inner = T.tirx.erf(S.multiply(x, S.const(math.sqrt(0.5), dtype)))
    return S.multiply(S.multiply(x, S.const(0.5, dtype)), S.add(inner, S.const(1.0, dtype)))


def gelu_tanh(x: Any) -> Any:
    """``x / 2 * (1 + tanh(u))`` of ``u = sqrt(2 / pi) * (x + 0.044715 * x**3)``, as ``x / (1 + exp(-2 * u))``."""
    dtype = S.dtype_of(x)
    scale = -2.0 * math.sqrt(2.0 / math.pi)
    linear, cubic = S.const(scale, dtype), S.const(0.044715 * scale, dtype)
    exponent = S.multiply(x, S.add(S.multiply(S.multiply(x, x), cubic), linear))
    return S.divide(x, S.add(S.const(1.0, dtype), T.tirx.exp(exponent)))


_GELU = {"none": gelu_erf, "tanh": gelu_tanh}


@lowering(aten.gelu.default)
def gelu(b: Any, self: Any, *, approximate: Any) -> Any:
    return elementwise(b, _GELU[approximate], self)


def _leaky_relu(x: Any, slope: Any) -> Any:
    return S.select(x > S.const(0, S.dtype_of(x)), x, S.multiply(x, slope))


@lowering(aten.leaky_relu.default)
def leaky_relu(b: Any, self: Any, negative_slope: Any) -> Any:
    return elementwise(b, _leaky_relu, self, negative_slope)


@lowering(aten._prelu_kernel.default)
def prelu(b: Any, self: Any, weight: Any) -> Any:
    return elementwise(b, _leaky_relu, self, weight)


def _elu(x: Any, alpha: Any, scale: Any, input_scale: Any) -> Any:
    below = S.call_libm("expm1", S.multiply(x, input_scale))
    below = S.multiply(below, S.multiply(alpha, scale))
    return S.select(x < S.const(0.0, S.dtype_of(x)), below, S.multiply(x, scale))


@lowering(aten.elu.default)
def elu(b: Any, self: Any, alpha: Any, scale: Any, input_scale: Any) -> Any:
    return elementwise(b, _elu, self, alpha, scale, input_scale)


def _hardtanh(x: Any, low: Any, high: Any) -> Any:
    return S.minimum(high, S.maximum(low, x))


@lowering(aten.hardtanh.default)
def hardtanh(b: Any, self: Any, min_val: Any, max_val: Any) -> Any:
    return elementwise(b, _hardtanh, self, min_val, max_val, compute=_own_dtype(b, self), numbers="rounded")


def _own_dtype(b: Any, self: Any) -> str:
    dtype = b.dtype_of(self)
    return "float32" if S.is_half(dtype) else dtype


def _softplus(x: Any, beta: Any, threshold: Any) -> Any:
    scaled = S.multiply(x, beta)
    return S.select(scaled > threshold, x, S.divide(T.tirx.log1p(T.tirx.exp(scaled)), beta))


@lowering(aten.softplus.default)
def softplus(b: Any, self: Any, beta: Any, threshold: Any) -> Any:
    return elementwise(b, _softplus, self, beta, threshold)


def log_sigmoid(x: Any) -> Any:
    """``log(sigmoid(x))`` without the overflow of exp."""
    dtype = S.dtype_of(x)
    decay = T.tirx.log1p(T.tirx.exp(S.negative(T.tirx.abs(x))))
    return S.subtract(S.minimum(S.const(0.0, dtype), x), decay)


__all__ = ["gelu_erf", "gelu_tanh", "log_sigmoid", "relu", "sigmoid", "silu"]
