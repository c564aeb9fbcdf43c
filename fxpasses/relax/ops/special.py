"""Special functions, each by a series or by polynomials."""

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

# erfinv(y) = y * p(t - c), with t = w or its root, of w = -log(1 - y * y): each piece has the w where it begins,
# c and p. Chebyshev interpolation: relative errors below 7e-9 for float32 and 1.2e-16 for float64.
_ERFINV = {
    "float32": (
        (0.0, 2.5,
        (1.501409360450329, 0.24664027905463662, -0.004177392875203149, -0.001252726391773229,
         0.00021834938623976644, -4.9724196894547514e-06, -3.4639852676333717e-06,
         4.6813134805534123e-07, 2.3335967195708108e-08, -8.931925970244222e-09)),
        (5.0, 3.118033988749895,
        (2.95132855887221, 1.0036197186853046, 0.0071610368472749385, -0.005407653006958526,
         0.0038697967703806555, -0.002576027420443902, 0.001327439210075186, -0.0003133241069813517,
         -0.0001826323945578986, 0.00012924175469266932)),
    ),
    "float64": (
        (0.0, 3.125,
        (1.6536545626831027, 0.2401581824255883, -0.00603367087142785, -0.000740702534154477,
         0.00018673420802464837, -1.3882523394405316e-05, -1.3654691850603575e-06,
         4.234788173782339e-07, -2.9070382262927266e-08, -4.11266082002324e-09,
         1.0512181539804126e-09, -5.414287198084716e-11, -1.2976885526532075e-11,
         2.6304834740560442e-12, -8.118399443074353e-14, -4.001237735091896e-14,
         6.596407712420834e-15, -4.0282154327661744e-17, -1.3016928016796445e-16,
         1.557432024623325e-17, 1.150022252066253e-18, -3.4996044354754177e-19,
         -1.113483769832702e-21, 3.240704459379902e-21)),
        (6.25, 3.25,
        (3.0838856104922208, 1.0052589676941652, 0.00537091455357168, -0.003751208508215561,
         0.0024914420969817607, -0.0016882755357337071, 0.0009532893637435638,
         -0.00035503780975963814, 2.4031257015092525e-05, 6.828708654753377e-05,
         -4.731898412011245e-05, 1.2465167157087251e-05, 2.9257291901789823e-06,
         -3.986084395214756e-06, 1.4987130784186127e-06, -2.7004219280868947e-08,
         -2.713451105439456e-07, 1.3104351499972014e-07, 6.969241977629694e-10,
         -1.5102695423335065e-08)),
        (16.0, 5.025,
        (4.875163823000273, 1.0102931304286789, -0.00015456464399880263, -0.00020755220213178145,
         7.357695073630352e-05, -1.9015699337283304e-05, 4.356203170572504e-06,
         -9.486854637856897e-07, 2.1458790600675969e-07, -6.080218004296247e-08,
         2.525063069202527e-08, -1.3067797809605623e-08, 6.5701189040988505e-09,
         -3.040394681940728e-09, 1.3429916052701913e-09, -4.0624792346508244e-10,
         -9.377804860062387e-12, 3.385526100493995e-11)),
    ),
}  # fmt: skip


def _erfinv_exponent(y: Any) -> Any:
    wide = S.cast(y, "float64")
    one = _number(1.0, wide)
    return S.negative(T.tirx.log(S.multiply(S.subtract(one, wide), S.add(one, wide))))


def _erfinv(y: Any, exponent: Any) -> Any:
    dtype = S.dtype_of(y)
    wide, exponent = S.cast(y, "float64"), S.cast(exponent, "float64")
    root = T.tirx.sqrt(exponent)
    (_, center, coefficients), *others = _ERFINV[dtype]
    ratio = _polynomial(S.subtract(exponent, _number(center, exponent)), coefficients)
    for begin, center, coefficients in others:
        further = _polynomial(S.subtract(root, _number(center, root)), coefficients)
        ratio = S.select(exponent < _number(begin, exponent), ratio, further)
    value = S.cast(S.multiply(wide, ratio), dtype)
    at_end = S.equal(T.tirx.abs(y), _number(1.0, y))
    return S.select(at_end, S.copysign(_number(math.inf, y), y), value)


_row(aten.erfinv.default, _erfinv, _erfinv_exponent)


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
    at_zero = S.negative(S.copysign(_number(math.inf, x), x))
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
        return value if order == 0 else S.multiply(value, S.copysign(_number(1.0, x), x))

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
