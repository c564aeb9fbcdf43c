"""`merge_rows`: what follows a product of matrices works on its [M, N], and not on [..., N]."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.values import reshape, shape
from fxpasses.passes.normalize_dims import normalize_dims
from fxpasses.passes.remove_noops import remove_noops
from fxpasses.program import Program
from fxpasses.rewrite import Editor
from fxpasses.schema import is_pointwise
from fxpasses.tracing.fake_values import same_size

__all__ = ["merge_rows"]

aten = torch.ops.aten


def merge_rows(program: Program) -> Program:
    """Move the `reshape` of [M, N] to [..., N] behind the calls that can work on [M, N] as well.

    These are pointwise calls, and norms, softmax, means and slices along the
    last dim. Where the `reshape` meets the one before the next product, both
    go: a bias, an activation and a residual can then be computed with the
    product before them.
    """
    if not any(node.target is aten.reshape.default for node in program.graph.nodes):
        return program
    g = normalize_dims(program).edit()  # the rules read arguments by position, and dims from the front
    changed = False
    for node in list(g.graph.nodes):
        if node.op != "call_function" or node._erased:
            continue
        rule = _MOVES.get(node.target) or (_pointwise if is_pointwise(node.target) else None)
        if rule is None:
            continue
        with g.at(node):
            value = rule(g, node)
            if value is not None:
                g.replace(node, value)
                changed = True
    return remove_noops(g.finish()) if changed else program


def _rows(value: Any) -> fx.Node | None:
    """The [M, N] that *value* [..., N] of more dims is a view of."""
    if not isinstance(value, fx.Node) or value.target is not aten.reshape.default:
        return None
    source: fx.Node = value.args[0]  # type: ignore[assignment]
    sizes, inner = shape(value), shape(source)
    return source if len(inner) == 2 < len(sizes) and same_size(sizes[-1], inner[-1]) else None


def _pointwise(g: Editor, node: fx.Node) -> Any:
    """Operands as large as the result are views of rows; the others must be the same for all rows."""
    val = node.meta["val"]
    if not isinstance(val, torch.Tensor):
        return None
    operands = [arg for arg in node.all_input_nodes if isinstance(arg.meta["val"], torch.Tensor)]
    sources = [rows for arg in operands if _leads_alike(arg, val) and (rows := _rows(arg)) is not None]
    if not sources:
        return None
    moved: dict[fx.Node, fx.Node] = {}
    for operand in operands:
        sizes = shape(operand)
        if _leads_alike(operand, val):
            moved[operand] = _rows(operand) or reshape(g, operand, [shape(sources[0])[0], sizes[-1]])
        elif any(not same_size(size, 1) for size in sizes[:-1]):
            return None
        elif len(sizes) > 1:
            moved[operand] = reshape(g, operand, sizes[-1:])
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda arg: moved.get(arg, arg))
    return reshape(g, g.call(node.target, *args, **kwargs), shape(node))


def _leads_alike(operand: fx.Node, val: torch.Tensor) -> bool:
    """Whether all dims of *operand* but the last are those of *val*."""
    sizes = shape(operand)
    return len(sizes) == val.dim() and all(map(same_size, sizes[:-1], val.shape[:-1]))


def _along_last(g: Editor, node: fx.Node, *args: Any) -> fx.Node:
    """The same call on rows."""
    return reshape(g, g.call(node.target, *args, **node.kwargs), shape(node))


def _layer_norm(g: Editor, node: fx.Node) -> Any:
    rows = _rows(node.args[0])
    only_first = all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)
    if rows is None or not only_first or len(node.args[1]) != 1:  # type: ignore[arg-type]
        return None
    result = g.call(operator.getitem, g.call(node.target, rows, *node.args[1:]), 0)
    return (reshape(g, result, list(node.meta["val"][0].shape)),)


def _softmax(g: Editor, node: fx.Node) -> Any:
    rows = _rows(node.args[0])
    if rows is None or node.args[1] != len(shape(node)) - 1:
        return None
    return _along_last(g, node, rows, 1, *node.args[2:])


def _mean(g: Editor, node: fx.Node) -> Any:
    rows = _rows(node.args[0])
    dims, keepdim = node.args[1:]
    if rows is None or not keepdim or dims != [len(shape(node)) - 1]:
        return None
    return _along_last(g, node, rows, [1], True)


def _slice(g: Editor, node: fx.Node) -> Any:
    rows = _rows(node.args[0])
    if rows is None or node.args[1] != len(shape(node)) - 1:
        return None
    return _along_last(g, node, rows, 1, *node.args[2:])


_MOVES: dict[Any, Callable[[Editor, fx.Node], Any]] = {
    aten._log_softmax.default: _softmax,
    aten._softmax.default: _softmax,
    aten.mean.dim: _mean,
    aten.native_layer_norm.default: _layer_norm,
    aten.slice.Tensor: _slice,
}
