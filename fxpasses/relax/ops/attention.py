"""Scaled dot product attention.

Scores and probabilities are kept in float32 for half types. A row of the mask
that admits nothing gives zeros, as in PyTorch.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from fxpasses.errors import UnsupportedOperatorError
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import accumulator, const, convert, is_static, lowest
from fxpasses.relax.table import lowering

aten = torch.ops.aten


@lowering(aten.scaled_dot_product_attention.default)
def attention(
    b: Any,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any,
    dropout_p: Any,
    is_causal: Any,
    *,
    scale: Any,
    enable_gqa: Any,
) -> Any:
    if dropout_p != 0:
        raise UnsupportedOperatorError(
            f"dropout_p={dropout_p} makes the result random; set it to 0 for inference"
        )
    op = T.relax.op
    work = accumulator(b.dtype_of(query))
    if enable_gqa:
        heads = b.shape_of(query)[-3]
        key, value = _repeated_heads(b, key, heads), _repeated_heads(b, value, heads)
    rank = len(b.shape_of(key))
    flipped = b.emit(op.permute_dims(key, [*range(rank - 2), rank - 1, rank - 2]))
    scores = b.emit(op.matmul(query, flipped, out_dtype=work))
    masks = [] if attn_mask is None else [attn_mask]
    width = b.shape_of(query)[-1]
    if scale is None and isinstance(width, T.tirx.IntImm):
        scale = 1 / math.sqrt(int(width)) if int(width) else 1.0
    weights = b.te(_weights, scores, masks, width, scale=scale, is_causal=is_causal, name="attention_weights")
    return b.cast(b.emit(op.matmul(weights, b.cast(value, work))), b.val.dtype)


def _weights(scores: Any, masks: Any, width: Any, scale: float | None, is_causal: bool) -> Any:
    """Softmax over the last dim of the masked scores; zeros where nothing is admitted."""
    te, tirx = T.te, T.tirx
    dtype = str(scores.dtype)
    minus_infinity = lowest(dtype)
    factor = const(scale, dtype) if scale is not None else const(1, dtype) / te.sqrt(convert(width, dtype))

    def masked(*at: Any) -> Any:
        value = scores(*at) * factor
        for mask in masks:
            own = at[len(at) - len(mask.shape) :]
            where = [0 if is_static(size, 1) else i for i, size in zip(own, mask.shape, strict=True)]
            if str(mask.dtype) == "bool":  # a NaN stays one, as in eager PyTorch
                value = value + tirx.Select(mask(*where), const(0, dtype), minus_infinity)
            else:
                value = value + convert(mask(*where), dtype)
        return tirx.Select(at[-1] <= at[-2], value, minus_infinity) if is_causal else value

    def reduced(operation: Any, source: Any, name: str) -> Any:
        def element(*at: Any) -> Any:
            axis = te.reduce_axis((0, scores.shape[-1]), name="k")
            return operation(source(*at, axis), axis=axis)

        return te.compute(scores.shape[:-1], element, name=name)

    logits = te.compute(scores.shape, masked, name="logits")
    most = reduced(te.max, logits, "most")

    def exponential(*at: Any) -> Any:
        nothing = most(*at[:-1]) == minus_infinity
        return tirx.Select(nothing, const(0, dtype), te.exp(logits(*at) - most(*at[:-1])))

    raised = te.compute(scores.shape, exponential, name="raised")
    total = reduced(te.sum, raised, "total")

    def weight(*at: Any) -> Any:
        whole = total(*at[:-1])
        return tirx.Select(whole == const(0, dtype), const(0, dtype), raised(*at) / whole)

    return te.compute(scores.shape, weight, name="weights")


def _repeated_heads(b: Any, value: Any, heads: Any) -> Any:
    """Each head as often as there are query heads to it, side by side."""
    sizes = b.shape_of(value)
    if b.analyzer.can_prove_equal(sizes[-3], heads):
        return value

    def kernel(x: Any, heads: Any) -> Any:
        times = T.tirx.floordiv(heads, x.shape[-3])

        def element(*at: Any) -> Any:
            return x(*at[:-3], T.tirx.floordiv(at[-3], times), *at[-2:])

        return T.te.compute((*x.shape[:-3], heads, *x.shape[-2:]), element, name="repeated_heads")

    return b.te(kernel, value, heads, name="repeat_heads")
