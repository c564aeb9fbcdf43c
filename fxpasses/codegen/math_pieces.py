"""What the formulas of `fxpasses.codegen.vector_math` and `fxpasses.codegen.wide_math` are written with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T

__all__ = [
    "Formula",
    "from_bits",
    "fused",
    "let",
    "magnitude",
    "polynomial",
    "to_bits",
    "with_sign",
]

Formula = Callable[..., Any]
"""From the arguments of a function of float32 to its value, both as expressions."""


def let(value: Any, body: Callable[[Any], Any]) -> Any:
    """*body* of a variable that holds *value*, so that it is computed once.

    What follows goes into the body and not around it: TVM simplifies a value
    once for each one that it is part of.
    """
    var = T.tirx.Var("x", str(value.ty.dtype))
    return T.tirx.Let(var, value, body(var))


def fused(a: Any, b: Any, c: Any) -> Any:
    """``a * b + c`` of float64 with one rounding."""
    return T.tirx.call_llvm_pure_intrin("float64", "llvm.fma", a, b, c)


def polynomial(coefficients: Sequence[float], x: Any) -> Any:
    """The polynomial of *x*, in its dtype; the constant coefficient comes first."""
    *rest, result = (S.const(coefficient, S.dtype_of(x)) for coefficient in coefficients)
    for coefficient in reversed(rest):
        result = result * x + coefficient
    return result


_INTEGERS = {"float32": "int32", "float64": "int64"}


def to_bits(x: Any) -> Any:
    """The bits of a float, as a signed integer."""
    return T.tirx.reinterpret(_INTEGERS[S.dtype_of(x)], x)


def from_bits(bits: Any) -> Any:
    """The float of these bits."""
    floats = {integer: number for number, integer in _INTEGERS.items()}
    return T.tirx.reinterpret(floats[S.dtype_of(bits)], bits)


def magnitude(x: Any) -> Any:
    """A float without its sign."""
    bits = to_bits(x)
    return from_bits(bits & _number(bits, ~_sign_bit(bits)))


def with_sign(result: Any, x: Any) -> Any:
    """*result*, which is not negative, with the sign of *x*."""
    bits = to_bits(x)
    return from_bits(to_bits(result) | (bits & _number(bits, _sign_bit(bits))))


def _sign_bit(bits: Any) -> int:
    return -(1 << (S.BITS[S.dtype_of(bits)] - 1))


def _number(bits: Any, value: int) -> Any:
    return T.tirx.const(value, S.dtype_of(bits))
