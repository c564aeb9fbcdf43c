"""Functions of float64 between angles and lengths, as `fxpasses.codegen.double_math` has them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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

__all__ = ["DOUBLE_ANGLES"]

# sin(r) = r + r * r^2 * p(r^2) and cos(r) = 1 - r^2 / 2 + r^4 * q(r^2) for |r| <= pi / 4
_SIN = (-0.16666666666666666, 0.008333333333333331, -0.00019841269841265003, 2.7557319219291695e-06,
        -2.5052106215978872e-08, 1.6058529011960858e-10, -7.586543634101903e-13)  # fmt: skip
_COS = (0.041666666666666664, -0.0013888888888887378, 2.4801587298736863e-05, -2.755731725679604e-07,
        2.087614315990944e-09, -1.1382408754153254e-11)  # fmt: skip

# asin(s) = s + s * s^2 * p(s^2) and atan(s) = s + s * s^2 * p(s^2) for |s| <= 1/2
_ASIN = (0.16666666666666669, 0.07499999999998433, 0.04464285714635543, 0.030381944138531247,
         0.02237217294214989, 0.017352392720869973, 0.013971212973552933, 0.011479177415184906,
         0.01032281435018578, 0.005457506718640358, 0.01740087944269402, -0.014851887071247204,
         0.028757851367421566)  # fmt: skip
_ATAN = (-0.3333333333333333, 0.19999999999999488, -0.14285714285599188, 0.11111111100917376,
         -0.09090908620322523, 0.07692294712540285, -0.06666435677235948, 0.05879578429582425,
         -0.05240099507994713, 0.04628024868570153, -0.03806653672057366, 0.025006503566489507,
         -0.009215792047089858)  # fmt: skip

# pi / 2 as a sum.
_QUARTER = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33)

# 1.5 * 2 ** 52: the last bit of a sum of this and a smaller number is worth 1.
_TO_INTEGER = 6755399441055744.0

_FAR = 2.0**30
"""From here on the C library takes the quarters of a turn off, which takes more than three parts of pi / 2."""


def _number(value: float) -> Any:
    return S.const(value, "float64")


def _odd_series(coefficients: tuple[float, ...], x: Any) -> Any:
    """``x + x ** 3 * p(x * x)``."""
    return let(x * x, lambda square: polynomial(coefficients, square) * square * x + x)


# -- of angles -----------------------------------------------------------------------------


def _within_a_quarter(x: Any, body: Callable[[Any, Any, Any], Any]) -> Any:
    """*body* of a whole number n, of r and of what it is rounded by, where ``x = n * pi / 2 + r``, below `_FAR`."""

    def of_rounded(rounded: Any) -> Any:
        def of_nearest(n: Any) -> Any:
            first, second, third = (_number(part) for part in _QUARTER)
            # Not rounded, since what is left has no more digits than x.
            most = fused(n, S.negative(first), x)
            return let(
                most, lambda most: let(n * second, lambda more: of_parts(n, most, more, second, third))
            )

        def of_parts(n: Any, most: Any, more: Any, second: Any, third: Any) -> Any:
            def of_rest(r: Any) -> Any:
                lost = n * third + fused(n, second, S.negative(more))
                low = S.subtract(S.subtract(S.subtract(most, r), more), lost)
                return let(low, lambda low: body(to_bits(rounded), r, low))

            return let(S.subtract(most, more), of_rest)

        return let(S.subtract(rounded, _number(_TO_INTEGER)), of_nearest)

    return let(x * _number(2.0 / math.pi) + _number(_TO_INTEGER), of_rounded)


def _sine_series(r: Any, low: Any) -> Any:
    return let(r * r, lambda square: r + (polynomial(_SIN, square) * square * r + low))


def _cosine_series(r: Any, low: Any) -> Any:
    def near_one(square: Any, half: Any) -> Any:
        def of_difference(near: Any) -> Any:
            lost = S.subtract(S.subtract(S.subtract(_number(1.0), near), half), low * r)
            return near + (polynomial(_COS, square) * (square * square) + lost)

        return let(S.subtract(_number(1.0), half), of_difference)

    return let(r * r, lambda square: let(square * _number(0.5), lambda half: near_one(square, half)))


def _of_turns(
    combined: Callable[[Any, Any, Any], Any], function: Callable[[Any], Any], *, odd: bool = False
) -> Formula:
    """What *combined* makes of n, sine and cosine; what *function* says of large numbers.

    The sums lose the sign of a zero, which an *odd* function has.
    """

    def formula(x: Any) -> Any:
        def of_rest(n: Any, r: Any, low: Any) -> Any:
            return let(
                _sine_series(r, low),
                lambda sine: let(_cosine_series(r, low), lambda cosine: either(combined(n, sine, cosine))),
            )

        def either(near: Any) -> Any:
            near = S.select(S.equal(x, _number(0.0)), x, near) if odd else near
            return let(near, lambda near: S.select(magnitude(x) < _number(_FAR), near, function(x)))

        return _within_a_quarter(x, of_rest)

    return lambda value: let(value, formula)


def _sine(quarters: int) -> Callable[[Any, Any, Any], Any]:
    """The sine, *quarters* of a turn further on."""

    def combined(n: Any, sine: Any, cosine: Any) -> Any:
        n = n + _bits(quarters)
        either = S.select((n & _bits(1)).equal(_bits(0)), sine, cosine)
        return from_bits(to_bits(either) ^ ((n & _bits(2)) << _bits(62)))

    return combined


def _tangent(n: Any, sine: Any, cosine: Any) -> Any:
    turned = S.not_equal(n & _bits(1), _bits(0))
    above, below = S.select(turned, S.negative(cosine), sine), S.select(turned, sine, cosine)
    return S.divide(above, below)


def _bits(value: int) -> Any:
    return T.tirx.const(value, "int64")


# -- angles --------------------------------------------------------------------------------


def _angle(y: Any, x: Any, body: Callable[[Any], Any]) -> Any:
    """*body* of the angle of the point (x, y), neither of which is negative; x is not 0 and one is finite.

    What is more than half a diagonal away from an axis is turned by it.
    """
    steep, middle = y * _number(0.5) > x, y > x * _number(0.5)
    above = S.select(steep, S.negative(x), S.select(middle, S.subtract(y, x), y))
    below = S.select(steep, y, S.select(middle, y + x, x))
    base = S.select(steep, _number(math.pi / 2), S.select(middle, _number(math.pi / 4), _number(0.0)))
    low = base * _number(_QUARTER[1] / (math.pi / 2))
    return let(
        S.divide(above, below),
        lambda t: let(_odd_series(_ATAN, t), lambda angle: let(base + (angle + low), body)),
    )


def _atan(x: Any) -> Any:
    return let(magnitude(x), lambda a: _angle(a, _number(1.0), lambda angle: with_sign(magnitude(angle), x)))


def _atan2(y: Any, x: Any) -> Any:
    """The angle of the point (x, y); an axis where one of them is 0, a diagonal where both are infinite."""

    def of_sizes(a: Any, b: Any) -> Any:
        # Half of the least numbers and twice the largest ones are kept from being lost.
        large = T.tirx.max(a, b)
        scale = S.select(large > _number(2.0**1000), _number(2.0**-60), _number(1.0))
        scale = S.select(large < _number(2.0**-900), _number(2.0**60), scale)
        return let(scale, lambda scale: let(a * scale, lambda a: let(b * scale, lambda b: of_scaled(a, b))))

    def of_scaled(a: Any, b: Any) -> Any:
        same = S.isinf(x) & S.isinf(y)
        a, b = S.select(same, _number(1.0), a), S.select(same, _number(1.0), b)
        b = S.select(S.equal(a, _number(0.0)) & S.equal(b, _number(0.0)), _number(1.0), b)
        return let(a, lambda a: let(b, lambda b: _angle(a, b, mirrored)))

    def mirrored(angle: Any) -> Any:
        left = to_bits(x) < _bits(0)  # also for -0.0
        other = S.subtract(_number(math.pi), S.subtract(angle, _number(2 * _QUARTER[1])))
        return let(S.select(left, other, angle), lambda angle: with_sign(magnitude(angle), y))

    return let(magnitude(y), lambda a: let(magnitude(x), lambda b: of_sizes(a, b)))


def _arcsine(a: Any, body: Callable[[Any, Any, Any], Any]) -> Any:
    """*body* of whether *a* is at most 1/2, and of two parts of its arc sine, or else of half its arc cosine."""
    near = a <= _number(0.5)
    square = S.select(near, a * a, (_number(1.0) - a) * _number(0.5))

    def of_square(t: Any) -> Any:
        arc = S.select(near, a, T.tirx.sqrt(t))
        return let(arc, lambda s: let(polynomial(_ASIN, t) * t * s, lambda more: body(near, s, more)))

    return let(square, of_square)


def _asin(x: Any) -> Any:
    def either(near: Any, arc: Any, more: Any) -> Any:
        double = S.subtract(more * _number(2.0), _number(_QUARTER[1]))
        far = S.subtract(S.subtract(_number(math.pi / 2), arc * _number(2.0)), double)
        return let(S.select(near, arc + more, far), lambda size: with_sign(magnitude(size), x))

    return let(magnitude(x), lambda a: _arcsine(a, either))


def _acos(x: Any) -> Any:
    negative = x < _number(0.0)

    def either(near: Any, arc: Any, more: Any) -> Any:
        signed = S.select(negative, S.negative(arc), arc)
        low = S.subtract(S.select(negative, S.negative(more), more), _number(_QUARTER[1]))
        middle = S.subtract(_number(math.pi / 2), signed + low)
        double = let(arc + more, lambda half: half * _number(2.0))
        return let(middle, lambda middle: let(double, lambda double: far(near, middle, double)))

    def far(near: Any, middle: Any, double: Any) -> Any:
        obtuse = S.subtract(_number(math.pi), S.subtract(double, _number(2 * _QUARTER[1])))
        return S.select(near, middle, S.select(negative, obtuse, double))

    return let(magnitude(x), lambda a: _arcsine(a, either))


# -- lengths -------------------------------------------------------------------------------


def _hypot(x: Any, y: Any) -> Any:
    """The distance of the point (x, y); infinite where one of them is, whatever the other."""

    def of_sizes(a: Any, b: Any) -> Any:
        large = T.tirx.max(a, b)
        scale = S.select(large > _number(2.0**500), _number(2.0**-600), _number(1.0))
        scale = S.select(large < _number(2.0**-400), _number(2.0**600), scale)
        return let(scale, lambda scale: let(a * scale, lambda a: let(b * scale, lambda b: root(scale, a, b))))

    def root(scale: Any, a: Any, b: Any) -> Any:
        distance = T.tirx.sqrt(let(b * b, lambda square: fused(a, a, square))) / scale
        return S.select(S.isinf(x) | S.isinf(y), _number(math.inf), distance)

    return let(magnitude(x), lambda a: let(magnitude(y), lambda b: of_sizes(a, b)))


def _of(formula: Callable[[Any], Any]) -> Formula:
    return lambda value: let(value, formula)


def _of_two(formula: Callable[[Any, Any], Any]) -> Formula:
    return lambda first, second: let(first, lambda x: let(second, lambda y: formula(x, y)))


DOUBLE_ANGLES: dict[str, Formula] = {
    "acos": _of(_acos),
    "asin": _of(_asin),
    "atan": _of(_atan),
    "atan2": _of_two(_atan2),
    "cos": _of_turns(_sine(1), T.tirx.cos),
    "hypot": _of_two(_hypot),
    "sin": _of_turns(_sine(0), T.tirx.sin, odd=True),
    "tan": _of_turns(_tangent, T.tirx.tan, odd=True),
}
"""Each function by the name of TVM's intrinsic, which is C's as well."""
