"""Small helpers on TIR expressions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from fxpasses.relax import tvm_api as T

__all__ = ["elements", "int_value", "occurrences", "op_name", "returning_none", "same", "static_product"]


def int_value(value: Any) -> int | None:
    """The number that an expression is, None for any other."""
    return int(value) if isinstance(value, T.tirx.IntImm) else None


def same(a: Any, b: Any) -> bool:
    """Whether two expressions are equal by structure, or the same number in two types."""
    return bool(T.tvm_ffi.structural_equal(a, b)) or (
        int_value(a) is not None and int_value(a) == int_value(b)
    )


def static_product(extents: Sequence[int | None]) -> int | None:
    """The product of *extents*, None where one is symbolic."""
    return None if None in extents else math.prod(extents)  # type: ignore[arg-type]


def elements(extents: Sequence[int | None]) -> float:
    """The number of elements, infinite where it is symbolic."""
    count = static_product(extents)
    return math.inf if count is None else count


def op_name(call: Any) -> str:
    """The name of what is called, without its namespace."""
    return str(getattr(call.op, "name", "")).rpartition(".")[2]


def returning_none(function: Callable[[Any], Any]) -> Callable[[Any], None]:
    """The function for a walk, which takes a returned value as an instruction."""

    def run(node: Any) -> None:
        function(node)

    return run


_OPERANDS = ("a", "b", "condition", "true_value", "false_value", "value")


def occurrences(expression: Any) -> Counter[Any]:
    """How often each buffer is loaded in *expression* as a tree, in which no two places share a part."""
    known: dict[Any, Counter[Any]] = {}

    def count(node: Any) -> Counter[Any]:
        if node not in known:
            total: Counter[Any] = Counter()
            if isinstance(node, T.ir.TensorLoad):
                total[node.source] += 1
            else:
                for part in [*(getattr(node, name, None) for name in _OPERANDS), *getattr(node, "args", ())]:
                    if T.ir.is_prim_expr(part):
                        total.update(count(part))
            known[node] = total
        return known[node]

    return count(expression)
