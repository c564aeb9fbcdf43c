"""`honest_shapes`: sizes of buffers, written so that TVM does not read a wrong bound out of them.

TVM takes for granted that a size of a buffer is not negative. Of a size ``n * 8 - 8`` it
should conclude that n is at least 1; TVM 0.27 concludes that n is at least 8, the number
that is subtracted, and drops conditions for what is smaller: kernels of ``x[1:]`` and its
kin were wrong for short ones, and wrote behind the end of their results. Written as
``(n - 1) * 8`` a size says nothing of n.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules.expressions import int_value, returning_none
from fxpasses.relax import tvm_api as T

__all__ = ["honest_shapes"]


def honest_shapes() -> Any:
    """The pass; it comes before all that looks at kernels with an analyzer."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(T.BufferType, _honest)])

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.honest_shapes")


def _honest(buffer_type: Any) -> Any:
    written = {size: factored for size in buffer_type.shape if (factored := _factored(size)) is not None}
    if not written:
        return buffer_type
    kinds = (T.tirx.Add, T.tirx.Sub)
    return T.tvm_ffi.structural_map(buffer_type, [(kinds, lambda sum_: written.get(sum_, sum_))])


def _factored(size: Any) -> Any:
    """``(n - q) * scale + rest`` with a rest that is not negative, for a size ``n * scale - number``."""
    variables: list[Any] = []
    T.tvm_ffi.structural_walk(size, (T.tirx.Var, returning_none(variables.append)))
    if len(set(variables)) != 1:
        return None
    terms = [int_value(term) for term in T.detect_linear_equation(size, variables[:1])]
    match terms:
        case [int(scale), int(number)] if scale > 1 and number < 0:
            least = -(number // scale)
            return (variables[0] - least) * scale + (number + least * scale)
    return None
