"""Arithmetic: sums, products, quotients, powers, rounding, signs.

Integers wrap around. An integer division by zero, an error in eager PyTorch,
gives an unspecified value here; it does not stop the process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from fxpasses.errors import LoweringError
from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.elementwise import (
    Element,
    Promotion,
    binary,
    broadcast,
    compute_dtype,
    elementwise,
    unary,
    within,
)
from fxpasses.relax.kernel import grid, load, loops, store, when
from fxpasses.relax.table import lowering
from fxpasses.signature import dtype_name

aten = torch.ops.aten

FLOAT = Promotion.INT_TO_FLOAT


# -- sums, differences, products ---------------------------------------------------


def _add_scaled(x: Any, y: Any, alpha: Any) -> Any:
    return S.add(x, S.multiply(y, alpha))


def _subtract_scaled(x: Any, y: Any, alpha: Any) -> Any:
    return S.subtract(x, S.multiply(y, alpha))


@lowering(aten.add.Tensor)
def add_tensor(b: Any, self: Any, other: Any, *, alpha: Any) -> Any:
    return _sum(b, S.add, _add_scaled, self, other, alpha)


@lowering(aten.add.Scalar)
def add_scalar(b: Any, self: Any, other: Any, alpha: Any) -> Any:
    return _sum(b, S.add, _add_scaled, self, other, alpha)


@lowering(aten.sub.Tensor)
def sub_tensor(b: Any, self: Any, other: Any, *, alpha: Any) -> Any:
    return _sum(b, S.subtract, _subtract_scaled, self, other, alpha)


@lowering(aten.sub.Scalar)
def sub_scalar(b: Any, self: Any, other: Any, alpha: Any) -> Any:
    return _sum(b, S.subtract, _subtract_scaled, self, other, alpha)


def _sum(b: Any, plain: Element, scaled: Element, self: Any, other: Any, alpha: Any) -> Any:
    function, factor = (plain, ()) if _is(alpha, 1) else (scaled, (alpha,))
    return elementwise(b, function, self, other, *factor, numbers="rounded")


def _is(value: Any, number: int) -> bool:
    return isinstance(value, bool | int | float) and value == number


lowering(aten.mul.Tensor, aten.mul.Scalar)(binary(S.multiply))


# -- quotients and remainders ------------------------------------------------------


def _integer_quotient(quotient: Callable[[Any, Any], Any], x: Any, y: Any) -> Any:
    """A quotient that neither divides by zero nor the least integer by -1, which would trap."""
    dtype = S.dtype_of(x)
    zero, one = S.const(0, dtype), S.const(1, dtype)
    if dtype == "uint8":
        return quotient(x, S.select(y.equal(zero), one, y))
    minus_one = S.const(-1, dtype)
    safe = S.select(y.equal(zero) | y.equal(minus_one), one, y)
    return S.select(y.equal(minus_one), S.negative(x), quotient(x, safe))


def _integer_remainder(remainder: Callable[[Any, Any], Any], x: Any, y: Any) -> Any:
    dtype = S.dtype_of(x)
    zero, one = S.const(0, dtype), S.const(1, dtype)
    trap = y.equal(zero) if dtype == "uint8" else y.equal(zero) | y.equal(S.const(-1, dtype))
    return remainder(x, S.select(trap, one, y))


def divide_trunc(x: Any, y: Any, half: str | None = None) -> Any:
    """The quotient rounded towards zero; that of half types is rounded to them before."""
    if S.is_float(S.dtype_of(x)):
        return T.tirx.trunc(_through(S.divide(x, y), half))
    return _integer_quotient(T.tirx.truncdiv, x, y)


def divide_floor(x: Any, y: Any) -> Any:
    """The quotient of integers rounded towards minus infinity."""
    return _integer_quotient(T.tirx.floordiv, x, y)


def exact_quotient(x: Any, y: Any, rest: Any, half: str | None = None) -> Any:
    """The quotient of floats without their remainder *rest*, which is close to an integer."""
    quotient = _through(S.divide(_through(S.subtract(x, rest), half), y), half)
    one, zero = (S.const(number, S.dtype_of(x)) for number in (1.0, 0.0))
    return S.subtract(quotient, S.select(_signs_differ(rest, y), one, zero))


def divide_floor_float(x: Any, y: Any, rest: Any, quotient: Any) -> Any:
    """The quotient of floats rounded towards minus infinity.

    It is derived from the exact remainder, since the rounded quotient may lie
    on the other side of an integer. Half types are rounded at each step.
    """
    zero, one, middle = (S.const(number, S.dtype_of(x)) for number in (0.0, 1.0, 0.5))
    floor = T.tirx.floor(quotient)
    whole = S.add(floor, S.select(S.subtract(quotient, floor) > middle, one, zero))
    whole = S.select(S.equal(quotient, zero), S.copysign(zero, S.divide(x, y)), whole)
    return S.select(S.equal(y, zero), S.divide(x, y), whole)


def _through(x: Any, half: str | None) -> Any:
    return x if half is None else S.cast(S.cast(x, half), S.dtype_of(x))


def fmod(x: Any, y: Any) -> Any:
    """The remainder with the sign of *x*."""
    if S.is_float(S.dtype_of(x)):
        return S.call_libm("fmod", x, y)
    return _integer_remainder(T.tirx.truncmod, x, y)


def remainder(x: Any, y: Any) -> Any:
    """The remainder of integers with the sign of *y*."""
    return _integer_remainder(T.tirx.floormod, x, y)


def remainder_float(x: Any, y: Any, rest: Any) -> Any:
    """The remainder of floats with the sign of *y*, from that with the sign of *x*."""
    return S.select(_signs_differ(rest, y), S.add(rest, y), rest)


def _signs_differ(rest: Any, y: Any) -> Any:
    """Whether a remainder is not zero and has another sign than the divisor."""
    zero = S.const(0.0, S.dtype_of(y))
    return ((rest < zero) & (y >= zero)) | ((rest > zero) & (y < zero))


lowering(aten.div.Tensor, aten.div.Scalar)(binary(S.divide, FLOAT))
lowering(aten.fmod.Tensor, aten.fmod.Scalar)(binary(fmod, numbers="rounded"))


@lowering(aten.remainder.Tensor, aten.remainder.Scalar, aten.remainder.Scalar_Tensor)
def remainder_row(b: Any, self: Any, other: Any) -> Any:
    if S.is_float(compute_dtype(b)):
        return elementwise(b, remainder_float, self, other, numbers="rounded", first=(fmod,))
    return elementwise(b, remainder, self, other, numbers="rounded")


@cache
def _trunc_of(half: str | None) -> Element:
    return lambda x, y: divide_trunc(x, y, half)


@cache
def _quotient_of(half: str | None) -> Element:
    return lambda x, y, rest: exact_quotient(x, y, rest, half)


@lowering(aten.div.Tensor_mode, aten.div.Scalar_mode)
def div_mode(b: Any, self: Any, other: Any, *, rounding_mode: Any) -> Any:
    if rounding_mode is None:
        return elementwise(b, S.divide, self, other, compute=compute_dtype(b, FLOAT))
    result = dtype_name(b.val.dtype)
    is_tensor = isinstance(getattr(other, "ty", None), T.TensorType) and b.shape_of(other)
    half = result if S.is_half(result) and is_tensor else None
    if rounding_mode == "trunc":
        return elementwise(b, _trunc_of(half), self, other)
    if not S.is_float(result):
        return elementwise(b, divide_floor, self, other)
    return elementwise(b, divide_floor_float, self, other, first=(fmod, _quotient_of(half)))


def reciprocal(x: Any) -> Any:
    """``1 / x``."""
    return S.divide(S.const(1.0, S.dtype_of(x)), x)


lowering(aten.reciprocal.default)(unary(reciprocal, FLOAT))


# -- powers ------------------------------------------------------------------------


def _power(b: Any, self: Any, exponent: Any) -> Any:
    compute = compute_dtype(b)
    if S.is_float(compute):
        return elementwise(b, S.power, self, exponent, numbers="rounded")
    return b.cast(b.te(_integer_power_kernel(compute), self, exponent), b.val.dtype)


@cache
def _integer_power_kernel(dtype: str) -> Callable[[Any, Any], Any]:
    """``x ** y`` by squaring; 0 where *y* is negative and *x* neither 1 nor -1."""

    def kernel(x: Any, y: Any) -> Any:
        tensors = [value for value in (x, y) if hasattr(value, "shape")]
        shape = broadcast([tensor.shape for tensor in tensors])

        def body(*buffers: Any) -> None:
            result, square = buffers[-1], T.ir_builder.tirx.alloc_buffer([1], dtype, scope="local")
            zero, one, minus_one = (S.const(number, dtype) for number in (0, 1, -1))
            with grid(*shape) as at:
                operands = iter(buffers)

                def element(value: Any) -> Any:
                    if not hasattr(value, "shape"):
                        return S.const(value, dtype)
                    return S.cast(load(next(operands), within(value.shape, shape, at)), dtype)

                base, power = element(x), element(y)
                store(square, base, [0])
                store(result, one, at)
                with T.ir_builder.tirx.serial(0, S.BITS[dtype] - (dtype != "uint8")) as bit:
                    taken = (power >> bit.astype(dtype)) & one
                    with when(S.not_equal(taken, zero)):
                        store(result, S.multiply(load(result, at), load(square, [0])), at)
                    store(square, S.multiply(load(square, [0]), load(square, [0])), [0])
                if dtype != "uint8":
                    sign = S.select(S.not_equal(power & one, zero), minus_one, one)
                    inverse = S.select(base.equal(minus_one), sign, zero)
                    with when(power < zero):
                        store(result, S.select(base.equal(one), one, inverse), at)

        return loops(tensors, [(shape, dtype)], body, "power")

    return kernel


@cache
def _power_of(exponent: float) -> Element:
    """A function for the exponents that PyTorch has a formula for, else `power`."""
    if exponent == 0:
        return lambda x: S.const(1.0, S.dtype_of(x))
    if exponent == 1:
        return lambda x: x
    if exponent == 0.5:
        return lambda x: T.tirx.sqrt(x)
    if exponent == -0.5:
        return lambda x: reciprocal(T.tirx.sqrt(x))
    if exponent == -1:
        return reciprocal
    if exponent == 2:
        return lambda x: S.multiply(x, x)
    if exponent == 3:
        return lambda x: S.multiply(S.multiply(x, x), x)
    if exponent == -2:
        return lambda x: reciprocal(S.multiply(x, x))
    return lambda x: S.power(x, S.const(exponent, S.dtype_of(x)))


@lowering(aten.pow.Tensor_Tensor, aten.pow.Scalar)
def pow(b: Any, self: Any, exponent: Any) -> Any:
    return _power(b, self, exponent)


@lowering(aten.pow.Tensor_Scalar)
def pow_scalar(b: Any, self: Any, exponent: Any) -> Any:
    compute = compute_dtype(b)
    if S.is_float(compute) and isinstance(exponent, int | float):
        own = b.dtype_of(self)
        exponent = S.rounded(exponent, own)
        if own == "float16" and abs(exponent) == 0.5:  # PyTorch's formula is for the other types
            return _power(b, self, exponent)
        return elementwise(b, _power_of(exponent), self)
    if isinstance(exponent, int) and exponent < 0:
        raise LoweringError("integers to negative integer powers are not allowed, in PyTorch either")
    if isinstance(exponent, int) and exponent in (2, 3):
        return elementwise(b, _power_of(exponent), self)
    return _power(b, self, exponent)


# -- signs and rounding ------------------------------------------------------------


def absolute(x: Any) -> Any:
    """``|x|``; the least integer stays as it is."""
    dtype = S.dtype_of(x)
    if dtype == "uint8":
        return x
    return T.tirx.abs(x) if S.is_float(dtype) else S.select(x < S.const(0, dtype), S.negative(x), x)


def sign(x: Any) -> Any:
    """-1, 0 or 1; 0 for NaN."""
    dtype = S.dtype_of(x)
    zero, one = S.const(0, dtype), S.const(1, dtype)
    if dtype == "uint8":
        return S.select(x > zero, one, zero)
    return S.select(x > zero, one, S.select(x < zero, S.const(-1, dtype), zero))


def _whole(function: str) -> Element:
    """A rounding function; it leaves integers alone."""

    def element(x: Any) -> Any:
        return getattr(T.tirx, function)(x) if S.is_float(S.dtype_of(x)) else x

    return element


_UNARY: dict[Any, Element] = {
    aten.abs.default: absolute,
    aten.neg.default: S.negative,
    aten.sign.default: sign,
    aten.ceil.default: _whole("ceil"),
    aten.floor.default: _whole("floor"),
    aten.trunc.default: _whole("trunc"),
    aten.round.default: _whole("nearbyint"),  # half to even
}
for _op, _function in _UNARY.items():
    lowering(_op)(unary(_function))


@cache
def _round_to(decimals: int) -> Element:
    def element(x: Any) -> Any:
        scale = S.const(10.0 ** abs(decimals), S.dtype_of(x))
        if decimals < 0:
            return S.multiply(T.tirx.nearbyint(S.divide(x, scale)), scale)
        return S.divide(T.tirx.nearbyint(S.multiply(x, scale)), scale)

    return element


@lowering(aten.round.decimals)
def round_decimals(b: Any, self: Any, *, decimals: Any) -> Any:
    if decimals == 0 or not S.is_float(b.dtype_of(self)):
        return elementwise(b, _UNARY[aten.round.default], self)
    return elementwise(b, _round_to(decimals), self)


# -- greater and lesser ------------------------------------------------------------


def fmax(x: Any, y: Any) -> Any:
    """The greater one; the other one where one of them is NaN."""
    return S.select((x >= y) | S.isnan(y), x, y)


def fmin(x: Any, y: Any) -> Any:
    """The lesser one; the other one where one of them is NaN."""
    return S.select((x <= y) | S.isnan(y), x, y)


lowering(aten.maximum.default)(binary(S.maximum))
lowering(aten.minimum.default)(binary(S.minimum))
lowering(aten.fmax.default)(binary(fmax))
lowering(aten.fmin.default)(binary(fmin))


def _clamp_low(x: Any, low: Any) -> Any:
    return S.maximum(low, x)


def _clamp_high(x: Any, high: Any) -> Any:
    return S.minimum(high, x)


def _clamp(x: Any, low: Any, high: Any) -> Any:
    return S.minimum(high, S.maximum(low, x))


@lowering(aten.clamp.default, aten.clamp.Tensor)
def clamp(b: Any, self: Any, min: Any, max: Any) -> Any:
    bounds = [bound for bound in (min, max) if bound is not None]
    function = _clamp if len(bounds) == 2 else _clamp_low if max is None else _clamp_high
    return elementwise(b, function, self, *bounds, numbers="rounded")
