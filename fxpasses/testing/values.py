"""Concrete arguments for a program, chosen so that comparing results says something.

Floating point values keep away from the edges of ``floor``, ``round`` and
casts, are of moderate size, and differ from each other as far as the dtype
allows, so that sorting has one answer. Integers that reach an indexing
operator lie in the range that it allows, integer divisors are not zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from fxpasses.schema import bind
from fxpasses.sizes import holds
from fxpasses.testing.numerics import is_exact

if TYPE_CHECKING:
    from fxpasses.program import Program

__all__ = ["DOMAINS", "Inputs", "integer_bounds", "random_tensor", "sample_inputs"]


class Inputs(tuple):
    """Positional arguments as a tuple; `kwargs` holds those that go by name."""

    kwargs: dict[str, Any]

    def __new__(cls, args: Any = (), kwargs: dict[str, Any] | None = None) -> Inputs:
        self = super().__new__(cls, args)
        self.kwargs = dict(kwargs or {})
        return self

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments as a plain tuple."""
        return tuple(self)

    def __repr__(self) -> str:
        names = "".join(f", {name}={value!r}" for name, value in self.kwargs.items())
        return f"Inputs({', '.join(map(repr, self))}{names})"


DOMAINS: dict[str, tuple[float, float]] = {
    "any": (-3.0, 3.0),
    "positive": (0.0, 3.0),
    "unit": (-1.0, 1.0),
}
"""Names of value ranges; the ends are left out."""


def random_tensor(
    dtype: torch.dtype,
    shape: tuple[int, ...],
    generator: torch.Generator,
    *,
    low: float = -3.0,
    high: float = 3.0,
    nonzero: bool = False,
) -> torch.Tensor:
    """A tensor with elements from *low* to *high*, inclusive for integers.

    Floating point elements are at least 0.07 away from every multiple of one
    half, and evenly spread, so that no two are equal where the dtype has
    numbers enough.
    """
    numel = math.prod(shape)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator, dtype=torch.bool)
    if not (dtype.is_floating_point or dtype.is_complex):
        least = 0 if not dtype.is_signed else math.ceil(low)
        least, most = max(least, math.ceil(low)), math.floor(high)
        values = torch.randint(least, max(most, least) + 1, shape, generator=generator)
        if nonzero:
            values = torch.where(values == 0, max(most, 1), values)
        return values.to(dtype)
    if dtype.is_complex:
        parts = [
            random_tensor(torch.float64, shape, generator, low=low, high=high, nonzero=nonzero)
            for _ in range(2)
        ]
        return torch.complex(*parts).to(dtype)
    order = torch.randperm(numel, generator=generator, dtype=torch.int64).double()
    spread = (order + 0.25 + 0.5 * torch.rand(numel, generator=generator, dtype=torch.float64)) / max(
        numel, 1
    )
    cells = max(round((high - low) * 2), 1)
    position = spread * cells
    cell = position.floor().clamp(max=cells - 1)
    inside = 0.15 + 0.7 * (position - cell)
    return (low + (cell + inside) * (high - low) / cells).reshape(shape).to(dtype)


def sample_inputs(program: Program, seed: int = 0, *, special: bool = False) -> Inputs:
    """Arguments for *program*; the same *seed* gives the same ones.

    Args:
        special: plant NaN, infinities, zeros of both signs and very large and
            small numbers into the floating point arguments.
    """
    generator = torch.Generator().manual_seed(seed)
    bounds = integer_bounds(program)
    symbols = _symbol_values(program, generator)
    leaves = []
    for node in program.inputs:
        val = node.meta["val"]
        if isinstance(val, torch.Tensor):
            shape = tuple(_concrete(size, symbols) for size in val.shape)
            options: dict[str, Any] = {}
            if not val.dtype.is_floating_point:
                low, high, nonzero = bounds.get(node, (-8, 8, False))
                options = {"low": low, "high": high, "nonzero": nonzero}
            tensor = random_tensor(val.dtype, shape, generator, **options)
            leaves.append(_plant(tensor, generator) if special and val.dtype.is_floating_point else tensor)
        elif isinstance(val, torch.SymInt):
            leaves.append(_concrete(val, symbols))
        else:
            leaves.append(val)
    args, kwargs = pytree.tree_unflatten(leaves, program.in_spec)
    return Inputs(args, kwargs)


def _plant(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    info = torch.finfo(tensor.dtype)
    specials = torch.tensor(
        [math.nan, math.inf, -math.inf, 0.0, -0.0, info.max, info.tiny, -1.0, 1.0], dtype=torch.float64
    )
    chosen = specials[torch.randint(len(specials), tensor.shape, generator=generator)]
    return torch.where(torch.rand(tensor.shape, generator=generator) < 0.4, chosen, tensor.double()).to(
        tensor.dtype
    )


# -- sizes -----------------------------------------------------------------------------


def _symbol_values(program: Program, generator: torch.Generator) -> dict[Any, int]:
    """A value for each free symbol of the inputs, within its range and such that what is asserted holds."""
    conditions = program.signature.conditions
    for _ in range(_DRAWS):
        symbols = _drawn_symbols(program, generator)
        named = {str(symbol): value for symbol, value in symbols.items()}
        if all(holds(condition, named) for condition in conditions):
            return symbols
    vals = [node.meta["val"] for node in program.inputs]
    sizes = [size for val in vals for size in (val.shape if isinstance(val, torch.Tensor) else (val,))]
    return {s.node.expr: s.node.hint for s in sizes if isinstance(s, torch.SymInt) and s.node.expr.is_Symbol}


_DRAWS = 100
"""So often sizes are drawn at random; if they break what is asserted, they are those of the capture's example."""


def _drawn_symbols(program: Program, generator: torch.Generator) -> dict[Any, int]:
    """A small value within its range for each free symbol of the inputs, no two equal if possible."""
    symbols: dict[Any, int] = {}
    for node in program.inputs:
        val = node.meta["val"]
        for size in val.shape if isinstance(val, torch.Tensor) else (val,):
            if isinstance(size, torch.SymInt):
                for symbol in sorted(size.node.expr.free_symbols, key=str):
                    if symbol not in symbols:
                        symbols[symbol] = _value_of(symbol, program, set(symbols.values()), generator)
    return symbols


def _value_of(symbol: Any, program: Program, taken: set[int], generator: torch.Generator) -> int:
    from torch.utils._sympy.numbers import int_oo

    bounds = program.ranges.get(symbol)
    low = 2 if bounds is None or bounds.lower == -int_oo else int(bounds.lower)
    high = None if bounds is None or bounds.upper == int_oo else int(bounds.upper)
    low = max(low, 2) if high is None or high >= 2 else low
    high = low + 5 if high is None else min(high, low + 5)
    offset = int(torch.randint(high - low + 1, (), generator=generator))
    candidates = [low + (offset + i) % (high - low + 1) for i in range(high - low + 1)]
    return next((value for value in candidates if value not in taken), candidates[0])


def _concrete(size: Any, symbols: dict[Any, int]) -> int:
    return int(size.node.expr.xreplace(symbols)) if isinstance(size, torch.SymInt) else size


# -- ranges of integers ------------------------------------------------------------------

Bound = tuple[str, int, bool]  # the index argument, the size that it indexes, whether it may be negative


def _along_dim(
    size_of: str, dim: str | int | None, index: str
) -> Callable[[dict[str, Any]], Iterator[Bound]]:
    def bounds(arguments: dict[str, Any]) -> Iterator[Bound]:
        data = arguments[size_of].meta["val"]
        number = arguments[dim] if isinstance(dim, str) else dim
        yield index, _hint(data.numel() if number is None else data.shape[number] if data.dim() else 1), False

    return bounds


_INDEXING: dict[str, Callable[[dict[str, Any]], Iterator[Bound]]] = {
    "embedding": _along_dim("weight", 0, "indices"),
    "embedding_bag": _along_dim("weight", 0, "indices"),
    "_embedding_bag": _along_dim("weight", 0, "indices"),
    "gather": _along_dim("self", "dim", "index"),
    "index_select": _along_dim("self", "dim", "index"),
    "index_add": _along_dim("self", "dim", "index"),
    "index_copy": _along_dim("self", "dim", "index"),
    "index_fill": _along_dim("self", "dim", "index"),
    "scatter": _along_dim("self", "dim", "index"),
    "scatter_add": _along_dim("self", "dim", "index"),
    "scatter_reduce": _along_dim("self", "dim", "index"),
    "take": _along_dim("self", None, "index"),
    "take_along_dim": _along_dim("self", "dim", "indices"),
    "nll_loss": _along_dim("self", 1, "target"),
    "nll_loss_forward": _along_dim("self", 1, "target"),
    "nll_loss_nd": _along_dim("self", 1, "target"),
    "cross_entropy_loss": _along_dim("self", 1, "target"),
}
_ADVANCED = frozenset({"index", "index_put", "_unsafe_index", "_unsafe_index_put"})
_DIVIDING = frozenset({"div", "floor_divide", "remainder", "fmod", "divide", "true_divide"})


def integer_bounds(program: Program) -> dict[fx.Node, tuple[int, int, bool]]:
    """For each integer user input its least and greatest useful value, and whether zero is forbidden.

    An input that reaches an indexing operator, itself or through data
    movement, stays inside the smallest dim that it indexes.
    """
    found = {}
    for node in program.inputs:
        val = node.meta["val"]
        if not isinstance(val, torch.Tensor) or val.dtype.is_floating_point or val.dtype == torch.bool:
            continue
        low, high, nonzero = -8, 8, False
        seen, pending = {node}, [node]
        while pending:
            current = pending.pop()
            for user in current.users:
                if user.op != "call_function" or not isinstance(user.target, OpOverload):
                    continue
                for size, negative in _limits(user, current):
                    low = max(low, -size if negative else 0)
                    high = min(high, size - 1)
                nonzero = nonzero or _divides(user, current)
                if user not in seen and _hands_on(user):
                    seen.add(user)
                    pending.append(user)
        found[node] = (low, high, nonzero)
    return found


def _limits(user: fx.Node, index: fx.Node) -> Iterator[tuple[int, bool]]:
    name = user.target._schema.name.split("::")[1]  # type: ignore[union-attr]
    if name not in _INDEXING and name not in _ADVANCED:
        return
    arguments = _named(user)
    if name in _ADVANCED:
        data = arguments["self"].meta["val"]
        for dim, item in enumerate(arguments["indices"]):
            if item is index:
                yield _hint(data.shape[dim]), True
    else:
        for argument, size, negative in _INDEXING[name](arguments):
            if arguments[argument] is index:
                yield size, negative


def _divides(user: fx.Node, divisor: fx.Node) -> bool:
    name = user.target._schema.name.split("::")[1]  # type: ignore[union-attr]
    return name in _DIVIDING and _named(user)["other"] is divisor


def _hands_on(user: fx.Node) -> bool:
    """Whether the elements of *user* are those of its only tensor argument."""
    val = user.meta.get("val")
    return (
        len(user.all_input_nodes) == 1
        and isinstance(val, torch.Tensor)
        and not val.dtype.is_floating_point
        and is_exact(user.target, user.args, dict(user.kwargs))
    )


def _named(node: fx.Node) -> dict[str, Any]:
    op = node.target
    args, kwargs = bind(op, node.args, dict(node.kwargs))  # type: ignore[arg-type]
    names = [argument.name for argument in op._schema.arguments if not argument.kwarg_only]  # type: ignore[union-attr]
    return {**dict(zip(names, args, strict=True)), **kwargs}


def _hint(size: Any) -> int:
    """A size; the least that a dynamic one can be."""
    return 2 if isinstance(size, torch.SymInt) else int(size)
