"""Attention whose operands lie as the products around it leave them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["attention"]


@torch.library.custom_op("fxpasses::attention", mutates_args=())
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
    heads_last: Sequence[bool],
    lanes: int,
    registers: int,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` for other layouts.

    Args:
        query: [N, H, L, E], or [N, L, H, E] where *heads_last* says so.
        key: [N, G, S, E] or [N, S, G, E]; H is a multiple of G, and so many heads of the query share one.
        value: [N, G, S, V] or [N, S, G, V].
        mask: None, or what broadcasts to [N, H, S, L], keys before queries: bool, or of the dtype of *query*.
        is_causal: whether a query sees no key behind its own position.
        scale: of the scores.
        heads_last: for query, key, value and the result, whether the heads are the last dim but one.
        lanes: elements in a vector of the target; no result depends on it.
        registers: vectors that a kernel may hold; no result depends on it.

    Returns:
        [N, H, L, V], or [N, L, H, V] where *heads_last* says so.
    """
    query, key, value = (
        tensor.transpose(1, 2) if last else tensor
        for tensor, last in zip((query, key, value), heads_last, strict=False)
    )
    admitted = None if mask is None else mask.transpose(-1, -2)
    result = F.scaled_dot_product_attention(
        query, key, value, admitted, is_causal=is_causal, scale=scale, enable_gqa=True
    )
    if heads_last[3]:
        result = result.transpose(1, 2)
    return result.clone(memory_format=torch.contiguous_format)


@attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
    heads_last: Sequence[bool],
    lanes: int,
    registers: int,
) -> Tensor:
    sizes = list(query.shape)
    if heads_last[0] != heads_last[3]:
        sizes[1], sizes[2] = sizes[2], sizes[1]
    return query.new_empty([*sizes[:3], value.shape[3]])
