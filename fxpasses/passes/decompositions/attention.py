"""Attention, whichever kernel tracing below autograd has chosen, its derivative, and softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx
from torch._prims_common import get_computation_dtype

from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import cast, expand, full, reshape, shape
from fxpasses.rewrite import Editor

aten = torch.ops.aten


@decomposition(aten._scaled_dot_product_flash_attention_for_cpu.default)
def flash_attention_for_cpu(
    g: Editor,
    query: fx.Node,
    key: fx.Node,
    value: fx.Node,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Any,
    scale: float | None,
) -> Any:
    """The second result, of which a derivative is made, is dead code where there is none."""
    shared = {} if shape(query)[1] == shape(key)[1] else {"enable_gqa": True}
    attention = g.call(
        aten.scaled_dot_product_attention.default,
        *(query, key, value, attn_mask, dropout_p, is_causal),
        scale=scale,
        **shared,
    )
    factor = _factor(query, scale)
    if factor is None:
        return (attention, None)
    scores = _scores(g, query, key, attn_mask, is_causal, factor)
    total = g.call(aten.logsumexp.default, scores, [-1])
    # Zero for a row that admits nothing, so that the difference to it is no NaN.
    nothing = g.call(aten.eq.Scalar, total, -math.inf)
    return (attention, g.call(aten.masked_fill.Scalar, total, nothing, 0))


@decomposition(aten._scaled_dot_product_flash_attention_for_cpu_backward.default)
def flash_attention_for_cpu_backward(
    g: Editor,
    grad_out: fx.Node,
    query: fx.Node,
    key: fx.Node,
    value: fx.Node,
    out: fx.Node,
    logsumexp: fx.Node,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Any,
    scale: float | None,
) -> Any:
    factor = _factor(query, scale)
    if factor is None or dropout_p != 0:
        return None
    work = _work(query)
    grad, out = cast(g, grad_out, work), cast(g, out, work)
    keys, values = _for_heads(g, key, query), _for_heads(g, value, query)
    scores = _scores(g, query, key, attn_mask, is_causal, factor)
    weights = g.call(
        aten.exp.default, g.call(aten.sub.Tensor, scores, g.call(aten.unsqueeze.default, logsumexp, -1))
    )
    grad_values = g.call(aten.matmul.default, _turned(g, weights), grad)
    grad_weights = g.call(aten.matmul.default, grad, _turned(g, values))
    mean = g.call(aten.sum.dim_IntList, g.call(aten.mul.Tensor, grad, out), [-1], True)
    centred = g.call(aten.mul.Tensor, weights, g.call(aten.sub.Tensor, grad_weights, mean))
    grad_scores = g.call(aten.mul.Scalar, centred, factor)
    grad_query = g.call(aten.matmul.default, grad_scores, keys)
    grad_keys = g.call(aten.matmul.default, _turned(g, grad_scores), cast(g, query, work))
    grads = (grad_query, _of_heads(g, grad_keys, key), _of_heads(g, grad_values, value))
    return tuple(cast(g, each, query.meta["val"].dtype) for each in grads)


def _factor(query: fx.Node, scale: float | None) -> float | None:
    """What scores are multiplied by; None where it depends on a size that varies."""
    width = shape(query)[-1]
    if scale is not None or not isinstance(width, int):
        return scale
    return 1 / math.sqrt(width) if width else 1.0


def _scores(
    g: Editor, query: fx.Node, key: fx.Node, attn_mask: Any, is_causal: bool, factor: float
) -> fx.Node:
    work = _work(query)
    keys = _for_heads(g, key, query)
    scores = g.call(aten.matmul.default, cast(g, query, work), _turned(g, keys))
    scores = g.call(aten.mul.Scalar, scores, factor)
    if attn_mask is not None:
        scores = g.call(aten.add.Tensor, scores, cast(g, attn_mask, work))
    if is_causal:
        after = g.call(aten.triu.default, full(g, shape(scores)[-2:], True, torch.bool), 1)
        scores = g.call(aten.masked_fill.Scalar, scores, after, -math.inf)
    return scores


def _work(query: fx.Node) -> torch.dtype:
    """The dtype of scores and weights."""
    return get_computation_dtype(query.meta["val"].dtype)


def _turned(g: Editor, matrices: fx.Node) -> fx.Node:
    return g.call(aten.permute.default, matrices, [0, 1, 3, 2])


def _for_heads(g: Editor, shared: fx.Node, query: fx.Node) -> fx.Node:
    """Keys or values for each head of *query*, in the dtype of the work."""
    shared = cast(g, shared, _work(query))
    (batch, groups, length, width), heads = shape(shared), shape(query)[1]
    if groups == heads:
        return shared
    repeated = g.call(aten.unsqueeze.default, shared, 2)
    repeated = expand(g, repeated, [batch, groups, heads // groups, length, width])
    return reshape(g, repeated, [batch, heads, length, width])


def _of_heads(g: Editor, grads: fx.Node, shared: fx.Node) -> fx.Node:
    """The gradient of what `_for_heads` repeated."""
    (batch, heads, length, width), groups = shape(grads), shape(shared)[1]
    if groups == heads:
        return grads
    by_group = reshape(g, grads, [batch, groups, heads // groups, length, width])
    return g.call(aten.sum.dim_IntList, by_group, [2])


@decomposition(aten.softmax.int)
def softmax(g: Editor, self: fx.Node, dim: int, dtype: Any) -> fx.Node:
    return g.call(aten._softmax.default, cast(g, self, dtype), dim, False)


@decomposition(aten.log_softmax.int)
def log_softmax(g: Editor, self: fx.Node, dim: int, dtype: Any) -> fx.Node:
    return g.call(aten._log_softmax.default, cast(g, self, dtype), dim, False)
