"""Functions of float64 as arithmetic that runs in vectors, within 2 units of the last place.

The C library, to which LLVM gives one element after the other, takes several
times as long. The coefficients are those of interpolations at Chebyshev's
points, with an error below a tenth of a unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fxpasses.codegen.double_angles import DOUBLE_ANGLES
from fxpasses.codegen.math_pieces import Formula, fused, let, magnitude, polynomial, with_sign
from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T

__all__ = ["DOUBLE_FORMULAS"]

# log(2) in two parts, the first with so few bits that its products with exponents are exact.
_LOG2_HIGH, _LOG2_LOW = 0.6931471803691238, 1.9082149292705877e-10

# expm1(r) = r + r^2 * p(r) for |r| <= log(2) / 2
_EXPM1 = (0.5, 0.1666666666666667, 0.04166666666666667, 0.008333333333326136, 0.0013888888888883748,
          0.00019841269874820627, 2.4801587325547743e-05, 2.7557255400206422e-06, 2.75572736431103e-07,
          2.5105217004720745e-08, 2.0914686968086876e-09)  # fmt: skip

# 2^r = 1 + r * p(r) for |r| <= 1/2
_EXP2 = (0.6931471805599453, 0.24022650695910072, 0.055504108664821625, 0.00961812910762848,
         0.001333355814640647, 0.00015403530393370734, 1.5252733841556773e-05,
         1.3215486808705563e-06, 1.0178057087733941e-07, 7.0548973041554995e-09,
         4.4558179083360645e-10, 2.5729324177362305e-11)  # fmt: skip

# sinh(x) = x + x * x^2 * p(x^2) for |x| <= 1
_SINH = (0.16666666666666666, 0.008333333333333333, 0.00019841269841269773, 2.755731922404034e-06,
         2.505210836405804e-08, 1.6059048396350562e-10, 7.646625361656657e-13,
         2.8445264169895285e-15)  # fmt: skip

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


def _raised(x: Any, body: Callable[[Any], Any]) -> Any:
    """*body* of ``e ** x / 4`` for x from 0 on, so that half of the largest results is no infinity yet."""

    def scaled(n: Any, raised: Any) -> Any:
        power = _power_of_two(n - _number(2.0))
        return let(power, lambda power: let(power * raised + power, body))

    return let(_clamp(x, 0.0, 710.6), lambda bounded: _reduced(bounded, scaled))


def _of(formula: Callable[[Any], Any]) -> Formula:
    return lambda value: let(value, formula)


def _exp_of(x: Any) -> Any:
    return _exp(x, lambda z: _unless_nan(x, z))


def _exp2(x: Any) -> Any:
    def of_nearest(bounded: Any, n: Any) -> Any:
        power = let(S.subtract(bounded, n), lambda r: polynomial(_EXP2, r) * r + _number(1.0))
        half = T.tirx.floor(n * _number(0.5))
        return _unless_nan(x, let(half, lambda h: power * _power_of_two(h) * _power_of_two(n - h)))

    return let(
        _clamp(x, -1080.0, 1025.0),
        lambda bounded: let(T.tirx.floor(bounded + _number(0.5)), lambda n: of_nearest(bounded, n)),
    )


def _expm1(x: Any) -> Any:
    # By way of half of it: 2 ** 1024 is no float64.
    return _half_expm1(
        x, -38.0, 710.0, lambda half: with_sign(magnitude(_unless_nan(x, half * _number(2.0))), x)
    )


def _sinh(x: Any) -> Any:
    def of_size(a: Any) -> Any:
        near = let(a * a, lambda square: polynomial(_SINH, square) * square * a + a)
        far = _raised(a, lambda quarter: (quarter - _number(1 / 16) / quarter) * _number(2.0))
        return let(near, lambda near: let(far, lambda far: either(a, near, far)))

    def either(a: Any, near: Any, far: Any) -> Any:
        return with_sign(magnitude(_unless_nan(x, S.select(a < _number(1.0), near, far))), x)

    return let(magnitude(x), of_size)


def _cosh(x: Any) -> Any:
    def both(quarter: Any) -> Any:
        return _unless_nan(x, (quarter + _number(1 / 16) / quarter) * _number(2.0))

    return _raised(magnitude(x), both)


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


def _parts(x: Any, body: Callable[[Any, Any, Any], Any]) -> Any:
    """*body* of a whole number n, of f, and of what f is more than log(1 + f), where ``x = 2 ** n * (1 + f)``."""

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
            return let(f * f * _number(0.5), lambda h: body(exponent, f, S.subtract(h, s * (h + t))))

        return let(f / (f + _number(2.0)), of_quotient)

    denormal = x < _number(2.0**-1022)
    scaled = S.select(denormal, x * _number(2.0**54), x)
    shift = S.select(denormal, _number(54.0), _number(0.0))
    result = let(T.tirx.reinterpret("int64", scaled), lambda bits: finite(shift, bits))
    result = S.select(S.isinf(x) | S.isnan(x), x, result)
    result = S.select(x < _number(0.0), _number(math.nan), result)
    return S.select(magnitude(x) > _number(0.0), result, S.select(S.isnan(x), x, _number(-math.inf)))


def _log(x: Any) -> Any:
    """The natural logarithm: -inf of zero, NaN of what is less."""

    def summed(exponent: Any, f: Any, more: Any) -> Any:
        low = S.subtract(more, exponent * _number(_LOG2_LOW))
        return S.subtract(exponent * _number(_LOG2_HIGH), S.subtract(low, f))

    return _parts(x, summed)


def _to_base(base: int, high: float, low: float, scale: float, scale_low: float) -> Formula:
    """The logarithm to *base*, exact of its powers: the sum of large parts is made up for what it is rounded by.

    Args:
        base: the number.
        high, low: the logarithm of 2; products of *high* with exponents are exact.
        scale, scale_low: that of e.
    """

    def of_parts(exponent: Any, f: Any, more: Any) -> Any:
        def of_large(whole: Any, part: Any) -> Any:
            lost = fused(f, _number(scale), S.negative(part)) + f * _number(scale_low)
            rest = S.subtract(lost + exponent * _number(low), more * _number(scale))
            return let(whole + part, lambda sum_: let(rest, lambda rest: of_sum(whole, part, sum_, rest)))

        def of_sum(whole: Any, part: Any, sum_: Any, rest: Any) -> Any:
            return sum_ + (S.subtract(part, S.subtract(sum_, whole)) + rest)

        return let(
            exponent * _number(high),
            lambda whole: let(f * _number(scale), lambda part: of_large(whole, part)),
        )

    return _of(lambda x: _parts(x, of_parts))


def _log1p(x: Any) -> Any:
    """``log(1 + x)``: what the sum is rounded by is made up for."""

    def of_sum(u: Any) -> Any:
        lost = S.subtract(x, S.subtract(u, _number(1.0)))
        ordinary = (u > _number(0.0)) & (u < _number(1e300))
        result = let(u, _log) + S.select(ordinary, lost / u, _number(0.0))
        return S.select(magnitude(x) < _number(2.0**-53), x, result)

    return let(S.opaque(x + _number(1.0)), of_sum)


def _atanh(x: Any) -> Any:
    """Half of ``log(1 + 2 * x / (1 - x))``; below 1/2 what is added to 2 * x is small."""

    def of_size(a: Any) -> Any:
        near, rest = a < _number(0.5), _number(1.0) - a
        double = a * _number(2.0)
        quotient = S.select(near, double * a, double) / rest
        more = let(quotient, lambda q: S.select(near, double + q, q))
        size = let(more, _log1p) * _number(0.5)
        return let(size, lambda size: with_sign(magnitude(size), x))

    return let(magnitude(x), of_size)


# -- remainders ----------------------------------------------------------------------------


def _fmod(x: Any, y: Any) -> Any:
    """The remainder with the sign of *x*, exact; that of long quotients is left to the C library.

    The quotient is off by one at most, and what is left has no more digits than
    the divisor.
    """

    def of_sizes(a: Any, b: Any) -> Any:
        return let(
            S.divide(a, b),
            lambda quotient: let(reduced(a, b, quotient), lambda rest: either(b, quotient, rest)),
        )

    def reduced(a: Any, b: Any, quotient: Any) -> Any:
        def positive(rest: Any) -> Any:
            return let(S.select(rest < _number(0.0), rest + b, rest), below)

        def below(rest: Any) -> Any:
            return with_sign(magnitude(S.select(rest >= b, S.subtract(rest, b), rest)), x)

        return let(fused(S.negative(T.tirx.trunc(quotient)), b, a), positive)

    def either(b: Any, quotient: Any, rest: Any) -> Any:
        short = (quotient < _number(2.0**52)) & S.logical_not(S.isinf(b))
        return S.select(short, rest, T.tirx.fmod(x, y))

    return let(magnitude(x), lambda a: let(magnitude(y), lambda b: of_sizes(a, b)))


DOUBLE_FORMULAS: dict[str, Formula] = {
    **DOUBLE_ANGLES,
    "atanh": _of(_atanh),
    "cosh": _of(_cosh),
    "erf": _of(_erf),
    "exp": _of(_exp_of),
    "exp2": _of(_exp2),
    "expm1": _of(_expm1),
    "fmod": lambda first, second: let(first, lambda x: let(second, lambda y: _fmod(x, y))),
    "log": _of(_log),
    "log10": _to_base(
        10, 0.30102999566361177, 3.694239077158931e-13, 0.4342944819032518, 1.098319650216765e-17
    ),
    "log1p": _of(_log1p),
    "log2": _to_base(2, 1.0, 0.0, 1.4426950408889634, 2.0355273740931033e-17),
    "sigmoid": _of(_sigmoid),
    "sinh": _of(_sinh),
    "tanh": _of(_tanh),
}
"""Each function by the name of TVM's intrinsic, which is C's as well."""
