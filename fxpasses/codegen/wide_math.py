"""Functions of float32 that are computed in float64, in vectors.

float64 has so many digits more that no step needs care for rounding, and so
wide a range that nothing overflows or becomes denormal on the way; the one
rounding to float32 comes last. Half as many lanes are faster than the C library
many times over, to which LLVM gives one element after the other.

The coefficients are fits as those of `fxpasses.codegen.vector_math`, with an
error below 2 ** -31. `fmod` is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fxpasses.codegen.double_math import DOUBLE_FORMULAS
from fxpasses.codegen.math_pieces import (
    Formula,
    from_bits,
    fused,
    let,
    magnitude,
    polynomial,
    to_bits,
    with_sign,
)
from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T

__all__ = ["WIDE_FORMULAS", "wide_cosine", "wide_sine"]

# expm1(r) = r * p(r) for |r| <= log(2) / 2
_EXPM1 = (0.9999999999955692, 0.5000000000120645, 0.16666666785420528, 0.041666665950936335,
          0.008333283732068972, 0.0013888978381944848, 0.0001990746415750275, 2.480156053092571e-05)  # fmt: skip

# log((1 + s) / (1 - s)) = s * p(s * s) for sqrt(1/2) <= (1 + s) / (1 - s) <= sqrt(2)
_LOG = (1.9999999999999465, 0.6666666667969464, 0.39999994857555066, 0.2857216968123966, 0.22174101940736574,
        0.1961025212421003)  # fmt: skip

# atan(t) = t * p(t * t) for |t| <= 1
_ATAN = (0.9999999999412318, -0.33333331571109565, 0.199999120475014, -0.14283980700723184, 0.11093240805464562,
         -0.08980237021871453, 0.07245712307769445, -0.05427899510226168, 0.03420947244593026,
         -0.016111578183308616, 0.004850889991394309, -0.0006847844119983568)  # fmt: skip

# asin(s) = s * p(s * s) for |s| <= 1/2
_ASIN = (0.9999999999849037, 0.16666667421653414, 0.0749993819988861, 0.044662035350024235, 0.030092211420204983,
         0.02471153045560304, 0.0072238631060493, 0.0349515153699098)  # fmt: skip

# sin(r) = r * p(r * r) and cos(r) = q(r * r) for |r| <= pi / 4
_SIN = (0.9999999999954042, -0.1666666663015374, 0.008333328662124074, -0.0001983916996473109,
        2.71707571934865e-06)  # fmt: skip
_COS = (0.9999999999999333, -0.4999999999926411, 0.04166666653262237, -0.0013888879879802086,
        2.4798833074574828e-05, -2.716718816546819e-07)  # fmt: skip

# erfc(x) = exp(-x * x) * t * p(t) with t = 2 / (2 + x), for 0 <= x <= 11
_ERFC = (0.2820948257677892, 0.2820949347197073, 0.2468038787463524, 0.176896024265738, 0.07768274761341526,
         0.0348911966732456, -0.22915377087787445, 0.4751419524454456, -1.1416724647478171, 1.730748064514849,
         -1.5411935733589304, 0.8165717788561278, -0.24217559531019214, 0.031270000711613205)  # fmt: skip

# lgamma(y) = (y - 1/2) * log(y) - y + log(2 * pi) / 2 + p(1 / y^2) / y for y >= 8: Bernoulli's numbers
_BERNOULLI = (
    1 / 6,
    -1 / 30,
    1 / 42,
    -1 / 30,
    5 / 66,
    -691 / 2730,
    7 / 6,
    -3617 / 510,
    43867 / 798,
    -174611 / 330,
)
_STIRLING = tuple(number / (2 * k * (2 * k - 1)) for k, number in enumerate(_BERNOULLI, start=1))

# sin(pi * f) = f * p(f * f) for |f| <= 1/2
_SIN_PI = (3.141592653589793, -5.167712780049969, 2.5501640398773007, -0.5992645293189447, 0.0821458865731029,
           -0.007370430505916944, 0.0004662998161898394, -2.1903497074626018e-05, 7.697826768224191e-07)  # fmt: skip

_SMALL = 2.0**-13
"""Below this, asinh and atanh of x are x in float32."""


def _number(value: float) -> Any:
    return S.const(value, "float64")


def _single(x: Any) -> Any:
    return x.astype("float32")


def _float32(value: float) -> Any:
    return S.const(value, "float32")


def _wide(formula: Callable[[Any, Any], Any]) -> Formula:
    """The function that *formula* computes from x in float32 and in float64."""
    return lambda value: let(value, lambda x: let(x.astype("float64"), lambda wide: formula(x, wide)))


def _signed(wide: Any, x: Any) -> Any:
    """A float64 that is not negative, as a float32 with the sign of *x*."""
    return let(_single(wide), lambda result: with_sign(result, x))


def _odd(formula: Callable[[Any, Any], Any]) -> Formula:
    """That of an odd function, from x in float32 and its size in float64."""

    def signed(x: Any) -> Any:
        return let(magnitude(x).astype("float64"), lambda wide: _signed(formula(x, wide), x))

    return lambda value: let(value, signed)


# -- exponentials --------------------------------------------------------------------------


def _power_of_two(n: Any) -> Any:
    """``2 ** n`` of a whole float64, which a sum with 2 ** 52 leaves in the last bits."""
    bits = T.tirx.reinterpret("int64", n + _number(2.0**52 + 1023))
    return T.tirx.reinterpret("float64", bits << T.tirx.const(52, "int64"))


def _raised(x: Any, body: Callable[[Any, Any], Any]) -> Any:
    """*body* of ``2 ** n`` and expm1(r), where ``x = n * log(2) + r``, for a size of x up to 700."""

    def of_nearest(n: Any) -> Any:
        rest = x - n * _number(math.log(2.0))
        return let(
            let(rest, lambda r: polynomial(_EXPM1, r) * r),
            lambda raised: let(_power_of_two(n), lambda power: body(power, raised)),
        )

    return let(T.tirx.floor(x * _number(1 / math.log(2.0)) + _number(0.5)), of_nearest)


def _exp(x: Any) -> Any:
    return _raised(x, lambda power, raised: raised * power + power)


def _sinh(x: Any, wide: Any) -> Any:
    def of_expm1(e: Any) -> Any:
        return (e + e / (e + _number(1.0))) * _number(0.5)

    bounded = T.tirx.min(wide, _number(100.0))  # beyond, it is infinite in float32
    raised = let(bounded, lambda b: _raised(b, lambda power, r: r * power + (power - _number(1.0))))
    return S.select(S.isnan(x), wide, let(raised, of_expm1))


def _cosh(x: Any, wide: Any) -> Any:
    bounded = T.tirx.min(T.tirx.abs(wide), _number(100.0))
    power = let(bounded, _exp)
    return S.select(S.isnan(x), x, _single(let(power, lambda e: (e + _number(1.0) / e) * _number(0.5))))


def _erfc(x: Any, wide: Any) -> Any:
    def of_size(a: Any) -> Any:
        tail = let(_number(2.0) / (a + _number(2.0)), lambda t: polynomial(_ERFC, t) * t)
        return let(let(S.negative(a * a), _exp) * tail, either)

    def either(above: Any) -> Any:
        return _single(S.select(x < _float32(0.0), _number(2.0) - above, above))

    # Beyond 11 it is 0 in float32.
    return S.select(S.isnan(x), x, let(T.tirx.min(T.tirx.abs(wide), _number(11.0)), of_size))


# -- logarithms ----------------------------------------------------------------------------


def _log(x: Any, body: Callable[[Any, Any], Any]) -> Any:
    """*body* of an integer n and of log(m), where ``x = 2 ** n * m``, for a normal and positive number."""
    tirx = T.tirx

    def of_bits(bits: Any) -> Any:
        # The exponent for which m is nearest to 1: at least sqrt(1/2).
        return let(
            (bits - tirx.const(0x3FE6A09E667F3BCD, "int64")) >> tirx.const(52, "int64"), of_exponent(bits)
        )

    def of_exponent(bits: Any) -> Callable[[Any], Any]:
        def parts(n: Any) -> Any:
            m = tirx.reinterpret("float64", bits - (n << tirx.const(52, "int64")))
            s = let(m, lambda m: (m - _number(1.0)) / (m + _number(1.0)))
            log = let(s, lambda s: polynomial(_LOG, s * s) * s)
            return body(n.astype("int32").astype("float64"), log)

        return parts

    return let(tirx.reinterpret("int64", x), of_bits)


def _logarithm(x: Any) -> Any:
    return _log(x, lambda n, log: n * _number(math.log(2.0)) + log)


def _to_base(base: float) -> Formula:
    """The logarithm to a base; exact of a power of two to base 2."""

    def formula(x: Any, wide: Any) -> Any:
        def scaled(n: Any, log: Any) -> Any:
            return n * _number(math.log(2.0) / math.log(base)) + log * _number(1 / math.log(base))

        infinite = S.select(x > _float32(0.0), x, S.const(math.nan, "float32"))
        infinite = S.select(S.equal(x, _float32(0.0)), _float32(-math.inf), infinite)
        finite = (x > _float32(0.0)) & S.logical_not(S.isinf(x))
        return S.select(finite, _single(_log(wide, scaled)), infinite)

    return _wide(formula)


def _asinh(x: Any, wide: Any) -> Any:
    square = wide * wide
    above = wide + square / (T.tirx.sqrt(square + _number(1.0)) + _number(1.0))
    plain = (wide < _number(_SMALL)) | S.isinf(x) | S.isnan(x)
    return S.select(plain, wide, let(above + _number(1.0), _logarithm))


def _acosh(x: Any, wide: Any) -> Any:
    root = T.tirx.sqrt((wide - _number(1.0)) * (wide + _number(1.0)))
    result = _single(let(wide + root, _logarithm))
    result = S.select(S.isinf(x), x, result)
    return S.select(x >= _float32(1.0), result, _float32(math.nan))


def _atanh(x: Any, wide: Any) -> Any:
    one = _number(1.0)
    result = let((wide + one) / (one - wide), _logarithm) * _number(0.5)
    result = S.select(wide < _number(_SMALL), wide, result)
    infinite = S.select(S.equal(wide, one), _number(math.inf), _number(math.nan))
    return S.select(wide < one, result, infinite)


# -- angles --------------------------------------------------------------------------------


def wide_sine(r: Any) -> Any:
    """The sine of a float64 within pi / 4 of 0."""
    return let(r * r, lambda square: polynomial(_SIN, square) * r)


def wide_cosine(r: Any) -> Any:
    """The cosine of a float64 within pi / 4 of 0."""
    return let(r * r, lambda square: polynomial(_COS, square))


def _arc(t: Any) -> Any:
    """The angle of a tangent from 0 to 1."""
    return let(t, lambda t: polynomial(_ATAN, t * t) * t)


def _atan(x: Any, wide: Any) -> Any:
    far = wide > _number(1.0)
    near = _arc(S.select(far, _number(1.0) / wide, wide))
    return let(near, lambda angle: S.select(far, _number(math.pi / 2) - angle, angle))


def _atan2(y: Any, x: Any) -> Any:
    """The angle of the point (x, y); an axis where one of them is 0, a diagonal where both are infinite."""

    def of_sizes(a: Any, b: Any) -> Any:
        steep = a > b
        small, large = S.select(steep, b, a), S.select(steep, a, b)
        large = S.select(S.equal(large, _number(0.0)), _number(1.0), large)
        diagonal = S.isinf(x) & S.isinf(y)
        near = _arc(S.select(diagonal, _number(1.0), small / large))
        first = let(near, lambda angle: S.select(steep, _number(math.pi / 2) - angle, angle))
        left = to_bits(x) < T.tirx.const(0, "int32")  # also for -0.0
        return let(first, lambda angle: _signed(S.select(left, _number(math.pi) - angle, angle), y))

    return let(
        magnitude(y).astype("float64"),
        lambda a: let(magnitude(x).astype("float64"), lambda b: of_sizes(a, b)),
    )


def _arcsine(wide: Any, body: Callable[[Any, Any], Any]) -> Any:
    """*body* of whether a size is at most 1/2, and of the arc sine of it, or else half its arc cosine."""
    near = wide <= _number(0.5)
    square = S.select(near, wide * wide, (_number(1.0) - wide) * _number(0.5))

    def of_square(t: Any) -> Any:
        return let(S.select(near, wide, T.tirx.sqrt(t)) * polynomial(_ASIN, t), lambda arc: body(near, arc))

    return let(square, of_square)


def _asin(x: Any, wide: Any) -> Any:
    return _arcsine(wide, lambda near, arc: S.select(near, arc, _number(math.pi / 2) - arc * _number(2.0)))


def _acos(x: Any, wide: Any) -> Any:
    def either(near: Any, arc: Any) -> Any:
        negative = x < _float32(0.0)
        middle = _number(math.pi / 2) - S.select(negative, S.negative(arc), arc)
        double = arc * _number(2.0)
        return _single(S.select(near, middle, S.select(negative, _number(math.pi) - double, double)))

    return let(T.tirx.abs(wide), lambda a: _arcsine(a, either))


# -- of two numbers ------------------------------------------------------------------------


def _of_two(formula: Callable[[Any, Any], Any]) -> Formula:
    return lambda first, second: let(first, lambda x: let(second, lambda y: formula(x, y)))


def _hypot(x: Any, y: Any) -> Any:
    """The distance of the point (x, y); infinite where one of them is, whatever the other."""
    wide_x, wide_y = x.astype("float64"), y.astype("float64")
    distance = T.tirx.sqrt(let(wide_x, lambda a: a * a) + let(wide_y, lambda b: b * b))
    return S.select(S.isinf(x) | S.isinf(y), _float32(math.inf), _single(distance))


_STEP, _STEPS = 50, 6
"""A step of `_fmod` takes away multiples of the divisor up to so many bits; six of them span the quotients of
float32, which have up to 277."""


def _fmod(x: Any, y: Any) -> Any:
    """The remainder with the sign of *x*, exact.

    A step takes from the rest its quotient by a multiple of the divisor. That
    quotient, of less than 52 bits, is off by one at most, and what is left is a
    float64 of no more than 26 bits, which a fused multiplication and addition
    gives exactly.
    """

    def of_sizes(a: Any, b: Any) -> Any:
        # An infinite divisor is larger than every number; NaN stays.
        divisor = S.select(b > _number(2.0**200), _number(2.0**200), b)
        return let(divisor, lambda d: let(_number(1.0) / d, lambda inverse: reduced(a, d, inverse, _STEPS)))

    def reduced(rest: Any, d: Any, inverse: Any, steps: int) -> Any:
        if not steps:
            positive = S.select(rest < _number(0.0), rest + d, rest)
            return let(positive, lambda r: _signed(S.select(r >= d, S.subtract(r, d), r), x))
        scale = 2.0 ** (_STEP * (steps - 1))
        count = T.tirx.trunc(rest * (inverse * _number(1 / scale)))
        taken = fused(S.negative(count), d * _number(scale), rest)
        return let(taken, lambda left: reduced(left, d, inverse, steps - 1))

    return let(
        magnitude(x).astype("float64"),
        lambda a: let(magnitude(y).astype("float64"), lambda b: of_sizes(a, b)),
    )


_FAR = 8
"""From here on `_STIRLING` is exact; what is less gets there by so many steps."""


def _lgamma(x: Any, wide: Any) -> Any:
    """The logarithm of the size of the gamma function: Stirling's series, mirrored for negative numbers.

    What the steps multiply by and the mirror divides by goes into one logarithm.
    """
    log, one = DOUBLE_FORMULAS["log"], _number(1.0)

    def of_size(a: Any) -> Any:
        near = a < _number(float(_FAR))
        steps = a
        for step in range(1, _FAR):
            steps = steps * (a + _number(float(step)))
        y = S.select(near, a + _number(float(_FAR)), a)
        factor = S.select(near, steps, one)
        return let(y, lambda y: let(factor, lambda factor: of_parts(a, y, factor)))

    def of_parts(a: Any, y: Any, factor: Any) -> Any:
        apart = S.subtract(a, T.tirx.nearbyint(a))
        sine = let(apart * apart, lambda square: T.tirx.abs(polynomial(_SIN_PI, square) * apart))
        mirrored = S.select(x < _float32(0.0), factor * _number(math.pi) / (a * sine), factor)
        return let(log(y), lambda log_y: let(log(mirrored), lambda other: summed(y, log_y, other)))

    def summed(y: Any, log_y: Any, other: Any) -> Any:
        def result(inverse: Any) -> Any:
            series = polynomial(_STIRLING, inverse * inverse) * inverse
            whole = (y - _number(0.5)) * log_y - y + (series + _number(math.log(2.0 * math.pi) / 2))
            value = let(S.subtract(whole, other), lambda v: S.select(x < _float32(0.0), S.negative(v), v))
            zero = S.equal(x, _float32(1.0)) | S.equal(x, _float32(2.0))
            finite = S.select(zero, _float32(0.0), _single(value))
            return S.select(S.isinf(x), _float32(math.inf), S.select(S.isnan(x), x, finite))

        return let(one / y, result)

    return let(T.tirx.abs(wide), of_size)


def _pow(x: Any, y: Any) -> Any:
    """``x ** y`` with C's results at the edges: 1 for ``1 ** y`` and ``x ** 0``, NaN included."""
    zero, one = _float32(0.0), _float32(1.0)

    def of_size(a: Any) -> Any:
        log2 = _log(a.astype("float64"), lambda n, log: n + log * _number(1 / math.log(2.0)))
        log2 = S.select(S.isinf(a) | S.isnan(a), a.astype("float64"), log2)
        log2 = S.select(S.equal(a, zero), _number(-math.inf), log2)
        return let(y.astype("float64") * log2, lambda z: S.select(S.isnan(z), z, let(bounded(z), raised)))

    def bounded(z: Any) -> Any:
        return T.tirx.max(T.tirx.min(z, _number(200.0)), _number(-200.0))

    def raised(z: Any) -> Any:
        return let(z * _number(math.log(2.0)), _exp)

    def signed(result: Any) -> Any:
        half = y * _float32(0.5)
        whole = S.equal(T.tirx.trunc(y), y)  # also where it is infinite, and then even
        odd = whole & S.not_equal(T.tirx.trunc(half), half)
        flipped = from_bits(to_bits(result) ^ (to_bits(x) & T.tirx.const(-(1 << 31), "int32")))
        value = S.select(odd, flipped, result)
        undefined = (x < zero) & S.logical_not(whole | S.isinf(x))
        value = S.select(undefined, _float32(math.nan), value)
        always_one = S.equal(y, zero) | S.equal(x, one) | (S.equal(magnitude(x), one) & S.isinf(y))
        return S.select(always_one, one, value)

    return let(_single(let(magnitude(x), of_size)), signed)


WIDE_FORMULAS: dict[str, Formula] = {
    "acos": _wide(_acos),
    "acosh": _wide(_acosh),
    "asin": _odd(_asin),
    "asinh": _odd(_asinh),
    "atan": _odd(_atan),
    "atan2": _of_two(_atan2),
    "atanh": _odd(_atanh),
    "cosh": _wide(_cosh),
    "erfc": _wide(_erfc),
    "fmod": _of_two(_fmod),
    "hypot": _of_two(_hypot),
    "lgamma": _wide(_lgamma),
    "log10": _to_base(10.0),
    "log2": _to_base(2.0),
    "pow": _of_two(_pow),
    "sinh": _odd(_sinh),
}
"""Each function by the name of TVM's intrinsic and, with an ``f`` behind it, of C's."""
