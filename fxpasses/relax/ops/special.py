"""Special functions, each by a series or a quotient of polynomials with some steps of Newton's method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.elementwise import Element, Promotion, compute_dtype, elementwise
from fxpasses.relax.table import lowering

aten = torch.ops.aten


def _number(value: float, like: Any) -> Any:
    return S.const(value, S.dtype_of(like))


def _polynomial(x: Any, coefficients: Sequence[float]) -> Any:
    """Horner's rule, the constant term first."""
    value = _number(coefficients[-1], x)
    for coefficient in coefficients[-2::-1]:
        value = S.add(S.multiply(value, x), _number(coefficient, x))
    return value


def _row(op: Any, function: Element, *first: Element) -> None:
    @lowering(op)
    def row(b: Any, self: Any) -> Any:
        compute = compute_dtype(b, Promotion.INT_TO_FLOAT)
        return elementwise(b, function, self, compute=compute, first=first)


# -- the inverse error function ----------------------------------------------------------

# Quotients of polynomials that are right to three digits, in the middle and towards the ends.
_MIDDLE = (
    (0.886226899, -1.645349621, 0.914624893, -0.140543331),
    (1.0, -2.118377725, 1.442710462, -0.329097515, 0.012229801),
)
_ENDS = ((-1.970840454, -1.62490649, 3.429567803, 1.641345311), (1.0, 3.543889200, 1.637067800))


def _erfinv_estimate(y: Any) -> Any:
    size, one, two = T.tirx.abs(y), _number(1.0, y), _number(2.0, y)
    square = S.multiply(y, y)
    middle = S.multiply(y, S.divide(_polynomial(square, _MIDDLE[0]), _polynomial(square, _MIDDLE[1])))
    tail = T.tirx.sqrt(S.negative(T.tirx.log(S.divide(S.subtract(one, size), two))))
    ends = S.divide(_polynomial(tail, _ENDS[0]), _polynomial(tail, _ENDS[1]))
    return S.select(size <= _number(0.7, y), middle, T.tirx.copysign(ends, y))


def _erfinv_step(y: Any, *estimates: Any) -> Any:
    x = estimates[-1]
    slope = S.multiply(_number(2.0 / math.sqrt(math.pi), x), T.tirx.exp(S.negative(S.multiply(x, x))))
    return S.subtract(x, S.divide(S.subtract(T.tirx.erf(x), y), slope))


def _erfinv(y: Any, *estimates: Any) -> Any:
    size, one = T.tirx.abs(y), _number(1.0, y)
    outside = S.select(S.equal(size, one), T.tirx.copysign(_number(math.inf, y), y), _number(math.nan, y))
    return S.select(size < one, _erfinv_step(y, *estimates), outside)


_row(aten.erfinv.default, _erfinv, _erfinv_estimate, _erfinv_step)


# -- the derivative of the logarithm of the gamma function ------------------------------

# Bernoulli numbers over their index: the asymptotic series in 1 / x ** 2.
_ASYMPTOTIC = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
_FAR = 10
"""From here on the asymptotic series is exact."""


def _mirrored(x: Any) -> Any:
    """The positive place that a negative one is reflected to."""
    return S.select(x < _number(0.0, x), S.subtract(_number(1.0, x), x), x)


def _steps_to_far(x: Any, place: Any) -> Any:
    return T.tirx.max(T.tirx.ceil(S.subtract(_number(float(_FAR), x), place)), _number(0.0, x))


def _digamma(x: Any, place: Any, steps: Any) -> Any:
    zero, one = _number(0.0, x), _number(1.0, x)
    far = S.add(place, steps)
    inverse = S.divide(one, far)
    square = S.multiply(inverse, inverse)
    value = S.subtract(T.tirx.log(far), S.multiply(_number(0.5, x), inverse))
    value = S.subtract(value, S.multiply(square, _polynomial(square, _ASYMPTOTIC)))
    for step in range(_FAR):
        number = _number(float(step), x)
        value = S.subtract(value, S.select(number < steps, S.divide(one, S.add(place, number)), zero))
    pi = _number(math.pi, x)
    share = S.subtract(x, T.tirx.nearbyint(x))  # small beside a pole, where it counts
    reflected = S.subtract(value, S.divide(pi, T.tirx.tan(S.multiply(pi, share))))
    pole = S.equal(T.tirx.floor(x), x)
    below = S.select(pole, _number(math.nan, x), reflected)
    at_zero = S.negative(T.tirx.copysign(_number(math.inf, x), x))
    return S.select(S.equal(x, zero), at_zero, S.select(x < zero, below, value))


_row(aten.digamma.default, _digamma, _mirrored, _steps_to_far)


# -- modified Bessel functions -----------------------------------------------------------

_SERIES_END = 20.0
_SERIES_TERMS, _TAIL_TERMS = 45, 18


def _bessel(order: int, scaled: bool) -> Element:
    """I of order 0 or 1, times ``exp(-|x|)`` if *scaled*: its power series, and the asymptotic one beyond 20."""
    series = [1.0]
    for k in range(1, _SERIES_TERMS):
        series.append(series[-1] / (k * (k + order)))
    tail = [1.0]
    for k in range(1, _TAIL_TERMS):
        tail.append(tail[-1] * ((2 * k - 1) ** 2 - 4 * order**2) / (8 * k))

    def element(x: Any) -> Any:
        size = T.tirx.abs(x)
        end = _number(_SERIES_END, x)
        low = T.tirx.min(size, end)  # the polynomial stays finite where it is not used
        half = S.multiply(low, _number(0.5, x))
        near = _polynomial(S.multiply(half, half), series)
        if order == 1:
            near = S.multiply(near, half)
        far = _polynomial(S.divide(_number(1.0, x), T.tirx.max(size, end)), tail)
        far = S.divide(far, S.multiply(_number(math.sqrt(2 * math.pi), x), T.tirx.sqrt(size)))
        if scaled:
            near = S.multiply(near, T.tirx.exp(S.negative(low)))
        else:
            grown = T.tirx.exp(S.multiply(size, _number(0.5, x)))  # in halves: the product overflows later
            far = S.multiply(S.multiply(far, grown), grown)
        value = S.select(size <= end, near, far)
        value = S.select(S.isnan(x), x, value)
        return value if order == 0 else S.multiply(value, T.tirx.copysign(_number(1.0, x), x))

    return element


for _op, _order, _is_scaled in (
    (aten.i0.default, 0, False),
    (aten.special_i0e.default, 0, True),
    (aten.special_i1.default, 1, False),
    (aten.special_i1e.default, 1, True),
):
    _row(_op, _bessel(_order, _is_scaled))


# -- angle ----------------------------------------------------------------------------


def _angle(x: Any) -> Any:
    zero = _number(0.0, x)
    return S.select(S.isnan(x), x, S.select(x < zero, _number(math.pi, x), zero))


_row(aten.angle.default, _angle)
