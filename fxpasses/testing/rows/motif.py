"""Patterns of several calls that chance would hardly bring about."""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.testing.drawers import (
    FLOAT,
    Motif,
    Row,
)
from fxpasses.testing.rows.layer import batch_norm_arguments, convolution

__all__ = ["MOTIFS"]

aten = torch.ops.aten


def _conv_bn(g: Any) -> Any:
    """A convolution and a batch norm, which a pass may fold into one."""
    transposed = g.choose((False, False, True))
    nd = g.choose((2, 1))
    drawn = convolution(nd, transposed=transposed, general=True)(g)
    y = g.call(aten.convolution.default, *drawn.values())
    given = batch_norm_arguments(g, y)
    return g.call(aten._native_batch_norm_legit_no_training.default, *given.values(), 0.1, 1e-3)


def _written_attention(g: Any) -> Any:
    """Attention as people write it: a product, a scale, a softmax, a product."""
    dtype = g.dtype(FLOAT)
    batch, queries, keys, size = (g.integer(1, 3) for _ in range(4))
    q, k, v = (g.like(dtype, (batch, n, size)) for n in (queries, keys, keys))
    scores = g.call(aten.matmul.default, q, g.call(aten.transpose.int, k, -2, -1))
    scores = g.call(aten.div.Tensor, scores, 2.0)
    return g.call(aten.matmul.default, g.call(aten.softmax.int, scores, -1), v)


def _twins(g: Any) -> Any:
    """The same call twice, and their sum."""
    x = g.tensor(FLOAT, (0, 4), "any")
    op = g.choose((aten.sin.default, aten.exp.default, aten.neg.default))
    return g.call(aten.add.Tensor, g.call(op, x), g.call(op, x))


def _noops(g: Any) -> Any:
    """Steps that do nothing, between two that do."""
    x = g.call(aten.neg.default, g.tensor(FLOAT, (1, 4), "any"))
    for op, args in g.choose(
        (
            ((aten.mul.Tensor, (1,)), (aten.add.Tensor, (0,))),
            ((aten.permute.default, ([*range(x.dim())],)),),
            ((aten.view.default, ([*x.shape],)), (aten.expand.default, ([*x.shape],))),
            ((aten.slice.Tensor, (0, 0, 2**63 - 1)), (aten.clone.default, ())),
            ((aten._to_copy.default, ()), (aten.transpose.int, (0, -1)), (aten.transpose.int, (0, -1))),
        )
    ):
        x = g.call(op, x, *args)
    return g.call(aten.abs.default, x)


MOTIFS: list[Row | Motif] = [
    Motif("conv_bn", _conv_bn),
    Motif("conv_bn", _conv_bn),
    Motif("attention", _written_attention),
    Motif("twins", _twins),
    Motif("noops", _noops),
]
