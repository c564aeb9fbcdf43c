"""No division by a size of zero where a loop over that size has no step.

In the loop the size is known not to be zero, so TVM drops what guards the division there,
and then computes what no variable of the loop is in before the loop: with a size of zero
the division would end the process. So divisors of sizes are guarded by a comparison that
no later pass can drop.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules.expressions import occurrences
from fxpasses.relax import tvm_api as T

__all__ = ["safe_divisors"]


def safe_divisors() -> Any:
    """The pass; it comes right before passes that move code out of loops."""
    kinds = (T.tirx.FloorDiv, T.tirx.FloorMod, T.tirx.Div, T.tirx.Mod)

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(kind, _guarded) for kind in kinds])

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.safe_divisors")


def _guarded(division: Any) -> Any:
    """*division* by 1 where a divisor made of sizes is 0; numbers, elements and what is guarded stay."""
    divisor = division.b
    is_integer = "int" in str(divisor.ty.dtype) and "x" not in str(divisor.ty.dtype)
    if not is_integer or isinstance(divisor, T.tirx.IntImm | T.tirx.Select) or occurrences(divisor):
        return division
    zero, one = (T.tirx.const(number, divisor.ty.dtype) for number in (0, 1))
    return type(division)(division.a, T.tirx.Select(divisor.equal(zero), one, divisor))
