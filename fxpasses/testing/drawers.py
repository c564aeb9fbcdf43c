"""What rows of the operator table are made of: `Row`, `Motif`, and drawers of arguments.

A drawer is a function ``(g, given)`` of the growing program `g` (see `Grower`)
and the arguments drawn before it. Whether the call is valid is not its
business: it is tried on fake tensors, and dropped if it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch._ops import OpOverload

from fxpasses.errors import FxpassesError

__all__ = [
    "ALL",
    "BOOL",
    "FLOAT",
    "INT",
    "NUMERIC",
    "OMIT",
    "WIDE",
    "Drawer",
    "Grower",
    "Motif",
    "Reject",
    "Row",
    "broadcast",
    "choose",
    "dim",
    "dims",
    "flag",
    "guess_row",
    "integer",
    "new_dtype",
    "number",
    "optional",
    "partner",
    "rows",
    "same",
    "several",
    "small_shape",
    "tensor",
]

FLOAT = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INT = (torch.int64, torch.int32, torch.int8, torch.uint8, torch.int16)
BOOL = (torch.bool,)
NUMERIC = FLOAT + INT
ALL = NUMERIC + BOOL
WIDE = (torch.float32, torch.float64)


class Reject(Exception):
    """This call cannot be made here; the program grows on without it."""


class Grower(Protocol):
    """What a drawer may ask of the growing program. Choices shrink towards the first."""

    def integer(self, low: int, high: int) -> int:
        """A number from *low* to *high*, both included."""

    def choose(self, options: Sequence[Any]) -> Any:
        """One of *options*."""

    def flag(self) -> bool:
        """True or False."""

    def dtype(self, kinds: Iterable[torch.dtype]) -> torch.dtype:
        """One of *kinds* that the program may use."""

    def tensor(self, kinds: Iterable[torch.dtype], rank: tuple[int, int], domain: str) -> Any:
        """A value that is there already, or a new leaf."""

    def like(self, dtype: torch.dtype, shape: Sequence[int], domain: str = "any") -> Any:
        """A value of exactly this type."""

    def partner(self, shape: Sequence[int], kinds: Iterable[torch.dtype], domain: str = "any") -> Any:
        """A value that broadcasts with *shape*."""

    def index(
        self, size: int, shape: Sequence[int], dtype: torch.dtype = torch.int64, negative: bool = False
    ) -> Any:
        """Valid positions in a dim of *size*."""

    def constant(self, tensor: torch.Tensor) -> Any:
        """A constant of the program."""

    def tensor_data(self, dtype: torch.dtype, shape: Sequence[int], domain: str = "any") -> torch.Tensor:
        """Random data for a constant."""

    def permutation(self, length: int) -> list[int]:
        """The numbers below *length* in some order."""

    def call(self, op: OpOverload, /, *args: Any, **kwargs: Any) -> Any:
        """Add a call; its value, or a tuple of its values. Raises `Reject`."""


Drawer = Callable[[Any, dict[str, Any]], Any]

OMIT = object()
"""Drawn for an argument that the call leaves to its default."""


@dataclass(frozen=True)
class Row:
    """An operator and its drawers by argument name.

    `arguments` may also be a function of `g` that returns the arguments by name.
    """

    op: OpOverload
    arguments: Mapping[str, Drawer] | Callable[[Any], dict[str, Any]]

    def __post_init__(self) -> None:
        if isinstance(self.arguments, Mapping):
            known = {argument.name for argument in self.op._schema.arguments}
            unknown = [name for name in self.arguments if name not in known]
            if unknown:
                raise FxpassesError(
                    f"{self.op} has no argument {unknown[0]!r}; its schema is {self.op._schema}"
                )

    @property
    def name(self) -> str:
        return str(self.op)

    def grow(self, g: Any) -> Any:
        """Draw the arguments and make the call."""
        if isinstance(self.arguments, Mapping):
            given: dict[str, Any] = {}
            for name, drawer in self.arguments.items():
                value = drawer(g, given)
                if value is not OMIT:
                    given[name] = value
        else:
            given = {name: value for name, value in self.arguments(g).items() if value is not OMIT}
        args, kwargs = _spell(self.op, given, by_name=g.choose((False, False, False, True)))
        return g.call(self.op, *args, **kwargs)


@dataclass(frozen=True)
class Motif:
    """A function of `g` that makes several calls."""

    name: str
    function: Callable[[Any], Any]

    def grow(self, g: Any) -> Any:
        """Make the calls."""
        return self.function(g)


def _spell(op: OpOverload, given: dict[str, Any], by_name: bool) -> tuple[list[Any], dict[str, Any]]:
    """As a call may be written: by position up to the first argument left out, then by name."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for index, argument in enumerate(op._schema.arguments):
        if argument.name not in given:
            by_name = True
        elif argument.kwarg_only or kwargs or (by_name and index) or by_name:
            kwargs[argument.name] = given[argument.name]
        else:
            args.append(given[argument.name])
    return args, kwargs


# -- drawers -----------------------------------------------------------------------------


def tensor(
    kinds: Iterable[torch.dtype] = FLOAT, rank: tuple[int, int] = (0, 4), domain: str = "any"
) -> Drawer:
    """Any value of such a dtype and rank."""
    return lambda g, given: g.tensor(kinds, rank, domain)


def partner(
    of: str, kinds: Iterable[torch.dtype] | None = None, *, numbers: bool = True, domain: str = "any"
) -> Drawer:
    """A second operand: mostly of the same dtype, sometimes of another, sometimes a Python number."""

    def draw(g: Any, given: dict[str, Any]) -> Any:
        first = given[of]
        how = g.choose(("same", "same", "same", "other") + (("number",) if numbers else ()))
        if how == "number":
            return g.choose(_NUMBERS if kinds is None or first.dtype in kinds else (2, 1))
        if how == "same":
            return g.partner(first.shape, (first.dtype,), domain)
        return g.partner(first.shape, kinds or NUMERIC, domain)

    return draw


def same(of: str, domain: str = "any") -> Drawer:
    """A value of the same dtype and shape."""
    return lambda g, given: g.like(given[of].dtype, given[of].shape, domain)


def broadcast(of: str) -> Drawer:
    """A value of the same dtype that broadcasts."""
    return lambda g, given: g.partner(given[of].shape, (given[of].dtype,))


_NUMBERS = (2, 0.5, 1, 3, -1.5, -1, 0, 0.1)
_INTEGERS = (2, 1, 3, -1, 0, 5)


def number(of: str | None = None, *, options: Sequence[Any] | None = None) -> Drawer:
    """A Python number; for an integer tensor sometimes a float, which promotes it."""

    def draw(g: Any, given: dict[str, Any]) -> Any:
        if options is not None:
            return g.choose(options)
        integral = of is not None and not given[of].dtype.is_floating_point
        return g.choose((*_INTEGERS, 0.5, 2.5)) if integral else g.choose(_NUMBERS)

    return draw


def dim(of: str = "self") -> Drawer:
    """A dim, from the front or from the back."""

    def draw(g: Any, given: dict[str, Any]) -> Any:
        rank = max(given[of].dim(), 1)
        return g.choose([*range(rank), *range(-1, -rank - 1, -1)])

    return draw


def dims(of: str = "self", least: int = 1) -> Drawer:
    """Some different dims, from the front or from the back."""

    def draw(g: Any, given: dict[str, Any]) -> Any:
        rank = given[of].dim()
        if rank < least:
            raise Reject
        count = g.integer(least, rank)
        chosen = g.permutation(rank)[:count]
        return [d - rank if g.flag() else d for d in chosen]

    return draw


def flag(g: Any, given: dict[str, Any]) -> Any:
    """False or True."""
    return g.flag()


def choose(*options: Any) -> Drawer:
    """One of *options*."""
    return lambda g, given: g.choose(options)


def integer(low: int, high: int) -> Drawer:
    """A number in the range."""
    return lambda g, given: g.integer(low, high)


def optional(drawer: Drawer) -> Drawer:
    """Left to its default, or drawn."""
    return lambda g, given: drawer(g, given) if g.flag() else OMIT


def new_dtype(*kinds: torch.dtype) -> Drawer:
    """A dtype that the program may use."""
    return lambda g, given: g.dtype(kinds or ALL)


def small_shape(g: Any, given: dict[str, Any]) -> Any:
    """Sizes of a new tensor."""
    return [g.choose((2, 3, 1, 4)) for _ in range(g.integer(1, 3))]


def rows(arguments: Mapping[str, Drawer], *ops: OpOverload) -> list[Row | Motif]:
    """Rows of several operators with the same arguments."""
    return [Row(op, arguments) for op in ops]


def several(g: Any, given: dict[str, Any]) -> Any:
    """One to three tensors of one type."""
    first = g.tensor(ALL, (1, 4), "any")
    return [first, *(g.like(first.dtype, first.shape) for _ in range(g.integer(0, 2)))]


# -- rows for operators that have none -------------------------------------------------------


def guess_row(op: OpOverload) -> Row:
    """A row drawn from the schema alone: any tensors, small numbers.

    Raises:
        FxpassesError: an argument without default whose type has no drawer.
    """
    drawers: dict[str, Drawer] = {}
    for argument in op._schema.arguments:
        kind = str(argument.type)
        if kind in _GUESSES:
            drawer = _GUESSES[kind]
        elif argument.has_default_value():
            continue
        else:
            raise FxpassesError(
                f"the argument {argument.name!r} of {op} is a {kind}, for which no value can be guessed; "
                f"write a fxpasses.testing.rows.Row for it"
            )
        drawers[argument.name] = optional(drawer) if argument.has_default_value() else drawer
    return Row(op, drawers)


_GUESSES: dict[str, Drawer] = {
    "Tensor": tensor(ALL),
    "Optional[Tensor]": tensor(ALL),
    "int": integer(0, 2),
    "SymInt": integer(0, 2),
    "float": choose(1.0, 0.5, 2.0),
    "bool": flag,
    "number": choose(2, 1, 0.5),
    "List[Tensor]": several,
}
