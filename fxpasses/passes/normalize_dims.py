"""`normalize_dims`: dims and indices counted from the front, sizes and bounds spelled out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxpasses.errors import IndexRangeError
from fxpasses.passes.decompositions.values import told_sizes
from fxpasses.passes.normalize_kwargs import on_full_form
from fxpasses.program import Program

__all__ = ["normalize_dims"]

aten = torch.ops.aten

_DIM_NAMES = frozenset({"dim", "dims", "dim0", "dim1", "dim2"})
# Its "dims" are numbers of copies.
_NO_DIMS = ("aten::tile",)
# The dim counts places between dims, so that rank itself is allowed.
_INSERTING = ("aten::unsqueeze", "aten::stack", "aten::diag_embed")
# Results of a reduction over "no dims" are reductions over all of them.
_EMPTY_MEANS_ALL = ("aten::sum", "aten::mean", "aten::amax", "aten::amin", "aten::var", "aten::logsumexp")


@on_full_form
def normalize_dims(program: Program) -> Program:
    """Bring dims into [0, rank), constant indices to non-negative, slices into bounds.

    The sizes of `reshape` and `expand` become those of the result, without -1.
    """
    if all(_same(_normal(node), (list(node.args), node.kwargs)) for node in _calls(program.nodes())):
        return program
    g = program.edit()
    for node in _calls(g.nodes()):
        args, kwargs = _normal(node)
        if not _same((args, kwargs), (list(node.args), node.kwargs)):
            g.update(node, *args, **kwargs)
    return g.finish()


def _same(a: Any, b: Any) -> bool:
    """Whether arguments are alike, without a guess at sizes that depend on values."""
    if isinstance(a, torch.SymInt) or isinstance(b, torch.SymInt):
        return a is b
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(a == b)


def _calls(nodes: Iterable[fx.Node]) -> Iterator[fx.Node]:
    return (node for node in nodes if node.op == "call_function" and isinstance(node.target, OpOverload))


def _normal(node: fx.Node) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of *node* as they should be."""
    op: OpOverload = node.target  # type: ignore[assignment]
    arguments = op._schema.arguments
    args, kwargs = list(node.args), dict(node.kwargs)
    name = op._schema.name
    rank = _rank(args)
    # What a dim of another namespace's operator counts is not known.
    if rank is not None and op.namespace == "aten" and name not in _NO_DIMS:
        places = rank + 1 if name in _INSERTING else rank
        for keyword in kwargs.keys() & _DIM_NAMES:
            kwargs[keyword] = _wrapped(kwargs[keyword], places)
        for index, argument in enumerate(arguments[: len(args)]):
            if argument.name in _DIM_NAMES:
                args[index] = _wrapped(args[index], places)
                if _means_all(args[index], name) and "List[int]" in str(argument.type):
                    args[index] = list(range(rank))
    if op is aten.expand.default:
        kwargs["implicit"] = False
    special = _SPECIAL.get(op)
    if special is not None:
        special(node, args)
    return args, kwargs


def _means_all(dims: Any, name: str) -> bool:
    """Whether no dims given means all of them."""
    return dims is None or (dims == [] and name in _EMPTY_MEANS_ALL)


def _rank(args: list[Any]) -> int | None:
    first = args[0] if args else None
    if isinstance(first, tuple | list) and first:
        values = [a.meta["val"] for a in first if isinstance(a, fx.Node)]
        ranks = [value.dim() for value in values if isinstance(value, torch.Tensor)]
        return max(ranks) if ranks else None
    if isinstance(first, fx.Node) and isinstance(first.meta.get("val"), torch.Tensor):
        return first.meta["val"].dim()
    return None


def _wrapped(dim: Any, places: int) -> Any:
    if isinstance(dim, bool):
        return dim
    if isinstance(dim, int):
        places = max(places, 1)
        if not -places <= dim < places:  # a fake tensor does not tell in every operator
            raise IndexError(f"dim {dim} of a tensor that has {places}")
        return dim % places
    if isinstance(dim, tuple | list):
        return [_wrapped(item, places) for item in dim]
    return dim


def _sizes(node: fx.Node, args: list[Any]) -> None:
    args[1] = [_static(size) for size in told_sizes(args[1], node.meta["val"])]


def _select(node: fx.Node, args: list[Any]) -> None:
    size = _static(args[0].meta["val"].shape[args[1]])
    if isinstance(args[2], int) and args[2] < 0:
        args[2] = size + args[2]


def _slice(node: fx.Node, args: list[Any]) -> None:
    size = _static(args[0].meta["val"].shape[args[1]])
    start, end = args[2], args[3]
    args[2] = _bound(0 if start is None else start, size)
    args[3] = size if end is None else _bound(end, size)
    if isinstance(args[2], int) and isinstance(args[3], int):
        args[3] = max(args[2], args[3])


def _bound(bound: Any, size: Any) -> Any:
    """A slice bound in [0, size] where that is known."""
    if isinstance(bound, fx.Node) or not isinstance(bound, int):
        return bound
    if isinstance(size, int):
        return min(max(bound + size if bound < 0 else bound, 0), size)
    if bound < 0:  # beyond the front it means the front, and no place counted from the end
        return torch.sym_max(size + bound, 0)
    return size if bound >= 2**62 else bound


def _squeeze(node: fx.Node, args: list[Any]) -> None:
    shape = args[0].meta["val"].shape
    args[1] = (
        sorted({dim for dim in args[1] if isinstance(shape[dim], int) and shape[dim] == 1})
        if len(shape)
        else []
    )


def _static(size: Any) -> Any:
    if isinstance(size, torch.SymInt) and size.node.expr.is_number:
        return int(size.node.expr)
    return size


def _scatter_bounds(args: list[Any]) -> None:
    size = _static(args[0].meta["val"].shape[args[2]])
    args[3] = _bound(0 if args[3] is None else args[3], size)
    args[4] = size if args[4] is None else _bound(args[4], size)


_SPECIAL: dict[OpOverload, Callable[[fx.Node, list[Any]], None]] = {
    aten.reshape.default: _sizes,
    aten.expand.default: _sizes,
    aten.select.int: _select,
    aten.select_scatter.default: lambda node, args: _scatter_index(args),
    aten.slice.Tensor: _slice,
    aten.slice_scatter.default: lambda node, args: _scatter_bounds(args),
    aten.squeeze.dims: _squeeze,
}


def _scatter_index(args: list[Any]) -> None:
    size = _static(args[0].meta["val"].shape[args[2]])
    if isinstance(args[3], int) and isinstance(size, int) and not -size <= args[3] < size:
        raise IndexRangeError(f"select_scatter: index {args[3]} of a dim of size {size}")
    if isinstance(args[3], int) and args[3] < 0:
        args[3] = size + args[3]
