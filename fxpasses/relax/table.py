"""The lowering table: which function turns a call of which operator into Relax.

A lowering is a function shaped like the operator's schema::

    @lowering(aten.addmm.default)
    def addmm(b, self, mat1, mat2, *, beta, alpha): ...

Its parameters, after the builder `b`, carry the names and kinds of the
schema's arguments; a difference is an error at import. Tensors arrive as Relax
variables, symbolic sizes as TIR expressions, all else as Python values, always
in full form. The table is keyed by the overload object, so an operator of
another namespace with the same name is never taken for it.

Reading the table does not import TVM: rows reach it through
`fxpasses.relax.tvm_api` when they run.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from torch._ops import OpOverload

from fxpasses.errors import FxpassesError

__all__ = ["lowering", "lowerings"]

Lowering = Callable[..., Any]

_TABLE: dict[OpOverload, Lowering] = {}


def lowering(*ops: OpOverload) -> Callable[[Lowering], Lowering]:
    """Decorator: enter a function as the lowering of *ops*.

    Raises:
        FxpassesError: the signature differs from an operator's schema, or an
            operator has a lowering already.
    """

    def enter(function: Lowering) -> Lowering:
        for op in ops:
            check_signature(op, function)
            if op in _TABLE:
                raise FxpassesError(f"{op} has two lowerings: {_TABLE[op].__name__} and {function.__name__}")
            _TABLE[op] = function
        return function

    return enter


def lowerings() -> Mapping[OpOverload, Lowering]:
    """The whole table, read only."""
    _load()
    return MappingProxyType(_TABLE)


@cache
def _load() -> None:
    from fxpasses.relax import ops

    for module in pkgutil.iter_modules(ops.__path__):
        importlib.import_module(f"{ops.__name__}.{module.name}")


def check_signature(op: OpOverload, function: Lowering) -> None:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    given = [(p.name, p.kind is p.KEYWORD_ONLY) for p in parameters]
    wanted = [(argument.name, argument.kwarg_only) for argument in op._schema.arguments]
    if given != wanted:
        raise FxpassesError(
            f"the lowering {function.__name__} of {op} has parameters {_spell(given)}, "
            f"its schema has {_spell(wanted)}"
        )


def _spell(parameters: list[tuple[str, bool]]) -> str:
    return "(" + ", ".join(f"{'*, ' if kw else ''}{name}" for name, kw in parameters) + ")"
