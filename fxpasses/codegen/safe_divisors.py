"""No division by a size of zero where a loop over that size has no step.

In the loop the size is known not to be zero, so TVM drops what guards the division there,
and then computes what no variable of the loop is in before the loop: with a size of zero
the division would end the process. So divisors of sizes are guarded anew before code moves.

A divisor that cannot be negative is guarded by a maximum, which tells TVM that it is positive:
it would round a quotient by a divisor of either sign in several steps, and takes minutes to
simplify a few of these in each other.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules.expressions import int_value, occurrences, same
from fxpasses.relax import tvm_api as T

__all__ = ["safe_divisors"]


def safe_divisors() -> Any:
    """The pass; it comes right before passes that move code out of loops."""
    tirx = T.tirx
    kinds = (tirx.FloorDiv, tirx.FloorMod, tirx.Div, tirx.Mod)

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        sizes = _Sizes(function)
        return T.tvm_ffi.structural_map(
            function, [(kind, lambda division: _guarded(division, sizes)) for kind in kinds]
        )

    return tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.safe_divisors")


def _guarded(division: Any, sizes: _Sizes) -> Any:
    """*division* by 1 where a divisor made of sizes is 0; numbers, elements and what is guarded stay."""
    tirx, divisor = T.tirx, division.b
    is_integer = "int" in str(divisor.ty.dtype) and "x" not in str(divisor.ty.dtype)
    is_safe = isinstance(divisor, tirx.IntImm | tirx.Select | tirx.Max)
    if not is_integer or is_safe or occurrences(divisor):
        return division
    zero, one = (tirx.const(number, divisor.ty.dtype) for number in (0, 1))
    if sizes.has(divisor):
        return type(division)(division.a, tirx.Max(divisor, one))
    return type(division)(division.a, tirx.Select(divisor.equal(zero), one, divisor))


class _Sizes:
    """The sizes of the tensors that a function is given, and what they make, which is not negative."""

    def __init__(self, function: Any) -> None:
        self.known = [size for param in function.params for size in getattr(param, "shape", ())]

    def has(self, value: Any) -> bool:
        """Whether *value* is a size, or a sum or a product of some and of numbers, by its form."""
        if isinstance(value, T.tirx.Mul | T.tirx.Add) and self.has(value.a) and self.has(value.b):
            return True
        number = int_value(value)
        return any(same(value, size) for size in self.known) if number is None else number >= 0
