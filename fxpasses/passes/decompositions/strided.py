"""`as_strided` and its kin: the operators whose meaning lies in memory, as a selection of elements.

They read the strides that their operand had at capture, so `decompose_to_core_aten`
spells them out before any call that the operand comes from: a dropped `contiguous`
would change them. Those of the inputs go into the program's notes, and a compiled
program takes no others.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxpasses.errors import UnsupportedOperatorError, source_line
from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import reshape
from fxpasses.rewrite import Editor
from fxpasses.schema import shared_arguments

__all__ = ["READS_STRIDES"]

aten = torch.ops.aten

READS_STRIDES = frozenset(
    {aten.as_strided.default, aten.as_strided_copy.default, aten.as_strided_scatter.default}
)

_MAY_COPY = frozenset({aten.reshape.default, aten.contiguous.default, aten.flatten.using_ints})


@decomposition(aten.as_strided.default, aten.as_strided_copy.default)
def as_strided(g: Editor, self: fx.Node, size: Any, stride: Any, storage_offset: Any) -> fx.Node:
    """The elements of *self*, or of the tensor that it is a view of, at positions of its memory.

    Raises:
        UnsupportedOperatorError: sizes are symbolic, or it reads memory that
            belongs to no element of these tensors.
    """
    places = _places(g, self, size, stride, storage_offset)
    reasons = []
    for owner in _views_back(self):
        reason = _cannot_select(owner.meta["val"], places)
        if reason is None:
            return _selected(g, owner, places)
        reasons.append(reason)
    raise _refusal(g, reasons[-1])


@decomposition(aten.as_strided_scatter.default)
def as_strided_scatter(
    g: Editor, self: fx.Node, src: fx.Node, size: Any, stride: Any, storage_offset: Any
) -> fx.Node:
    """*self* with other elements at positions of its memory.

    Raises:
        UnsupportedOperatorError: as `as_strided`, or it writes a position twice.
    """
    val = self.meta["val"]
    places = _places(g, self, size, stride, storage_offset).flatten()
    reason = _cannot_select(val, places)
    if reason is None and not _is_dense(val):
        reason = "its operand has gaps in memory, or one place for several elements"
    if reason is None and places.unique().numel() < places.numel():
        reason = "it writes one position twice"
    if reason is not None:
        raise _refusal(g, reason)
    order = _memory_order(val)
    line = reshape(g, g.call(aten.permute.default, self, order), [val.numel()])
    indices = [g.constant(places - val.storage_offset(), "places")]
    put = g.call(aten.index_put.default, line, indices, reshape(g, src, [places.numel()]), False)
    back = sorted(range(len(order)), key=order.__getitem__)
    return g.call(aten.permute.default, reshape(g, put, [val.shape[dim] for dim in order]), back)


def _places(g: Editor, self: fx.Node, size: Any, stride: Any, storage_offset: Any) -> torch.Tensor:
    """Positions in memory, in the shape of the elements that are there."""
    _note_layouts(g, self, absolute=storage_offset is not None)
    start = self.meta["val"].storage_offset() if storage_offset is None else storage_offset
    if not all(isinstance(number, int) for number in (start, *size, *stride)):
        raise _refusal(g, "it has symbolic sizes")
    places = torch.full((), start, dtype=torch.int64)
    for length, step in zip(size, stride, strict=True):
        places = places.unsqueeze(-1) + torch.arange(length) * step
    return places


def _note_layouts(g: Editor, operand: fx.Node, absolute: bool) -> None:
    """Note the strides of all inputs that *operand* comes from: a call hands those of its operands on.

    Where a position is *absolute*, so is the offset of an input that *operand* is a view of.
    """
    inputs = [node for node in g.graph.find_nodes(op="placeholder") if node.meta["role"].kind == "user"]
    if operand.graph is g.graph:
        seen = {operand}
        todo = [operand]
        while todo:
            new = set(todo.pop().all_input_nodes) - seen
            seen |= new
            todo += new
    else:  # in a body of control flow, from whatever it is given
        seen = set(inputs)
    owners = set(_views_back(operand)) if absolute else set()
    layouts = dict(g.notes.get("layouts", {}))
    for place, node in enumerate(inputs):
        val = node.meta["val"]
        if node in seen and isinstance(val, torch.Tensor) and all(isinstance(s, int) for s in val.stride()):
            before = layouts.get(place, (None, None))[1]
            layouts[place] = tuple(val.stride()), val.storage_offset() if node in owners else before
    g.notes["layouts"] = layouts


def _views_back(node: fx.Node) -> Iterator[fx.Node]:
    """*node*, and what it is a view of in the same dtype, the owner of the memory last."""
    dtype = node.meta["val"].dtype
    yield node
    while node.op == "call_function" and node.args:
        source = node.args[0]
        if not isinstance(source, fx.Node) or not (node.target is operator.getitem or _is_view(node.target)):
            return
        node = source
        val = node.meta["val"]
        if isinstance(val, torch.Tensor):
            if val.dtype != dtype:  # positions are counted in elements
                return
            yield node


def _is_view(op: Any) -> bool:
    """Whether the result of *op* always shares memory with its first operand; that of `reshape` may be a copy."""
    if not isinstance(op, OpOverload) or op in _MAY_COPY:
        return False
    first = op._schema.arguments[0]
    is_written = first.alias_info is not None and first.alias_info.is_write
    return first.name in shared_arguments(op) and not is_written


def _cannot_select(val: torch.Tensor, places: torch.Tensor) -> str | None:
    """Why *places* in memory are not elements of *val*; None if they are."""
    if not all(isinstance(number, int) for number in (val.storage_offset(), *val.shape, *val.stride())):
        return "it has symbolic sizes"
    if not places.numel():
        return None
    own = _positions(val)
    if not val.numel() or int(places.min()) < int(own.min()) or int(places.max()) > int(own.max()):
        return "it reads memory outside of its operand"
    if not bool(torch.isin(places, own).all()):
        return "it reads memory in the gaps of its operand"
    return None


def _positions(val: torch.Tensor) -> torch.Tensor:
    """Where in memory each element of *val* lies, as a line."""
    at = torch.full((), val.storage_offset(), dtype=torch.int64)
    for length, step in zip(val.shape, val.stride(), strict=True):
        at = at.unsqueeze(-1) + torch.arange(length) * step
    return at.flatten()


def _is_dense(val: torch.Tensor) -> bool:
    """Whether the elements of *val* fill their memory, each a place of its own."""
    return val.permute(_memory_order(val)).is_contiguous()


def _selected(g: Editor, owner: fx.Node, places: torch.Tensor) -> fx.Node:
    """The elements of *owner* at *places* in memory."""
    val = owner.meta["val"]
    line, flat = owner, places.flatten() - val.storage_offset()
    if _is_dense(val):
        order = _memory_order(val)
        line = owner if order == sorted(order) else g.call(aten.permute.default, owner, order)
    elif flat.numel():
        own, at = _positions(val).sort()
        flat = at[torch.searchsorted(own, places.flatten())]
    line = reshape(g, line, [val.numel()])
    if flat.numel() == val.numel() and torch.equal(flat, torch.arange(val.numel())):
        return reshape(g, line, list(places.shape))
    return reshape(
        g, g.call(aten.index_select.default, line, 0, g.constant(flat, "places")), list(places.shape)
    )


def _memory_order(val: torch.Tensor) -> list[int]:
    return sorted(range(val.dim()), key=lambda dim: (-val.stride(dim), -val.shape[dim]))


def _refusal(g: Editor, reason: str) -> UnsupportedOperatorError:
    node = g._anchor
    where = source_line(node) if node is not None else None
    op = "as_strided" if node is None else node.target._schema.name.split("::")[1]  # type: ignore[union-attr]
    return UnsupportedOperatorError(f"{op} cannot be spelled out, since {reason} ({where or node})")


@decomposition(aten.diagonal_scatter.default)
def diagonal_scatter(g: Editor, self: fx.Node, src: fx.Node, offset: int, dim1: int, dim2: int) -> Any:
    val = self.meta["val"]
    rank = val.dim()
    if not all(-rank <= dim < rank for dim in (dim1, dim2)):
        raise IndexError(f"diagonal_scatter along dims {dim1} and {dim2} of a tensor of rank {rank}")
    ends = [dim1 % rank, dim2 % rank]
    length = src.meta["val"].shape[-1]
    if isinstance(length, int) and length == 0:
        return self
    order = [dim for dim in range(rank) if dim not in ends] + ends
    back = sorted(range(rank), key=order.__getitem__)
    places = [
        g.call(aten.arange.start_step, start, start + length, 1, dtype=torch.int64)
        for start in (max(0, -offset), max(0, offset))
    ]
    indices: Sequence[Any] = [*itertools.repeat(None, rank - 2), *places]
    moved = g.call(aten.permute.default, self, order)
    put = g.call(aten.index_put.default, moved, indices, src, False)
    return g.call(aten.permute.default, put, back)
