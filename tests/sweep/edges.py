"""Calls at the edges that PyTorch's own samples do not reach, made from calls that they do.

Each row of `EDGES` turns a call into another one, by its tensors or by its
numbers, or says that it cannot. Most variants are worth a comparison only
where eager PyTorch accepts them; one that is out of range must raise an error
wherever eager does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxpasses.schema import bind
from fxpasses.testing.single import Call

__all__ = ["EDGES", "Edge", "Variant", "variants"]

OVERLOADS = 3
"""Overloads of a unit that variants are made of."""

FAR = 1000
ROWS, COLUMNS = 37, 131
"""Primes, so that no loop comes out even; a matrix of them is larger than a vector and smaller than a core's work."""


@dataclass(frozen=True)
class Edge:
    """A way to make a variant.

    Attributes:
        change: the arguments ``(args, kwargs)`` of the variant of a call, bound in full schema form.
        may_raise: whether the variant counts where eager raises an error.
    """

    change: Callable[[Call], tuple[Any, Any] | None]
    may_raise: bool = False


@dataclass(frozen=True)
class Variant:
    """A call, and the edge that it stands at."""

    call: Call
    edge: str = ""
    may_raise: bool = False


def variants(calls: Sequence[Call]) -> Iterator[Variant]:
    """The variants of the largest call of each overload, of a few overloads."""
    largest: dict[Any, Call] = {}
    for call in calls:
        size = sum(tensor.numel() for tensor in _tensors(call))
        if call[0] not in largest or size > sum(tensor.numel() for tensor in _tensors(largest[call[0]])):
            largest[call[0]] = call
    for op, args, kwargs in list(largest.values())[:OVERLOADS]:
        call = op, *bind(op, args, kwargs)
        for name, edge in EDGES.items():
            changed = edge.change(call)
            if changed is not None:
                yield Variant((op, *changed), name, edge.may_raise)


# -- values ----------------------------------------------------------------------------


def _planted(values: Callable[[torch.dtype], Sequence[Any]]) -> Callable[[Call], Any]:
    """The tensors with these values at places that are spread over them."""

    def plant(tensor: torch.Tensor) -> torch.Tensor:
        found = values(tensor.dtype)
        if not found or not tensor.numel():
            return tensor
        flat = tensor.flatten().clone()
        count = min(len(found), flat.numel())
        places = torch.linspace(0, flat.numel() - 1, count).long()
        flat[places] = torch.tensor(list(found)[:count], dtype=tensor.dtype)
        return flat.reshape(tensor.shape)

    def change(call: Call) -> Any:
        if not any(values(tensor.dtype) for tensor in _tensors(call)):
            return None
        return _mapped(call, plant)

    return change


def _of_floats(*values: float) -> Callable[[torch.dtype], Sequence[Any]]:
    return lambda dtype: values if dtype.is_floating_point else ()


def _extremes(call: Call) -> Any:
    """Numbers next to the ends of the range; the upper end only where no sum can overflow on the way."""
    pointwise = torch.Tag.pointwise in call[0].tags

    def values(dtype: torch.dtype) -> Sequence[float]:
        if not dtype.is_floating_point:
            return ()
        info = torch.finfo(dtype)
        small = (-0.0, info.tiny, info.smallest_normal / 2, 0.0)
        return (*small, info.max, -info.max) if pointwise else small

    return _planted(values)(call)


def _of_integers(*values: int) -> Callable[[torch.dtype], Sequence[Any]]:
    return lambda dtype: values if dtype in (torch.int64, torch.int32) else ()


def _wrapping(call: Call) -> Any:
    """Integers next to the ends of their range; not where they could be sizes that memory is asked for."""
    if torch.Tag.pointwise not in call[0].tags:
        return None
    return _planted(lambda d: () if d.is_floating_point or d.is_complex or d == torch.bool else _ends(d))(
        call
    )


def _ends(dtype: torch.dtype) -> Sequence[int]:
    info = torch.iinfo(dtype)
    return (info.max, info.min + 1, info.max // 2 + 1)  # the very lowest by -1 is a trap of the processor


# -- layouts and shapes ----------------------------------------------------------------


def _strided(call: Call) -> Any:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() >= 2:
            return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
        return tensor.repeat_interleave(2)[::2] if tensor.dim() == 1 else tensor

    return _mapped(call, change)


def _expanded(call: Call) -> Any:
    return _mapped(call, lambda t: t[:1].expand(t.shape) if t.dim() and t.shape[0] else t)


def _empty(dim: int) -> Callable[[Call], Any]:
    """Nothing along a dim of the first tensor, nor along that dim of those that are as long there."""

    def change(call: Call) -> Any:
        size = next((tensor.shape[dim] for tensor in _tensors(call) if tensor.dim()), 0)
        if not size:
            return None
        return _mapped(call, lambda t: t.narrow(dim, 0, 0) if t.dim() and t.shape[dim] == size else t)

    return change


def _scalars(call: Call) -> Any:
    if not all(tensor.numel() for tensor in _tensors(call)):
        return None
    return _mapped(call, lambda t: t.flatten()[0].clone())


def _large(call: Call) -> Any:
    """The tensors of a pointwise operator, in turn as rows, columns and matrices."""
    if torch.Tag.pointwise not in call[0].tags or not all(tensor.numel() for tensor in _tensors(call)):
        return None
    shapes = iter([(ROWS, 1), (COLUMNS,), (ROWS, COLUMNS), (1, COLUMNS)] * 3)
    if len(_tensors(call)) == 1:
        shapes = iter([(ROWS, COLUMNS)])
    return _mapped(
        call, lambda t: t.flatten().repeat(ROWS * COLUMNS)[: _count(shape := next(shapes))].reshape(shape)
    )


def _count(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()


# -- numbers ---------------------------------------------------------------------------

_DIMS = ("dim", "dims", "dim0", "dim1")


def _numbers(names: Sequence[str], change: Callable[[int, int], int]) -> Callable[[Call], Any]:
    """The integer arguments of these names, changed with the rank of the first tensor in view."""

    def changed(call: Call) -> Any:
        op, args, kwargs = call
        ranks = [tensor.dim() for tensor in _tensors(call)]
        values, found = list(args), False
        for place, (argument, value) in enumerate(zip(op._schema.arguments, args, strict=False)):
            listed = isinstance(value, list | tuple) and value and all(isinstance(v, int) for v in value)
            if argument.name not in names or not (isinstance(value, int) or listed) or not ranks:
                continue
            values[place] = [change(v, ranks[0]) for v in value] if listed else change(value, ranks[0])
            found = True
        return (tuple(values), kwargs) if found else None

    return changed


def _tensors(call: Call) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(call[1:]) if isinstance(leaf, torch.Tensor)]


def _mapped(call: Call, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if not _tensors(call):
        return None
    return pytree.tree_map(lambda leaf: change(leaf) if isinstance(leaf, torch.Tensor) else leaf, call[1:])


EDGES: dict[str, Edge] = {
    "NaN": Edge(_planted(_of_floats(torch.nan, torch.nan))),
    "infinities": Edge(_planted(_of_floats(torch.inf, -torch.inf))),
    "extremes": Edge(_extremes),
    "wrapping": Edge(_wrapping),
    "negative integers": Edge(_planted(_of_integers(-1)), may_raise=True),
    "far integers": Edge(_planted(_of_integers(FAR, -FAR)), may_raise=True),
    "strided": Edge(_strided),
    "expanded": Edge(_expanded),
    "empty first dim": Edge(_empty(0)),
    "empty last dim": Edge(_empty(-1)),
    "scalars": Edge(_scalars),
    "large": Edge(_large),
    "negative dims": Edge(_numbers(_DIMS, lambda dim, rank: dim - rank if dim >= 0 else dim + rank)),
    "far dims": Edge(_numbers(_DIMS, lambda dim, rank: rank + 3), may_raise=True),
    "negative position": Edge(_numbers(("index",), lambda index, rank: -1), may_raise=True),
    "far position": Edge(_numbers(("index",), lambda index, rank: FAR), may_raise=True),
}
