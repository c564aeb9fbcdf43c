"""`Combination`: how a reduction puts one more term to what it has so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import const, highest, lowest

__all__ = ["Combination", "combination", "is_overwritten"]


class Combination(NamedTuple):
    """``apply(so_far, term)``, which is associative and commutative.

    Attributes:
        apply: makes the expression.
        neutral: the number of a dtype that changes nothing.
        term: what is combined, in the expression that this was found in.
    """

    apply: Callable[[Any, Any], Any]
    neutral: Callable[[str], Any]
    term: Any


def combination(value: Any, so_far: Callable[[Any], bool]) -> Combination | None:
    """The combination that *value* is, of what *so_far* holds for and a term without it; None for any other."""
    tirx = T.tirx
    for kind, neutral in (
        (tirx.Add, lambda dtype: const(0, dtype)),
        (tirx.Mul, lambda dtype: const(1, dtype)),
        (tirx.Max, lowest),
        (tirx.Min, highest),
    ):
        if isinstance(value, kind):
            sides = [(value.a, value.b), (value.b, value.a)]
            term = next((term for total, term in sides if so_far(total)), None)
            return None if term is None else Combination(kind, neutral, term)
    if not isinstance(value, tirx.Select) or not isinstance(value.false_value, tirx.Select):
        return None
    term, inner = value.true_value, value.false_value
    if not so_far(inner.false_value):
        return None
    for apply, start in ((S.greatest, lowest), (S.least, highest)):
        if T.tvm_ffi.structural_equal(value, apply(inner.false_value, term)):
            return Combination(apply, start, term)
    return None


def is_overwritten(value: Any, store: Any) -> bool:
    """Whether *value* is what *store* overwrites."""
    return (
        isinstance(value, T.ir.TensorLoad)
        and value.source.same_as(store.buffer)
        and len(value.indices) == len(store.indices)
        and all(map(T.tvm_ffi.structural_equal, value.indices, store.indices))
    )
