"""Tables of functions that are shaped like operator schemas.

Lowerings, decompositions and the rules for complex numbers are such tables::

    @lowering(aten.addmm.default)
    def addmm(b, self, mat1, mat2, *, beta, alpha): ...

A row's parameters, after the first, carry the names and kinds of the schema's
arguments; a difference is an error at import. A table is keyed by the overload
object, so an operator of another namespace with the same name is never taken
for it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch._ops import OpOverload

from fxpasses.errors import FxpassesError

__all__ = ["OperatorTable", "Row"]

Row = Callable[..., Any]


class OperatorTable:
    """The rows that the modules of a package enter.

    Args:
        kind: what a row is, for messages.
        package: the package whose modules have the rows; they are imported when
            the table is first read.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._rows: dict[OpOverload, Row] = {}
        self._is_loaded = False

    def row(self, *ops: OpOverload) -> Callable[[Row], Row]:
        """Decorator: enter a function as the row of *ops*.

        Raises:
            FxpassesError: the signature differs from an operator's schema, or an
                operator has a row already.
        """

        def enter(function: Row) -> Row:
            for op in ops:
                self._check_signature(op, function)
                if op in self._rows:
                    names = f"{self._rows[op].__name__} and {function.__name__}"
                    raise FxpassesError(f"{op} has two rows for {self.kind}: {names}")
                self._rows[op] = function
            return function

        return enter

    def rows(self) -> Mapping[OpOverload, Row]:
        """The whole table, read only."""
        if not self._is_loaded:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            self._is_loaded = True
        return MappingProxyType(self._rows)

    def _check_signature(self, op: OpOverload, function: Row) -> None:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        given = [(p.name, p.kind is p.KEYWORD_ONLY) for p in parameters]
        wanted = [(argument.name, argument.kwarg_only) for argument in op._schema.arguments]
        if given != wanted:
            raise FxpassesError(
                f"{function.__name__}, the {self.kind} of {op}, has parameters {_spell(given)}, "
                f"its schema has {_spell(wanted)}"
            )


def _spell(parameters: list[tuple[str, bool]]) -> str:
    return "(" + ", ".join(f"{'*, ' if kw else ''}{name}" for name, kw in parameters) + ")"
