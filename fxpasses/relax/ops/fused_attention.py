"""Attention as one kernel: see `fxpasses.dialect.attention`."""

from __future__ import annotations

from typing import Any

import torch

import fxpasses.dialect  # noqa: F401  (registers the operators)
from fxpasses.relax.attention import BlockAttention
from fxpasses.relax.kernel import is_static, loops
from fxpasses.relax.single_attention import SingleAttention
from fxpasses.relax.table import lowering

dialect = torch.ops.fxpasses


@lowering(dialect.attention.default)
def attention(
    b: Any,
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    is_causal: Any,
    scale: Any,
    heads_last: Any,
    lanes: Any,
    registers: Any,
) -> Any:
    queries = b.shape_of(query)[1 if heads_last[0] else 2]
    kind = SingleAttention if is_static(queries, 1) else BlockAttention

    def kernel(tensors: Any, shape: Any) -> Any:
        def body(*buffers: Any) -> None:
            *inputs, result = buffers
            kind(inputs, result, is_causal, scale, heads_last, lanes, registers).emit()

        return loops(list(tensors), [(shape, str(tensors[0].dtype))], body, "attention")

    tensors = [query, key, value] if mask is None else [query, key, value, mask]
    return b.te(kernel, tensors, b.shape(b.val))
