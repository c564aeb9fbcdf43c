"""Functions of float64 as arithmetic that runs in vectors, within 2 units of the last place.

The C library, to which LLVM gives one element after the other, takes several
times as long. The coefficients are those of interpolations at Chebyshev's
points, with an error below a tenth of a unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fxpasses.codegen.math_pieces import Formula, let, magnitude, polynomial, with_sign
from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T

__all__ = ["DOUBLE_FORMULAS"]

# log(2) in two parts, the first with so few bits that its products with exponents are exact.
_LOG2_HIGH, _LOG2_LOW = 0.6931471803691238, 1.9082149292705877e-10

# expm1(r) = r + r^2 * p(r) for |r| <= log(2) / 2
_EXPM1 = (0.5, 0.1666666666666667, 0.04166666666666667, 0.008333333333326136, 0.0013888888888883748,
          0.00019841269874820627, 2.4801587325547743e-05, 2.7557255400206422e-06, 2.75572736431103e-07,
          2.5105217004720745e-08, 2.0914686968086876e-09)  # fmt: skip

# log((1 + s) / (1 - s)) = s * (2 + s^2 * p(s^2)) for sqrt(1/2) <= (1 + s) / (1 - s) <= sqrt(2)
_LOG = (0.6666666666666666, 0.4000000000000088, 0.2857142857080323, 0.2222222239180047, 0.18181795630884753,
        0.15386240205813478, 0.13268759668560612, 0.13086767009948175)  # fmt: skip

# erf(x) = x + x * p(x^2) for |x| <= 1
_ERF = (0.1283791670955126, -0.3761263890318375, 0.11283791670954879, -0.026866170645076792, 0.0052239776248180145,
        -0.000854832698083379, 0.0001205533111164271, -1.4925595266831182e-05, 1.6461000484121368e-06,
        -1.6350312701054695e-07, 1.4659775274047436e-08, -1.1372848856791674e-09, 5.957176147748911e-11)  # fmt: skip

# erf(x) = 1 - exp(-x^2) * p((x - 3) / (x + 3)) for 1 <= x <= 6; it is 1 in float64 from 5.93 on
_ERFC = (0.17900115118138996, -0.3262335600430372, 0.2456038017123309, -0.15011593650077742, 0.07166583719797347,
         -0.024392499318655416, 0.004269136333148302, 0.0007077464385177353, -0.0005970619586158305,
         4.5255298034073955e-05, 6.405673342206844e-05, -1.2860318447907675e-05, -7.979817704348727e-06,
         2.1169509641489688e-06, 1.2598817267482604e-06, -2.7269500546476834e-07, -2.389387463474792e-07,
         -2.5925894581233316e-08)  # fmt: skip


def _number(value: float) -> Any:
    return S.const(value, "float64")


def _bits(value: int) -> Any:
    return T.tirx.const(value, "int64")


def _clamp(x: Any, low: float, high: float) -> Any:
    """*x* within bounds; one of the bounds for NaN."""
    return T.tirx.max(T.tirx.min(x, _number(high)), _number(low))


def _unless_nan(x: Any, value: Any) -> Any:
    return S.select(S.isnan(x), x, value)


# -- exponentials --------------------------------------------------------------------------


def _power_of_two(n: Any) -> Any:
    """``2 ** n`` of a whole float64, which a sum with 2 ** 52 leaves in the last bits."""
    return T.tirx.reinterpret(
        "float64", T.tirx.reinterpret("int64", n + _number(2.0**52 + 1023)) << _bits(52)
    )


def _reduced(x: Any, body: Callable[[Any, Any], Any]) -> Any:
    """*body* of a whole number n and of expm1(r), where ``x = n * log(2) + r``."""

    def of_nearest(n: Any) -> Any:
        rest = S.subtract(S.subtract(x, n * _number(_LOG2_HIGH)), n * _number(_LOG2_LOW))
        return let(rest, lambda r: let(polynomial(_EXPM1, r) * (r * r) + r, lambda raised: body(n, raised)))

    return let(T.tirx.floor(x * _number(1.0 / math.log(2.0)) + _number(0.5)), of_nearest)


def _exp(x: Any, body: Callable[[Any], Any]) -> Any:
    """*body* of ``e ** x``: inf above 709.78, zero below -745.14, a number for NaN.

    In two steps, since the powers of two of the largest and the smallest results are no float64.
    """

    def scaled(n: Any, raised: Any) -> Any:
        half = T.tirx.floor(n * _number(0.5))
        power = let(half, lambda h: (raised + _number(1.0)) * _power_of_two(h) * _power_of_two(n - h))
        return let(power, body)

    return let(_clamp(x, -746.0, 710.0), lambda bounded: _reduced(bounded, scaled))


def _half_expm1(x: Any, low: float, high: float, body: Callable[[Any], Any]) -> Any:
    """*body* of ``(e ** x - 1) / 2`` for x within bounds; a number for NaN, and the sign of a zero is lost."""

    def scaled(n: Any, raised: Any) -> Any:
        power = _power_of_two(n - _number(1.0))
        return let(power, lambda power: let(power * raised + (power - _number(0.5)), body))

    return let(_clamp(x, low, high), lambda bounded: _reduced(bounded, scaled))


def _of(formula: Callable[[Any], Any]) -> Formula:
    return lambda value: let(value, formula)


def _exp_of(x: Any) -> Any:
    return _exp(x, lambda z: _unless_nan(x, z))


def _expm1(x: Any) -> Any:
    # By way of half of it: 2 ** 1024 is no float64.
    return _half_expm1(
        x, -38.0, 710.0, lambda half: with_sign(magnitude(_unless_nan(x, half * _number(2.0))), x)
    )


def _sigmoid(x: Any) -> Any:
    def result(z: Any) -> Any:
        above = S.select(x < _number(0.0), z, _number(1.0))
        return _unless_nan(x, above / (z + _number(1.0)))

    return _exp(S.negative(magnitude(x)), result)


def _tanh(x: Any) -> Any:
    """``q = h / (1 + h)`` of ``h = (e ** (2 * |x|) - 1) / 2``; the equal ``h - h * q`` where h is small."""

    def result(h: Any) -> Any:
        return let(h / (h + _number(1.0)), lambda q: of_quotient(h, q))

    def of_quotient(h: Any, q: Any) -> Any:
        size = S.select(h < _number(0.8), S.subtract(h, h * q), q)
        return with_sign(magnitude(_unless_nan(x, size)), x)

    return _half_expm1(magnitude(x) * _number(2.0), 0.0, 80.0, result)


# -- the error function --------------------------------------------------------------------


def _erf(x: Any) -> Any:
    def of_parts(near: Any, a: Any, above: Any) -> Any:
        far = S.select(a < _number(6.0), S.subtract(_number(1.0), above), _number(1.0))
        return S.select(a >= _number(1.0), with_sign(far, x), near)  # a NaN is not

    def of_size(a: Any) -> Any:
        def tail(bounded: Any) -> Any:
            share = let((bounded - _number(3.0)) / (bounded + _number(3.0)), lambda u: polynomial(_ERFC, u))
            return _exp(S.negative(bounded * bounded), lambda z: z * share)

        near = let(x * x, lambda square: polynomial(_ERF, square) * x + x)
        above = let(_clamp(a, 1.0, 6.0), tail)
        return let(near, lambda near: let(above, lambda above: of_parts(near, a, above)))

    return let(magnitude(x), of_size)


# -- logarithms ----------------------------------------------------------------------------


def _log(x: Any) -> Any:
    """The natural logarithm: -inf of zero, NaN of what is less."""

    def finite(shift: Any, bits: Any) -> Any:
        # The exponent for which the mantissa m = 1 + f is nearest to 1: at least sqrt(1/2).
        def of_exponent(n: Any) -> Any:
            f = T.tirx.reinterpret("float64", bits - (n << _bits(52))) - _number(1.0)
            exponent = n.astype("int32").astype("float64") - shift
            return let(exponent, lambda exponent: let(f, lambda f: of_parts(exponent, f)))

        return let((bits - _bits(0x3FE6A09E667F3BCD)) >> _bits(52), of_exponent)

    def of_parts(exponent: Any, f: Any) -> Any:
        # log(1 + f) = f - (h - s * (h + t)), where h = f * f / 2: what is taken from f is small beside it.
        def of_quotient(s: Any) -> Any:
            t = let(s * s, lambda square: polynomial(_LOG, square) * square)
            return let(f * f * _number(0.5), lambda h: summed(h, s * (h + t)))

        def summed(h: Any, more: Any) -> Any:
            low = S.subtract(h, more + exponent * _number(_LOG2_LOW))
            return S.subtract(exponent * _number(_LOG2_HIGH), S.subtract(low, f))

        return let(f / (f + _number(2.0)), of_quotient)

    denormal = x < _number(2.0**-1022)
    scaled = S.select(denormal, x * _number(2.0**54), x)
    shift = S.select(denormal, _number(54.0), _number(0.0))
    result = let(T.tirx.reinterpret("int64", scaled), lambda bits: finite(shift, bits))
    result = S.select(S.isinf(x) | S.isnan(x), x, result)
    result = S.select(x < _number(0.0), _number(math.nan), result)
    return S.select(magnitude(x) > _number(0.0), result, S.select(S.isnan(x), x, _number(-math.inf)))


def _log1p(x: Any) -> Any:
    """``log(1 + x)``: what the sum is rounded by is made up for."""

    def of_sum(u: Any) -> Any:
        lost = S.subtract(x, S.subtract(u, _number(1.0)))
        ordinary = (u > _number(0.0)) & (u < _number(1e300))
        result = let(u, _log) + S.select(ordinary, lost / u, _number(0.0))
        return S.select(magnitude(x) < _number(2.0**-53), x, result)

    return let(S.opaque(x + _number(1.0)), of_sum)


DOUBLE_FORMULAS: dict[str, Formula] = {
    "erf": _of(_erf),
    "exp": _of(_exp_of),
    "expm1": _of(_expm1),
    "log": _of(_log),
    "log1p": _of(_log1p),
    "sigmoid": _of(_sigmoid),
    "tanh": _of(_tanh),
}
"""Each function by the name of TVM's intrinsic, which is C's as well."""
