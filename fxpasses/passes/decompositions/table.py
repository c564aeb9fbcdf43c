"""The table of our own decompositions: functions shaped like operator schemas, as lowerings are.

They stand in the place of torch's where torch's form depends on strides (matmul,
linear), where a canonical spelling exists (views, splits, casts), and for the
operators that every model calls many times. A row may return None to leave a
call to torch's decomposition.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from torch._ops import OpOverload

from fxpasses.relax.table import check_signature

__all__ = ["decomposition", "decompositions"]

Row = Callable[..., Any]

_ROWS: dict[OpOverload, Row] = {}


def decomposition(*ops: OpOverload) -> Callable[[Row], Row]:
    """Decorator: enter a function ``(g, *schema arguments) -> value``."""

    def enter(function: Row) -> Row:
        for op in ops:
            check_signature(op, function)
            _ROWS[op] = function
        return function

    return enter


@cache
def decompositions() -> Mapping[OpOverload, Row]:
    """The whole table, read only."""
    from fxpasses.passes import decompositions as families

    for module in pkgutil.iter_modules(families.__path__):
        importlib.import_module(f"{families.__name__}.{module.name}")
    return MappingProxyType(_ROWS)
