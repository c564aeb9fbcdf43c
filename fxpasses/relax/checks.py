"""Run-time checks: what eager PyTorch refuses because of values, a compiled program refuses too.

A table says what each operator demands of its operands: indices that lie in a
tensor, divisors that are not zero, as many values as a mask has true elements.
Rows of the lowering table stay inside memory whatever they are given, so a
check need not come first. Each becomes a small kernel that gives 0 or the number of the check, and the program returns
the largest of these beside its results: one number to look at for each call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import sympy
import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils._sympy.value_ranges import bound_sympy

from fxpasses.errors import source_line
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import convert, is_static
from fxpasses.schema import OF_ELEMENTS, bind, is_unbound
from fxpasses.signature import Dim, size_text

if TYPE_CHECKING:
    from fxpasses.relax.builder import Builder

__all__ = ["Check", "Checks", "Demand", "checks_of", "condition_of"]

aten = torch.ops.aten


Kind = Literal["index", "division", "condition", "assertion", "count", "bags"]


@dataclass(frozen=True)
class Check:
    """One check, as plain data for the message of its failure.

    Attributes:
        kind: ``index``: all elements lie in ``[low, high)``; ``division``: none is zero;
            ``condition``: the expression of sizes `low` holds; ``assertion``: none is zero, as the model demands;
            ``count``: `high` of them are true, or where `low` is 0, at most so many;
            ``bags``: the first is zero, and none is less than the one before.
        op: the operator that demands it.
        source: the user's line.
        argument: the flat user argument whose elements these are; -1 where they are computed.
        low, high: the bounds.
        message: what the model says of a failed assertion.
    """

    kind: Kind
    op: str
    source: str | None
    argument: int = -1
    low: Dim = 0
    high: Dim = 0
    message: str = ""


@dataclass(frozen=True)
class Demand:
    """What a call demands of the elements of one operand.

    `size` bounds an index, which with `negative` may count from the end, or the
    true elements of a mask, which with `exact` have to be as many. Without it
    no element may be zero. A zero is an operand that always fails.
    """

    operand: fx.Node | Literal[0]
    size: Any = None
    negative: bool = False
    exact: bool = False
    kind: Kind = "index"
    message: str = ""


class Checks:
    """The checks of one compiled program; a failed one is told by its position, counted from 1.

    Without *elements*, no elements of tensors are looked at; sizes always are.
    """

    def __init__(self, arguments: list[fx.Node], *, elements: bool = True) -> None:
        self.rows: list[Check] = []
        self._elements = elements
        self._position = {node: index for index, node in enumerate(arguments)}

    def emit(self, b: Builder, node: fx.Node) -> list[Any]:
        """Emit the checks of *node*; a code for each, an int32 tensor without dims."""
        return [self._emit(b, node, demand) for demand in checks_of(node)] if self._elements else []

    def number(self, check: Check) -> int:
        """The number that stands for *check*, from 1."""
        if check not in self.rows:
            self.rows.append(check)
        return self.rows.index(check) + 1

    def _emit(self, b: Builder, node: fx.Node, demand: Demand) -> Any:
        low, high = _bounds(demand)
        origin = _origin(demand.operand) if isinstance(demand.operand, fx.Node) else None
        argument = -1 if origin is None else self._position.get(origin, -1)
        row = Check(demand.kind, str(node.target), source_line(node), argument, low, high, demand.message)
        number = self.number(row)
        if not isinstance(demand.operand, fx.Node):
            return b.te(_always, b.shape(node.meta["val"]), number, name="check_divisor")
        value = b.env[demand.operand]
        if demand.kind == "division":
            return b.te(_zero, value, b.shape(node.meta["val"]), number, name="check_divisor")
        if demand.kind == "assertion":
            return b.te(_zero, value, [], number, name="check_assertion")
        if demand.kind == "bags":
            return b.te(_descends, value, number, name="check_bags")
        if demand.kind == "count":
            shape, most = b.shape(node.meta["val"]), b.size(demand.size)
            return b.te(_count, value, shape, most, demand.exact, number, name="check_count")
        # An element that is repeated is looked at once, if it is repeated at all.
        once, size = b.behind_expand(value), b.size(demand.size)
        return b.te(_outside, once, b.shape_of(value), size, demand.negative, number, name="check_index")


def condition_of(node: fx.Node, ranges: Mapping[Any, Any]) -> tuple[Any, Literal["index", "value"]]:
    """What the call *node* demands of sizes, and of numbers that depend on values, and what is wrong elsewhere.

    It is a sympy expression or None, and must hold before the call is made, which would reach for other memory.
    """
    if node.target in SCATTERED:
        return _fits(*node.args[:4]), "value"
    if node.target in OF_ELEMENTS:
        return _has_elements(node), "value"
    return _has_places(node, ranges), "index"


def _has_places(node: fx.Node, ranges: Mapping[Any, Any]) -> Any:
    """That what is indexed has elements, or there is no index; None if it is known.

    Indices that are computed are looked at beside the call, which may read any place of a tensor that has one.
    """
    if node.target in INDEXED_BY_NUMBER:
        value, dim, index = node.args[0], node.args[-2], node.args[-1]
        if isinstance(index, fx.Node) and is_unbound(index.meta["val"]):
            size = _expression(value.meta["val"].shape[dim])  # type: ignore[union-attr]
            at = index.meta["val"].node.expr
            return sympy.And(at >= -size, at < size)
        return None
    unknown = []
    for demand in checks_of(node):
        if demand.kind != "index" or not isinstance(demand.operand, fx.Node) or _is_given(demand.operand):
            continue
        size, count = _expression(demand.size), _expression(demand.operand.meta["val"].numel())
        is_multiple = size != 0 and sympy.fraction(sympy.cancel(count / size))[1] == 1
        if not is_multiple and bound_sympy(size, ranges).lower < 1:
            # Torch's symbols are positive: sympy would take it for true.
            some, none = sympy.Ge(size, 1, evaluate=False), sympy.Eq(count, 0, evaluate=False)
            unknown.append(sympy.Or(some, none))
    return sympy.And(*unknown) if unknown else None


def _is_given(index: fx.Node) -> bool:
    """Whether *index* is an argument of a call, whose elements are looked at before the program runs."""
    role = _origin(index).meta.get("role")
    return role is not None and role.kind == "user"


def _has_elements(node: fx.Node) -> Any:
    """That the reduced dims have elements, where only values tell; None if it is known."""
    args, _ = bind(node.target, node.args, node.kwargs)  # type: ignore[arg-type]
    sizes, dim = _sizes(args[0]), OF_ELEMENTS[node.target]
    reduced = sizes if dim is None else [sizes[args[dim]]]
    unknown = [_expression(size) for size in reduced if is_unbound(size)]
    return sympy.And(*(sympy.Ge(size, 1) for size in unknown)) if unknown else None


def _fits(self: Any, dim: Any, index: Any, source: Any) -> Any:
    """That no position of *index* is beyond *self* along another dim, nor beyond *source*; None if it is known."""
    into, places = _sizes(self), _sizes(index)
    pairs = [pair for d, pair in enumerate(zip(places, into, strict=True)) if d != dim % len(into)]
    if isinstance(source, fx.Node) and isinstance(source.meta["val"], torch.Tensor):
        pairs += zip(places, _sizes(source), strict=True)
    unknown = [pair for pair in pairs if not statically_known_true(pair[0] <= pair[1])]
    return sympy.And(*(sympy.Le(*map(_expression, pair)) for pair in unknown)) if unknown else None


def _sizes(tensor: fx.Node) -> Sequence[int | torch.SymInt]:
    return tensor.meta["val"].shape or (1,)


def _expression(size: int | torch.SymInt) -> Any:
    return sympy.sympify(size.node.expr if isinstance(size, torch.SymInt) else size)


INDEXED_BY_NUMBER = (aten.select.int, aten.select_scatter.default)

SCATTERED = (
    aten.scatter.src,
    aten.scatter.value,
    aten.scatter_add.default,
    aten.scatter_reduce.two,
    aten.scatter.reduce,
    aten.scatter.value_reduce,
)


def reports(node: fx.Node) -> bool:
    """Whether an error of the compiled program may name the line of *node*, apart from those of sizes."""
    return node.target in INDEXED_BY_NUMBER or next(checks_of(node), None) is not None


def checks_of(node: fx.Node) -> Iterator[Demand]:
    """What the call *node* demands of the values of its operands."""
    if node.op != "call_function" or node.target not in _DEMANDS:
        return
    args, _ = bind(node.target, node.args, node.kwargs)  # type: ignore[arg-type]
    for demand in _DEMANDS[node.target](args):
        val = (demand.operand if isinstance(demand.operand, fx.Node) else node).meta["val"]
        if isinstance(val, torch.Tensor) and not any(
            isinstance(size, int) and size == 0 for size in val.shape
        ):
            yield demand


# -- kernels -------------------------------------------------------------------------


def _outside(index: Any, shape: Any, size: Any, negative: bool, number: int) -> Any:
    """*number* if an element of *index*, which is repeated to *shape*, is outside of *size*."""
    low = -size if negative else T.tirx.IntImm("int64", 0)

    def bad(*at: Any) -> Any:
        value = index(*at).astype("int64")
        return T.tirx.any(value < low, value >= size)

    return _largest(index.shape, bad, _unless_empty(number, shape))


def _count(mask: Any, shape: Any, size: Any, exact: bool, number: int) -> Any:
    """*number* unless *size* elements of *mask* are true, or at most so many of it broadcast to *shape*."""
    zero, one = (T.tirx.IntImm("int64", value) for value in (0, 1))

    def is_true(*at: Any) -> Any:
        own = at[len(at) - len(mask.shape) :]
        places = (zero if is_static(n, 1) else i for i, n in zip(own, mask.shape, strict=True))
        return T.tirx.Select(convert(mask(*places), "bool"), one, zero)

    axes = [T.te.reduce_axis((0, n), name=f"r{i}") for i, n in enumerate(mask.shape if exact else shape)]

    def count() -> Any:
        return T.te.sum(is_true(*axes), axis=axes) if axes else is_true()

    found = T.te.compute((), count, name="count")

    def code() -> Any:
        # A single value is put everywhere.
        is_wrong = T.tirx.all(found() != size, size != one) if exact else found() > size
        return T.tirx.Select(is_wrong, T.tirx.const(number, "int32"), T.tirx.const(0, "int32"))

    return T.te.compute((), code, name="check")


def _zero(value: Any, shape: Any, number: int) -> Any:
    """*number* if an element of *value* is zero and a result of *shape* has elements: else nothing is divided."""

    def bad(*at: Any) -> Any:
        element = value(*at)
        is_truth = str(value.dtype) == "bool"
        return T.tirx.Not(element) if is_truth else element.equal(T.tirx.const(0, str(value.dtype)))

    return _largest(value.shape, bad, _unless_empty(number, shape))


def _descends(offsets: Any, number: int) -> Any:
    """*number* if the first of *offsets* is not zero, or another less than the one before."""

    def bad(at: Any) -> Any:
        zero = T.tirx.const(0, str(offsets.dtype))
        return offsets(at) < T.tirx.if_then_else(at > 0, offsets(at - 1), zero)

    def first(at: Any) -> Any:
        return T.tirx.all(at.equal(0), offsets(at) > 0)

    return _largest(offsets.shape, lambda at: T.tirx.any(bad(at), first(at)), T.tirx.const(number, "int32"))


def _always(shape: Any, number: int) -> Any:
    """*number* if a result of *shape* has elements."""
    return T.te.compute((), lambda: _unless_empty(number, shape), name="check")


def _unless_empty(number: int, shape: Any) -> Any:
    """*number*, or 0 if a tensor of *shape* has no elements."""
    code = T.tirx.const(number, "int32")
    for size in shape:
        if not isinstance(size, T.tirx.IntImm):
            code = T.tirx.Select(size > T.tirx.IntImm("int64", 0), code, T.tirx.const(0, "int32"))
    return code


def _largest(shape: Any, bad: Callable[..., Any], number: Any) -> Any:
    """*number* if *bad* holds anywhere, else 0."""

    def code(*at: Any) -> Any:
        return T.tirx.Select(bad(*at), number, T.tirx.const(0, "int32"))

    if not len(shape):
        return T.te.compute((), code, name="check")
    axes = [T.te.reduce_axis((0, size), name=f"r{i}") for i, size in enumerate(shape)]
    return T.te.compute((), lambda: T.te.max(code(*axes), axis=axes), name="check")


# -- the table -----------------------------------------------------------------------

Demands = Callable[[tuple[Any, ...]], Iterator[Demand]]


def _by_dim(index: int, dim: int | None = None) -> Demands:
    """Argument *index* indexes dim *dim* of argument 0 (argument 1 is the dim where it is None)."""

    def demands(args: tuple[Any, ...]) -> Iterator[Demand]:
        data = args[0].meta["val"]
        size = data.shape[args[1] if dim is None else dim] if data.dim() else 1
        yield Demand(args[index], size)

    return demands


def _bags(args: tuple[Any, ...]) -> Iterator[Demand]:
    """The indices lie in the weight, the offsets of the bags in order in the indices or at their end, from 0 on."""
    yield from _by_dim(1, 0)(args)
    yield Demand(args[2], args[1].meta["val"].shape[0] + 1)
    yield Demand(args[2], kind="bags")


def _advanced(args: tuple[Any, ...]) -> Iterator[Demand]:
    for dim, index in enumerate(args[1]):
        if isinstance(index, fx.Node) and not _is_mask(index):
            yield Demand(index, args[0].meta["val"].shape[dim], negative=True)


def _put(args: tuple[Any, ...]) -> Iterator[Demand]:
    yield from _advanced(args)
    masks = [dim for dim, index in enumerate(args[1]) if isinstance(index, fx.Node) and _is_mask(index)]
    if len(masks) == 1:
        (dim,) = masks
        mask, values = args[1][dim], args[2].meta["val"].shape
        # The dim of values that runs along the true elements; without it, or with size 1, all get the same.
        along = len(values) + dim - (args[0].meta["val"].dim() - mask.meta["val"].dim() + 1)
        if along >= 0 and not (isinstance(values[along], int) and values[along] == 1):
            yield Demand(mask, values[along], exact=True, kind="count")


def _into_mask(args: tuple[Any, ...]) -> Iterator[Demand]:
    yield Demand(args[1], args[2].meta["val"].numel(), kind="count")


def _is_mask(index: fx.Node) -> bool:
    return index.meta["val"].dtype in (torch.bool, torch.uint8)


def _divisor(args: tuple[Any, ...]) -> Iterator[Demand]:
    divisor = args[1]
    if (
        _is_int(_dtype(args[0]))
        and _is_int(_dtype(divisor))
        and (isinstance(divisor, fx.Node) or not divisor)
    ):
        yield Demand(divisor if isinstance(divisor, fx.Node) else 0, kind="division")


def _assertion(args: tuple[Any, ...]) -> Iterator[Demand]:
    yield Demand(args[0], kind="assertion", message=args[1] if len(args) > 1 else "")


_MOST = 2**63 - 1

_DEMANDS: dict[Any, Demands] = {
    aten.embedding.default: _by_dim(1, 0),
    aten.gather.default: _by_dim(2),
    aten.index_select.default: _by_dim(2),
    aten.index.Tensor: _advanced,
    aten.index_put.default: _put,
    aten.masked_scatter.default: _into_mask,
    aten.index_add.default: _by_dim(2),
    aten.index_copy.default: _by_dim(2),
    aten.index_fill.int_Scalar: _by_dim(2),
    aten.scatter.src: _by_dim(2),
    aten.scatter.value: _by_dim(2),
    aten.scatter_add.default: _by_dim(2),
    aten.scatter_reduce.two: _by_dim(2),
    aten.take.default: lambda args: iter([Demand(args[1], args[0].meta["val"].numel(), negative=True)]),
    aten._embedding_bag.default: _bags,
    aten._embedding_bag_forward_only.default: _bags,
    aten.scatter.reduce: _by_dim(2),
    aten.scatter.value_reduce: _by_dim(2),
    aten.repeat_interleave.Tensor: lambda args: iter([Demand(args[0], _MOST)]),
    aten.bincount.default: lambda args: iter([Demand(args[0], _MOST)]),
    aten.remainder.Tensor: _divisor,
    aten.remainder.Scalar_Tensor: _divisor,
    aten.fmod.Tensor: _divisor,
    aten.div.Tensor_mode: _divisor,
    aten.remainder.Scalar: _divisor,
    aten.fmod.Scalar: _divisor,
    aten.div.Scalar_mode: _divisor,
    aten._assert_async.default: _assertion,
    aten._assert_async.msg: _assertion,
}
"""By operator, what it demands of the values of its operands."""


def _bounds(demand: Demand) -> tuple[Dim, Dim]:
    if demand.size is None:
        return 0, 0
    high = size_text(demand.size)
    if demand.kind == "count":
        return high if demand.exact else 0, high
    if not demand.negative:
        return 0, high
    return (-high if isinstance(high, int) else f"-({high})"), high


# Calls that hand on every element of their first argument and nothing else.
_SAME_ELEMENTS = {
    aten.reshape.default,
    aten.permute.default,
    aten.unsqueeze.default,
    aten.squeeze.dims,
    aten.expand.default,
    aten.flip.default,
}


def _origin(node: fx.Node) -> fx.Node:
    """The node whose elements are those of *node*, in another shape or a wider dtype."""
    while node.target in _SAME_ELEMENTS or node.target is aten._to_copy.default:
        before, after = node.args[0].meta["val"].dtype, node.meta["val"].dtype  # type: ignore[union-attr]
        if before != after and (not _is_int(before) or after.itemsize < before.itemsize):
            break
        node = node.args[0]  # type: ignore[assignment]
    return node


def _dtype(value: Any) -> torch.dtype:
    if isinstance(value, fx.Node) and isinstance(value.meta["val"], torch.Tensor):
        return value.meta["val"].dtype
    return torch.float64 if isinstance(value, float) else torch.int64


def _is_int(dtype: torch.dtype) -> bool:
    return not dtype.is_floating_point and not dtype.is_complex and dtype != torch.bool
