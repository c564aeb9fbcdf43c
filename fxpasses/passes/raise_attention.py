"""`raise_attention`: backend forms of attention become `scaled_dot_product_attention` again."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxpasses.rewrite import Editor, rewrite
from fxpasses.schema import bind

__all__ = ["raise_attention"]

aten = torch.ops.aten


@rewrite(aten._scaled_dot_product_flash_attention_for_cpu.default)
def raise_attention(g: Editor, node: fx.Node) -> Any:
    """Undo the choice of a CPU kernel that tracing below autograd has made.

    Only where the log-sum-exp that the kernel gives beside its result is unused.
    """
    if any(user.target is not operator.getitem or user.args[1] != 0 for user in node.users):
        return None
    args, kwargs = bind(node.target, node.args, node.kwargs)  # type: ignore[arg-type]
    query, key, value, dropout_p, is_causal = args
    result = g.call(
        aten.scaled_dot_product_attention.default,
        query,
        key,
        value,
        kwargs["attn_mask"],
        dropout_p,
        is_causal,
        scale=kwargs["scale"],
    )
    return (result,)
