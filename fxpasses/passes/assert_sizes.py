"""`assert_sizes`: equal sizes that torch's shape rules take on trust are asserted."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import fx

from fxpasses.errors import FxpassesError, source_line
from fxpasses.passes.decompositions.values import shape
from fxpasses.program import Program
from fxpasses.rewrite import Editor
from fxpasses.schema import bind
from fxpasses.tracing.fake_values import broadcast_sizes, same_size

__all__ = ["assert_sizes"]

aten = torch.ops.aten

Pairs = Iterator[tuple[Any, Any]]


def assert_sizes(program: Program) -> Program:
    """Put an ``_assert_scalar`` before a call that eager PyTorch refuses where two sizes differ.

    For most operators tracing finds out that sizes are equal, or refuses. The shape rules of
    those in the table do not look at all operands, so that sizes of names of their own get through:
    only the run can show whether they are equal.
    """
    if not any(node.target in _EQUAL for node in program.nodes()):
        return program
    g = program.edit()
    asserted = {(node.graph, _expression(node.args[0])) for node in g.nodes(aten._assert_scalar.default)}
    for node in g.nodes(*_EQUAL):
        args, _ = bind(node.target, node.args, node.kwargs)  # type: ignore[arg-type]
        with g.at(node):
            for one, other in _EQUAL[node.target](g, *args):
                if same_size(one, other):
                    continue
                truth = g.call(operator.eq, one, other)
                condition = _expression(truth)
                if condition == False or truth.meta["val"].node.hint is False:  # noqa: E712, of sympy
                    raise FxpassesError(_mismatch(node, one, other))
                if not condition.free_symbols or (node.graph, condition) in asserted:
                    g.erase(truth)
                    continue
                asserted.add((node.graph, condition))
                g.call(aten._assert_scalar.default, truth, "")
    return g.finish()


def _mismatch(node: fx.Node, one: Any, other: Any) -> str:
    sizes = _expression(one), _expression(other)
    varies = any(size.free_symbols for size in sizes)
    advice = "; a size of 1 is made 2 where dynamic_shapes lets it vary: leave it static" if varies else ""
    return (
        f"{node.target} takes operands whose sizes {sizes[0]} and {sizes[1]} are equal "
        f"({source_line(node) or 'no source line'}), and those of the example are not{advice}"
    )


def _expression(condition: Any) -> Any:
    """The sympy expression of a condition; sizes that are known to be equal have one name in it."""
    import sympy

    val = condition.meta.get("val") if isinstance(condition, fx.Node) else condition
    return val.node.expr if isinstance(val, torch.SymBool | torch.SymInt) else sympy.sympify(val)


# -- what has to be equal ----------------------------------------------------------------


def _by_slices(g: Editor, self: fx.Node, dim: int, index: fx.Node, source: fx.Node, *options: Any) -> Pairs:
    """Slices of *source*, one for each index, are put into *self*."""
    into, given = shape(self) or [1], shape(source) or [1]
    axis = dim % len(into)
    into[axis] = index.meta["val"].numel()
    return zip(given, into, strict=True)


def _of_scalar(g: Editor, self: fx.Node, dim: int, index: fx.Node) -> Pairs:
    """A scalar is selected once."""
    if not shape(self):
        yield index.meta["val"].numel(), 1


def _view(view: Any) -> Callable[..., Pairs]:
    """*source* is put in the place of a view of *self*, which the further arguments tell."""

    def pairs(g: Editor, self: fx.Node, source: fx.Node, *where: Any) -> Pairs:
        probe = g.call(view, self, *where)
        sizes = shape(probe)
        if any(map(_is_unknown, sizes)):  # each such call has a name of its own for what depends on values
            twin = _twin(probe)
            if twin is None:
                return zip(shape(source), sizes, strict=True)  # the view stays, to tell its sizes
            sizes = shape(twin)
        g.erase(probe)
        return zip(shape(source), sizes, strict=True)

    return pairs


def _select(g: Editor, self: fx.Node, source: fx.Node, dim: int, index: Any) -> Pairs:
    rest = shape(self)
    del rest[dim]
    return zip(shape(source), rest, strict=True)


def _pivots(g: Editor, factors: fx.Node, pivots: fx.Node, *options: Any) -> Pairs:
    """A pivot for each row that was chosen; PyTorch reads them unchecked."""
    *batch, rows, columns = shape(factors)
    yield from zip(shape(pivots), [*batch, torch.sym_min(rows, columns)], strict=True)


def _keys_and_values(g: Editor, query: fx.Node, key: fx.Node, value: fx.Node, *options: Any) -> Pairs:
    """A value for each key; the kernel that PyTorch chooses for most sizes does not look."""
    yield shape(key)[-2], shape(value)[-2]


def _index(g: Editor, self: fx.Node, indices: Sequence[fx.Node | None], *more: Any) -> Pairs:
    """Masks have the sizes of the dims they stand for; index tensors are broadcast together."""
    dim, sizes = 0, shape(self)
    for index in indices:
        own = shape(index) if index is not None and _is_mask(index) else []
        yield from zip(own, sizes[dim : dim + len(own)], strict=True)
        dim += len(own) if index is not None and _is_mask(index) else 1
    tensors = [shape(index) for index in indices if index is not None and not _is_mask(index)]
    for i, one in enumerate(tensors):
        for other in tensors[i + 1 :]:
            yield from _broadcast(one, other)


def _index_put(
    g: Editor, self: fx.Node, indices: Sequence[fx.Node | None], values: fx.Node, *options: Any
) -> Pairs:
    yield from _index(g, self, indices)
    # What is put there is repeated, and the place is not.
    pairs = zip_longest(reversed(shape(values)), reversed(_picked(self, indices)), fillvalue=1)
    yield from (pair for pair in pairs if pair[1] is not None and not same_size(pair[0], 1))


def _picked(self: fx.Node, indices: Sequence[fx.Node | None]) -> list[Any]:
    """The sizes of what *indices* pick out of *self*; None for those that the values of a mask tell."""
    dims: list[int] = []
    dim = 0
    for index in indices:
        count = len(shape(index)) if index is not None and _is_mask(index) else 1
        dims += range(dim, dim + count) if index is not None else []
        dim += count
    given = [index for index in indices if index is not None]
    common = broadcast_sizes(*(shape(index) for index in given if not _is_mask(index)))
    if any(map(_is_mask, given)):
        common = [None] * max(1, len(common))
    rest = [size for dim, size in enumerate(shape(self)) if dim not in dims]
    start = dims[0] if dims and dims[-1] - dims[0] == len(dims) - 1 else 0
    return [*rest[:start], *common, *rest[start:]]


def _masked(pairs: Callable[..., Pairs]) -> Callable[..., Pairs]:
    """*pairs* of an operator that has a mask as its second operand."""
    return lambda g, self, mask, *more: pairs(g, self, *more)


def _twin(probe: fx.Node) -> fx.Node | None:
    """An earlier call that is the same, and whose size torch has not taken to be what the code needs."""
    for node in probe.args[0].users:
        if node is not probe and node.target is probe.target and node < probe:
            same = bind(node.target, node.args, node.kwargs)[0] == probe.args
            if same and any(map(_is_unknown, shape(node))):
                return node
    return None


def _selected(g: Editor, self: fx.Node, mask: fx.Node) -> Pairs:
    return _broadcast(shape(self), shape(mask))


def _attention(
    g: Editor, query: fx.Node, key: fx.Node, value: fx.Node, mask: fx.Node | None = None, *options: Any
) -> Pairs:
    yield from _keys_and_values(g, query, key, value)
    if mask is not None:
        yield from _broadcast(shape(mask)[-2:], [shape(query)[-2], shape(key)[-2]])


def _is_unknown(size: Any) -> bool:
    """Whether *size* depends on values."""
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return bool(free_unbacked_symbols(size))


def _is_mask(index: fx.Node) -> bool:
    return index.meta["val"].dtype in (torch.bool, torch.uint8)


def _broadcast(one: Sequence[Any], other: Sequence[Any]) -> Pairs:
    """The sizes that have to be equal, since neither is known to be 1."""
    for a, b in zip_longest(reversed(one), reversed(other), fillvalue=1):
        if not any(same_size(size, 1) for size in (a, b)):
            yield a, b


_EQUAL: dict[Any, Callable[..., Pairs]] = {
    aten.index_add.default: _by_slices,
    aten.index_copy.default: _by_slices,
    aten.index_reduce.default: _by_slices,
    aten.index_select.default: _of_scalar,
    aten.index.Tensor: _index,
    aten.index_put.default: _index_put,
    aten._index_put_impl.default: _index_put,
    aten._unsafe_index.Tensor: _index,
    aten._unsafe_index_put.default: _index_put,
    aten._unsafe_masked_index.default: _masked(_index),
    aten._unsafe_masked_index_put_accumulate.default: _masked(_index_put),
    aten.lu_unpack.default: _pivots,
    aten.masked_select.default: _selected,
    aten.scaled_dot_product_attention.default: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _keys_and_values,
    aten.slice_scatter.default: _view(aten.slice.Tensor),
    aten.select_scatter.default: _select,
    aten.diagonal_scatter.default: _view(aten.diagonal.default),
}
"""By operator, pairs of sizes that have to be equal."""
