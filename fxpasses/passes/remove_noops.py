"""`remove_noops`: calls that give back what they were given, and views of views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.values import reshape, shape
from fxpasses.passes.normalize_kwargs import on_full_form
from fxpasses.rewrite import Editor, rewrite
from fxpasses.tracing.fake_values import same_size, same_type

__all__ = ["remove_noops"]

aten = torch.ops.aten


def _reshape(g: Editor, node: fx.Node) -> Any:
    source = node.args[0]
    if same_type(source.meta["val"], node.meta["val"]):
        return source
    if source.target in _SHAPE_ONLY:
        return reshape(g, source.args[0], shape(node))
    return None


# Views that keep the order of the elements.
_SHAPE_ONLY = (aten.reshape.default, aten.unsqueeze.default, aten.squeeze.dims)


def _permute(g: Editor, node: fx.Node) -> Any:
    source, dims = node.args
    if list(dims) == list(range(len(dims))):
        return source
    if source.target is aten.permute.default:
        return g.call(aten.permute.default, source.args[0], [source.args[1][d] for d in dims])
    return None


def _same(g: Editor, node: fx.Node) -> Any:
    source = node.args[0]
    return source if same_type(source.meta["val"], node.meta["val"]) else None


def _expand(g: Editor, node: fx.Node) -> Any:
    source = node.args[0]
    if same_type(source.meta["val"], node.meta["val"]):
        return source
    if source.target is aten.expand.default and source.meta["val"].dim() == node.meta["val"].dim():
        return g.call(aten.expand.default, source.args[0], list(node.meta["val"].shape), implicit=False)
    return None


def _slice(g: Editor, node: fx.Node) -> Any:
    source, dim, start, end, step = node.args
    size = shape(source)[dim]
    end_size = end.meta["val"] if isinstance(end, fx.Node) else end
    return source if start == 0 and step == 1 and same_size(end_size, size) else None


def _slice_scatter(g: Editor, node: fx.Node) -> Any:
    source, values, dim, start, end, step = node.args
    end_size = end.meta["val"] if isinstance(end, fx.Node) else end
    is_whole = start == 0 and step == 1 and same_size(end_size, shape(source)[dim])
    # Where only the run shows that the sizes are equal, those of the result keep their names.
    return values if is_whole and same_type(values.meta["val"], node.meta["val"]) else None


def _pad(g: Editor, node: fx.Node) -> Any:
    source, amounts = node.args[:2]  # [1, -1] keeps the size, but moves
    return source if all(not isinstance(a, fx.Node) and a == 0 for a in amounts) else None


def _cat(g: Editor, node: fx.Node) -> Any:
    parts = node.args[0]
    return parts[0] if len(parts) == 1 else None


def _by_one(g: Editor, node: fx.Node) -> Any:
    source, factor = node.args[:2]
    same = same_type(source.meta["val"], node.meta["val"])
    return source if not isinstance(factor, fx.Node) and factor == 1 and same else None


def _integer_zero(g: Editor, node: fx.Node) -> Any:
    # Floats stay: -0.0 + 0 is 0.0.
    source, term = node.args[:2]
    dtype = node.meta["val"].dtype
    integral = not dtype.is_floating_point and not dtype.is_complex
    zero = not isinstance(term, fx.Node) and term == 0
    return source if zero and integral and same_type(source.meta["val"], node.meta["val"]) else None


_RULES: dict[Any, Callable[[Editor, fx.Node], Any]] = {
    aten.reshape.default: _reshape,
    aten.permute.default: _permute,
    aten.expand.default: _expand,
    aten.slice.Tensor: _slice,
    aten.slice_scatter.default: _slice_scatter,
    aten.cat.default: _cat,
    aten.squeeze.dims: _same,
    aten._to_copy.default: _same,
    aten.flip.default: lambda g, node: node.args[0] if not node.args[1] else None,
    aten.repeat.default: _same,
    aten.constant_pad_nd.default: _pad,
    aten.mul.Scalar: _by_one,
    aten.div.Scalar: _by_one,
    aten.pow.Tensor_Scalar: _by_one,
    aten.add.Scalar: _integer_zero,
    aten.sub.Scalar: _integer_zero,
}


@on_full_form
@rewrite(*_RULES)
def remove_noops(g: Editor, node: fx.Node) -> Any:
    """Drop identities (a `reshape` to the same shape, times 1, a whole slice) and merge views of views."""
    return _RULES[node.target](g, node)
