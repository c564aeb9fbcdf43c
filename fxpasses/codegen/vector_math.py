"""Elementary functions of float32 as arithmetic that runs in vectors.

LLVM turns exp of a vector into one call of the C library for each element.
`vector_math` writes each function of `FORMULAS` as range reduction and a
polynomial instead, within 2 units of the last place on all of float32. NaN
stays NaN, results beyond the largest number are infinite, and small ones go
through the denormal numbers to zero. Those of float64 are `DOUBLE_FORMULAS`; what
is not among them stays with the C library.

The coefficients are least squares fits, reweighted until the largest relative
error was least (Lawson's iteration); that error is below a tenth of a unit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from fxpasses.codegen.double_math import DOUBLE_FORMULAS
from fxpasses.codegen.math_pieces import (
    Formula,
    from_bits,
    let,
    magnitude,
    polynomial,
    to_bits,
    with_sign,
)
from fxpasses.codegen.scaling import by_factors, has_scale
from fxpasses.codegen.schedules.expressions import op_name
from fxpasses.codegen.wide_math import WIDE_FORMULAS, wide_cosine, wide_sine
from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T

__all__ = ["FORMULAS", "vector_math"]

# log(2) in two parts, the first with so few bits that its products with small integers are exact.
_LOG2_HIGH, _LOG2_LOW = 0.693359375, -2.1219444005469058e-4

# 1.5 * 2 ** 23: the last bit of a sum of this and a smaller number is worth 1.
_TO_INTEGER = 12582912.0

# expm1(r) = r + r^2 * p(r) for |r| <= log(2) / 2
_EXPM1 = (0.4999999701976776, 0.1666654348373413, 0.04166720062494278, 0.008366520516574383,
          0.0013882515486329794)  # fmt: skip

# 2^r - 1 = r * p(r) for |r| <= 1/2
_EXP2 = (0.6931471805816055, 0.2402265092031978, 0.055504107274197495, 0.009618056979453688,
         0.0013333669551833266, 0.00015461352999712004, 1.5252716826027693e-05)  # fmt: skip

# log1p(f) = f + f^2 * p(f) for sqrt(1/2) <= 1 + f <= sqrt(2)
_LOG1P = (-0.49999988079071045, 0.33333325386047363, -0.25001582503318787, 0.20001976191997528,
          -0.16609077155590057, 0.14181779325008392, -0.13242976367473602, 0.12904690206050873,
          -0.07622108608484268)  # fmt: skip

# tanh(x) = x + x * x^2 * p(x^2) for |x| <= 0.55
_TANH = (-0.33333316445350647, 0.13332583010196686, -0.05385199561715126, 0.021070294082164764,
         -0.006272158585488796)  # fmt: skip

# erf(x) = x + x * p(x^2) for |x| <= 1.05
_ERF = (0.12837916612625122, -0.37612617015838623, 0.11283466219902039, -0.02684851735830307,
        0.00517772464081645, -0.0007912935107015073, 7.521034422097728e-05)  # fmt: skip

# erf(x) = p(x - 2.5) for 1.05 <= x <= 3.93; it is 1 in float32 from 3.92 on
_ERF_FAR = (0.9995930790901184, 0.0021780829411000013, -0.005446606315672398, 0.008353203535079956,
            -0.008615625090897083, 0.006103354971855879, -0.0028174533508718014, 0.0005702229682356119,
            0.00028575584292411804, -0.00027881411369889975, 6.224218668648973e-05, 2.1022528017056175e-05,
            -9.186701390717644e-06)  # fmt: skip

# sin(r) = r + r * r^2 * p(r^2) and cos(r) = 1 - r^2 / 2 + r^4 * q(r^2) for |r| <= pi / 4
_SIN = (-0.16666655242443085, 0.008332155644893646, -0.00019514630548655987)
_COS = (0.04166664555668831, -0.0013887309469282627, 2.443241282890085e-05)

# The bits of 2 / pi behind 32 zeros, in words of 32.
_TWO_OVER_PI = (0, 0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0, 0xDB629599, 0x3C439041, 0xFE5163AB)


def vector_math() -> Any:
    """The pass that writes the functions of `FORMULAS` out, in kernels that are still loops."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        def replace(call: Any) -> Any:
            formula = _BY_DTYPE.get(str(getattr(call.ty, "dtype", "")), {}).get(_function_name(call))
            if formula is None:
                return call
            return formula(*(call.args[1:] if op_name(call) == "call_pure_extern" else call.args))

        function = T.tvm_ffi.structural_map(function, [(T.ir.Call, replace)])
        return (
            function if has_scale(function) else T.tvm_ffi.structural_map(function, [(T.ir.Call, by_factors)])
        )

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.vector_math")


def _function_name(call: Any) -> str:
    """``tanh`` for a call of the intrinsic, and for one of the C library's ``tanhf``, or ``tanh`` of float64."""
    name = str(getattr(call.op, "name", "")).rpartition(".")[2]
    if name != "call_pure_extern":
        return name
    symbol = call.args[0].value
    if str(call.ty.dtype) == "float64":
        return symbol
    return symbol.removesuffix("f") if symbol != "erf" else ""


# -- pieces ------------------------------------------------------------------------------


def _number(value: float) -> Any:
    return S.const(value, "float32")


def _clamp(x: Any, low: float, high: float) -> Any:
    """*x* within bounds; one of the bounds for NaN."""
    return T.tirx.max(T.tirx.min(x, _number(high)), _number(low))


def _unless_nan(x: Any, value: Any) -> Any:
    """*value*, or *x* if that is NaN. Signs come after it, for the sake of `guard_masked_logic`."""
    return S.select(S.isnan(x), x, value)


def _power_of_two(exponent: Any) -> Any:
    return from_bits((exponent + 127) << 23)


# -- exponentials ------------------------------------------------------------------------


def _reduced(x: Any, body: Callable[[Any, Any], Any]) -> Any:
    """*body* of an integer n and of expm1(r), where ``x = n * log(2) + r``."""

    def of_rounded(rounded: Any) -> Any:
        # The last bits of the sum are those of the nearest integer.
        nearest = S.subtract(rounded, _number(_TO_INTEGER))
        n = to_bits(rounded) - to_bits(_number(_TO_INTEGER))
        return let(x - nearest * _number(_LOG2_HIGH) - nearest * _number(_LOG2_LOW), lambda r: of_rest(n, r))

    def of_rest(n: Any, r: Any) -> Any:
        return let(polynomial(_EXPM1, r) * (r * r) + r, lambda raised: body(n, raised))

    return let(x * _number(1.0 / math.log(2.0)) + _number(_TO_INTEGER), of_rounded)


def _exp(x: Any, body: Callable[[Any], Any]) -> Any:
    """*body* of ``e ** x``: inf above 88.72, zero below -103.97, a number for NaN."""

    def scaled(n: Any, raised: Any) -> Any:
        return let(T.tirx.ldexp(raised + _number(1.0), n), body)

    return let(_clamp(x, -105.0, 89.0), lambda bounded: _reduced(bounded, scaled))


def _half_expm1(x: Any, low: float, high: float, body: Callable[[Any], Any]) -> Any:
    """*body* of ``(e ** x - 1) / 2`` for x within bounds; a number for NaN, and the sign of a zero is lost."""

    def scaled(n: Any, raised: Any) -> Any:
        return let(_power_of_two(n - 1), lambda power: let(power * raised + (power - _number(0.5)), body))

    return let(_clamp(x, low, high), lambda bounded: _reduced(bounded, scaled))


def exp(value: Any) -> Any:
    """``e ** x``."""
    return let(value, lambda x: _exp(x, lambda z: _unless_nan(x, z)))


def exp2(value: Any) -> Any:
    """``2 ** x``; inf from 128 on, zero below -150."""

    def formula(x: Any) -> Any:
        def of_rounded(rounded: Any) -> Any:
            n = to_bits(rounded) - to_bits(_number(_TO_INTEGER))
            return let(
                S.subtract(bounded, S.subtract(rounded, _number(_TO_INTEGER))), lambda r: of_rest(n, r)
            )

        def of_rest(n: Any, r: Any) -> Any:
            power = T.tirx.ldexp(polynomial(_EXP2, r) * r + _number(1.0), n)
            return let(power, lambda power: _unless_nan(x, power))

        bounded = _clamp(x, -152.0, 129.0)
        return let(bounded + _number(_TO_INTEGER), of_rounded)

    return let(value, formula)


def expm1(value: Any) -> Any:
    """``e ** x - 1``, exact to the last places near 0 too."""

    def formula(x: Any) -> Any:
        # By way of half of it: 2 ** 128 is no float32.
        def signed(half: Any) -> Any:
            return with_sign(magnitude(_unless_nan(x, half * _number(2.0))), x)

        return _half_expm1(x, -17.5, 89.0, signed)

    return let(value, formula)


def sigmoid(value: Any) -> Any:
    """``1 - q`` where x is positive, else ``z - z * q``, of ``z = e ** -|x|`` and ``q = z / (1 + z)``."""

    def formula(x: Any) -> Any:
        def result(z: Any) -> Any:
            above = S.select(x < _number(0.0), z, _number(1.0))
            return let(z / (_number(1.0) + z), lambda q: _unless_nan(x, S.subtract(above, above * q)))

        return _exp(S.negative(magnitude(x)), result)

    return let(value, formula)


def tanh(value: Any) -> Any:
    """``q = h / (1 + h)`` of ``h = (e ** (2 * |x|) - 1) / 2``; the equal ``h - h * q`` where h is small."""

    def formula(x: Any) -> Any:
        def result(h: Any) -> Any:
            return let(
                h / (_number(1.0) + h), lambda q: signed(S.select(h < _number(0.8), S.subtract(h, h * q), q))
            )

        def signed(size: Any) -> Any:
            return with_sign(magnitude(_unless_nan(x, size)), x)

        return _half_expm1(magnitude(x) * _number(2.0), 0.0, 40.0, result)

    return let(value, formula)


def erf(value: Any) -> Any:
    """The error function: a polynomial of x * x up to 1.05, another one of |x| above."""

    def formula(x: Any) -> Any:
        near = let(x * x, lambda square: polynomial(_ERF, square) * x + x)
        far = let(_clamp(magnitude(x), 1.05, 3.93) - _number(2.5), lambda u: polynomial(_ERF_FAR, u))
        saturated = S.select(magnitude(x) < _number(3.93), T.tirx.min(far, _number(1.0)), _number(1.0))
        return S.select(magnitude(x) >= _number(1.05), with_sign(saturated, x), near)  # a NaN is not

    return let(value, formula)


# -- logarithms --------------------------------------------------------------------------


def log(value: Any) -> Any:
    """The natural logarithm: -inf of zero, NaN of what is less."""

    def finite(x: Any, shift: Any) -> Any:
        def of_parts(exponent: Any, f: Any) -> Any:
            low = exponent * _number(_LOG2_LOW) + polynomial(_LOG1P, f) * (f * f)
            return exponent * _number(_LOG2_HIGH) + (low + f)

        def of_shifted(bits: Any) -> Any:
            # The exponent for which the mantissa is nearest to 1: at least sqrt(1/2).
            exponent = (bits - T.tirx.const(0x3F3504F3, "int32")) >> 23
            return let(
                exponent,
                lambda e: let(
                    from_bits(bits - (e << 23)) - _number(1.0),
                    lambda f: of_parts(e.astype("float32") - shift, f),
                ),
            )

        return let(to_bits(x), of_shifted)

    def formula(x: Any) -> Any:
        denormal = x < _number(2.0**-126)
        scaled = S.select(denormal, x * _number(2.0**24), x)
        result = finite(scaled, S.select(denormal, _number(24.0), _number(0.0)))
        result = S.select(S.isinf(x) | S.isnan(x), x, result)
        result = S.select(x < _number(0.0), _number(math.nan), result)
        return S.select(magnitude(x) > _number(0.0), result, S.select(S.isnan(x), x, _number(-math.inf)))

    return let(value, formula)


def log1p(value: Any) -> Any:
    """``log(1 + x)``: what the sum is rounded by is made up for."""

    def formula(x: Any) -> Any:
        def of_sum(u: Any) -> Any:
            lost = S.subtract(x, S.subtract(u, _number(1.0)))
            ordinary = (u > _number(0.0)) & (u < _number(3e38))
            result = log(u) + S.select(ordinary, lost / u, _number(0.0))
            return S.select(magnitude(x) < _number(2.0**-24), x, result)

        return let(S.opaque(x + _number(1.0)), of_sum)

    return let(value, formula)


# -- sine and cosine -----------------------------------------------------------------------


def _quadrant(x: Any, dtype: str, body: Callable[[Any, Any], Any]) -> Any:
    """*body* of an integer n (mod 4) and r within pi / 4 of 0, of *dtype*, where ``x = n * pi / 2 + r``.

    The bits of 2 / pi that make multiples of 4 with x count for nothing. The
    mantissa is multiplied by the 96 bits that follow, exactly, as integers.
    """
    tirx = T.tirx

    def word(value: int) -> Any:
        return tirx.const(value, "uint64")

    def window(index: Any, number: int) -> Any:
        result = word(_TWO_OVER_PI[number + 4])
        for first in reversed(range(4)):
            result = S.select(index <= first, word(_TWO_OVER_PI[number + first]), result)
        return result

    low_half = word(0xFFFFFFFF)

    def of_position(bits: Any, position: Any) -> Any:
        index, back = position >> 5, (32 - (position & 31)).astype("uint64")
        words = [window(index, number) for number in range(4)]
        high, middle, low = (
            (((first << word(32)) | second) >> back) & low_half for first, second in itertools.pairwise(words)
        )
        mantissa = ((bits & 0x7FFFFF) | 0x800000).astype("uint64")
        return let(
            mantissa * middle + ((mantissa * low) >> word(32)),
            lambda rest: let(
                ((mantissa * high) + (rest >> word(32)) + word(1 << 29)) & low_half,
                lambda turns: of_turns(turns, rest & low_half),
            ),
        )

    def of_turns(turns: Any, rest: Any) -> Any:
        # Two bits of whole quadrants, then 30 and 32 of the fraction, which lies around one half.
        fraction = (turns & word((1 << 30) - 1)).astype("int64") - tirx.const(1 << 29, "int64")
        wide = fraction.astype("float64") * tirx.const(2.0**32, "float64") + rest.astype("int64").astype(
            "float64"
        )
        angle = S.cast(wide * tirx.const(math.pi / 2 * 2.0**-62, "float64"), dtype)
        return let((turns >> word(30)).astype("int32"), lambda n: let(angle, lambda r: signed(n, r)))

    def signed(n: Any, r: Any) -> Any:
        small = magnitude(x) < _number(0.78)
        n = S.select(small, tirx.const(0, "int32"), S.select(x < _number(0.0), -n, n))
        mirrored = S.select(x < _number(0.0), S.negative(r), r)
        return let(n, lambda n: let(S.select(small, S.cast(x, dtype), mirrored), lambda r: body(n, r)))

    def of_bits(bits: Any) -> Any:
        position = tirx.max((bits >> 23) - 120, tirx.const(0, "int32"))
        return let(position, lambda position: of_position(bits, position))

    return let(to_bits(magnitude(x)), of_bits)


def _sine(quarters: int) -> Formula:
    """The sine, *quarters* of a turn further on."""

    def formula(x: Any) -> Any:
        def value(n: Any, r: Any) -> Any:
            square = r * r
            sine = S.select(magnitude(r) < _number(2.0**-13), r, polynomial(_SIN, square) * square * r + r)
            cosine = polynomial(_COS, square) * (square * square) + (_number(1.0) - square * _number(0.5))
            n = n + quarters
            either = S.select((n & 1).equal(0), sine, cosine)
            flipped = from_bits(to_bits(either) ^ ((n & 2) << 30))
            return S.select(S.isinf(x) | S.isnan(x), _number(math.nan), flipped)

        return _quadrant(x, "float32", value)

    return lambda value: let(value, formula)


def tan(value: Any) -> Any:
    """The quotient of sine and cosine, in float64."""

    def formula(x: Any) -> Any:
        def of_parts(n: Any, sine: Any, cosine: Any) -> Any:
            turned = S.not_equal(n & 1, T.tirx.const(0, "int32"))
            above, below = S.select(turned, S.negative(cosine), sine), S.select(turned, sine, cosine)
            quotient = S.cast(S.divide(above, below), "float32")
            return S.select(S.isinf(x) | S.isnan(x), _number(math.nan), quotient)

        def value(n: Any, r: Any) -> Any:
            return let(wide_sine(r), lambda s: let(wide_cosine(r), lambda c: of_parts(n, s, c)))

        return _quadrant(x, "float64", value)

    return let(value, formula)


FORMULAS: dict[str, Formula] = {
    **WIDE_FORMULAS,
    "cos": _sine(1),
    "erf": erf,
    "exp": exp,
    "exp2": exp2,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "sigmoid": sigmoid,
    "sin": _sine(0),
    "tan": tan,
    "tanh": tanh,
}
"""Each function by the name of TVM's intrinsic and, with an ``f`` behind it, of C's."""

_BY_DTYPE = {"float32": FORMULAS, "float64": DOUBLE_FORMULAS}
