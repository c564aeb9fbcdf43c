"""Fake values: one call on fake tensors, and what it means that two values are of one type."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Collection, Container, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from fxpasses.graph_modules import body_of
from fxpasses.schema import bind
from fxpasses.tracing import MENDED, mended_operators

__all__ = ["broadcast_sizes", "fake_tensor", "fake_value", "same_size", "same_type"]

_BY_PYTHON = frozenset(
    getattr(torch.ops.aten, f"{name}{rank}d").vec
    for name in ("upsample_nearest", "_upsample_nearest_exact")
    for rank in (1, 2, 3)
)
"""Operators whose fake kernels fail on an empty batch, and whose decompositions in Python do not."""

_RESHAPES = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("reshape", "view", "view_copy", "_unsafe_view", "_reshape_alias", "_reshape_copy")
)
"""Operators that are told the sizes of their results."""


def fake_value(fake_mode: Any, node: fx.Node) -> Any:
    """Run a call on the fake values of its arguments."""
    from torch._dispatch.python import enable_python_dispatcher
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    def value(arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return body_of(arg) if arg.op == "get_attr" else arg.meta["val"]
        return arg

    args, kwargs = map_aggregate((node.args, node.kwargs), value)  # type: ignore[misc]
    shape_env: ShapeEnv | None = fake_mode.shape_env
    with contextlib.ExitStack() as stack:
        stack.enter_context(fake_mode)
        stack.enter_context(torch.no_grad())
        if shape_env is not None:
            stack.enter_context(shape_env.suppress_guards())
            # Symbols of data-dependent sizes wait for nobody to bind them.
            stack.enter_context(shape_env.ignore_fresh_unbacked_symbols())
        if node.target in _BY_PYTHON or any(
            isinstance(x, torch.Tensor) and x._has_symbolic_sizes_strides for x in pytree.tree_leaves(args)
        ):
            stack.enter_context(enable_python_dispatcher())  # some kernels in C++ would fix the sizes
        if node.target in MENDED:
            stack.enter_context(mended_operators())
            stack.enter_context(enable_python_dispatcher())  # torch looks at some kernels under it alone
        result = node.target(*args, **kwargs)  # type: ignore[operator]
        if node.target in _RESHAPES:
            x, sizes, *_ = bind(node.target, args, kwargs)[0]  # type: ignore[arg-type]
            return _of_asked_sizes(result, x, sizes)
        return result


def _of_asked_sizes(reshaped: torch.Tensor, x: torch.Tensor, sizes: Sequence[Any]) -> torch.Tensor:
    """*reshaped* with the sizes that were asked for; torch tells them from those of *x*, by the example."""
    if not any(isinstance(size, torch.SymInt) for size in (*x.shape, *sizes)):
        return reshaped
    is_rest = [isinstance(size, int) and size == -1 for size in sizes]
    told = math.prod(size for size, rest in zip(sizes, is_rest, strict=True) if not rest)
    asked = [x.numel() // told if rest else size for size, rest in zip(sizes, is_rest, strict=True)]
    if all(map(same_size, reshaped.shape, asked)):
        return reshaped
    return reshaped.new_empty(asked)


def fake_tensor(fake_mode: Any, tensor: torch.Tensor) -> torch.Tensor:
    """A fake stand-in of a parameter or constant, of static shape."""
    with torch.no_grad():
        return fake_mode.from_tensor(tensor.detach(), static_shapes=True)


def same_type(a: Any, b: Any, given: Collection[Any] = ()) -> bool:
    """Whether two ``meta["val"]`` have one dtype and shape (or one structure of such).

    *given* are conditions of sizes, as sympy expressions, that are known to hold.
    """
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        pairs = zip(a.shape, b.shape, strict=False)
        return a.dtype == b.dtype and a.dim() == b.dim() and all(same_size(x, y, given) for x, y in pairs)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(same_type(x, y, given) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return False
    return same_size(a, b, given)


def same_size(a: Any, b: Any, given: Collection[Any] = ()) -> bool:
    """Whether two sizes are provably equal, where the conditions *given* hold."""
    a, b = (getattr(getattr(x, "node", None), "expr", x) for x in (a, b))
    if a is b or a == b:
        return True
    if isinstance(a, int) and isinstance(b, int):
        return False
    import sympy

    if not all(isinstance(x, sympy.Expr) or type(x) is int for x in (a, b)):
        return False
    zeros = {part for equation in given if isinstance(equation, sympy.Eq) for part in _zeros(equation)}
    written = sympy.sympify(a - b)
    simpler = _without_exact_divisions(_without_ends(written, given), zeros)
    differences = map(sympy.expand, (written, simpler))
    return any(difference == 0 or difference in zeros for difference in differences)


def broadcast_sizes(*shapes: Sequence[Any]) -> list[Any]:
    """The common shape of *shapes*; a size that is not known to be 1 is taken to be that of the others.

    `torch.broadcast_shapes` takes a size for 1 that is 1 in the example.
    """
    common: list[Any] = []
    for sizes in itertools.zip_longest(*map(reversed, shapes), fillvalue=1):
        common.append(next((size for size in sizes if not same_size(size, 1)), 1))
    return common[::-1]


def _zeros(equation: Any) -> tuple[Any, ...]:
    """What is 0 where *equation* holds."""
    import sympy

    difference = sympy.expand(equation.lhs - equation.rhs)
    return difference, sympy.expand(-difference)


def _without_ends(expression: Any, given: Collection[Any]) -> Any:
    """*expression* with ``Min(16, n)``, which is how a slice of 16 comes out, as ``n`` where ``n <= 16``."""
    import sympy
    from torch.utils._sympy.functions import Min

    ends = {known.lhs: known.rhs for known in given if isinstance(known, sympy.Le)}

    def least(*sizes: Any) -> Any:
        inner = [size for size in sizes if size in ends]
        return Min(*(size for size in sizes if not any(size.is_Integer and ends[n] <= size for n in inner)))

    return expression.replace(Min, least)


def _without_exact_divisions(expression: Any, zeros: Container[Any]) -> Any:
    """*expression* with ``n**2 // n`` and the like, which is how a size of -1 comes out, as ``n``.

    *zeros* are expressions that are known to be 0, remainders among them.
    """
    import sympy
    from torch.utils._sympy.functions import FloorDiv, Mod

    def quotient(division: Any) -> Any:
        exact = sympy.cancel(division.args[0] / division.args[1])
        is_exact = sympy.fraction(exact)[1] == 1 or Mod(*division.args) in zeros
        return exact if is_exact else division

    return expression.replace(lambda part: isinstance(part, FloorDiv), quotient)
