"""Attention, whichever kernel tracing below autograd has chosen, and softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import cast
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
    attention = aten.scaled_dot_product_attention.default
    return (g.call(attention, query, key, value, attn_mask, dropout_p, is_causal, scale=scale), None)


@decomposition(aten.softmax.int)
def softmax(g: Editor, self: fx.Node, dim: int, dtype: Any) -> fx.Node:
    return g.call(aten._softmax.default, cast(g, self, dtype), dim, False)


@decomposition(aten.log_softmax.int)
def log_softmax(g: Editor, self: fx.Node, dim: int, dtype: Any) -> fx.Node:
    return g.call(aten._log_softmax.default, cast(g, self, dtype), dim, False)
