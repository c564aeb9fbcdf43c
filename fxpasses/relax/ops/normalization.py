"""Batch, layer and group normalisation.

Statistics and the affine step are computed in float32 for half types, in the
type itself otherwise, statistics of many values in float64; the variance is that of the differences from the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import LONG_SUM, accumulator, const, convert, product, used
from fxpasses.relax.table import lowering

aten = torch.ops.aten


@lowering(aten._native_batch_norm_legit_no_training.default)
def batch_norm(
    b: Any,
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    momentum: Any,
    eps: Any,
) -> Any:
    work = accumulator(b.dtype_of(input))
    present = [tensor for tensor in (weight, bias) if tensor is not None]

    def channel(mean: Any, var: Any, affine: Any) -> Any:
        affine = list(affine)
        scale_of = affine.pop(0) if weight is not None else None
        shift_of = affine.pop(0) if bias is not None else None

        def scale(c: Any) -> Any:
            inverse = const(1, work) / T.te.sqrt(convert(var(c), work) + const(eps, work))
            return inverse if scale_of is None else inverse * convert(scale_of(c), work)

        scales = T.te.compute(var.shape, scale, name="scale")

        def shift(c: Any) -> Any:
            value = -convert(mean(c), work) * scales(c)
            return value if shift_of is None else convert(shift_of(c), work) + value

        return [scales, T.te.compute(mean.shape, shift, name="shift")]

    def affine(x: Any, scale: Any, shift: Any) -> Any:
        def element(*at: Any) -> Any:
            return convert(convert(x(*at), work) * scale(at[1]) + shift(at[1]), str(x.dtype))

        return T.te.compute(x.shape, element, name="batch_norm")

    factors = b.te(channel, running_mean, running_var, present, name="batch_norm_factors")
    result = b.te(affine, input, b.emit(factors[0]), b.emit(factors[1]))
    empty = [
        T.relax.op.zeros(b.shape(val), b.dtype(val.dtype)) if used(b, index) else None
        for index, val in ((1, b.val[1]), (2, b.val[2]))
    ]
    return result, *empty


@lowering(aten._native_batch_norm_legit.no_stats)
def batch_norm_of_batch(
    b: Any, input: Any, weight: Any, bias: Any, training: Any, momentum: Any, eps: Any
) -> Any:
    def layout(at: Sequence[Any], reduced: Sequence[Any]) -> list[Any]:
        return [reduced[0], at[0], *reduced[1:]]

    sizes = b.shape_of(input)
    return _normalized(
        b,
        input,
        eps,
        kept=[sizes[1]],
        reduced=[sizes[0], *sizes[2:]],
        source=layout,
        group_of=lambda at: [at[1]],
        affine=[weight, bias],
        affine_at=lambda at: [at[1]],
    )


@lowering(aten.native_layer_norm.default)
def layer_norm(b: Any, input: Any, normalized_shape: Any, weight: Any, bias: Any, eps: Any) -> Any:
    sizes = b.shape_of(input)
    outer = len(sizes) - len(normalized_shape)
    return _normalized(
        b,
        input,
        eps,
        kept=sizes[:outer],
        reduced=sizes[outer:],
        source=lambda at, reduced: [*at, *reduced],
        group_of=lambda at: at[:outer],
        affine=[weight, bias],
        affine_at=lambda at: at[outer:],
    )


@lowering(aten.native_group_norm.default)
def group_norm(
    b: Any, input: Any, weight: Any, bias: Any, N: Any, C: Any, HxW: Any, group: Any, eps: Any
) -> Any:
    """As rows of a group each, which run in vectors; then weight and bias by channel."""
    sizes, dtype = b.shape_of(input), b.dtype_of(input)
    work = accumulator(dtype)
    kept = [sizes[0], b.size(group)]
    row = T.tirx.floordiv(product(sizes[1:]), kept[1])
    rows = b.emit(T.relax.op.reshape(b.cast(input, work), [*kept, row]))
    result, *statistics = _normalized(
        b,
        rows,
        eps,
        kept=kept,
        reduced=[row],
        source=lambda at, reduced: [*at, *reduced],
        group_of=lambda at: at[:2],
        affine=[None, None],
        affine_at=lambda at: [],
    )

    def affine(x: Any, weight: Any, bias: Any) -> Any:
        def element(*at: Any) -> Any:
            value = x(*at)
            if weight is not None:
                value = value * convert(weight(at[1]), work)
            return value if bias is None else value + convert(bias(at[1]), work)

        return T.te.compute(x.shape, element, name="affine")

    result = b.emit(T.relax.op.reshape(result, sizes))
    if weight is not None or bias is not None:
        result = b.te(affine, result, weight, bias, name="group_norm_affine")
    return (b.cast(result, dtype), *statistics)


def _normalized(
    b: Any,
    value: Any,
    eps: float,
    *,
    kept: Sequence[Any],
    reduced: Sequence[Any],
    source: Callable[..., Sequence[Any]],
    group_of: Callable[..., Sequence[Any]],
    affine: Sequence[Any],
    affine_at: Callable[[Sequence[Any]], Sequence[Any]],
) -> Any:
    """``(x - mean) / sqrt(var + eps) * weight + bias``, the mean, and the inverse deviation.

    Args:
        b: the builder.
        value: the tensor.
        eps: added to the variance.
        kept: sizes of the statistics.
        reduced: sizes that one of them is taken over.
        source: the position in the tensor of a position in those two.
        group_of: the position in the statistics of a position in the tensor.
        affine: weight and bias; None where there is none.
        affine_at: the position in these of a position in the tensor.
    """
    dtype = b.dtype_of(value)
    # Its sums run in as many lanes as a vector has.
    work, wide = accumulator(dtype), accumulator(dtype, product(reduced), 4 * LONG_SUM)
    weighted, biased = (tensor is not None for tensor in affine)
    wanted = [True, used(b, 1), used(b, 2)]

    def kernel(x: Any, affine: Any, kept: Any, reduced: Any) -> Any:
        te = T.te
        count = convert(product(reduced), wide)

        def total(term: Callable[[Any, Sequence[Any]], Any], name: str) -> Any:
            def element(*at: Any) -> Any:
                axes = [te.reduce_axis((0, size), name=f"k{i}") for i, size in enumerate(reduced)]
                inner = convert(x(*source(at, axes)), wide)
                return te.sum(term(inner, at), axis=axes)

            return te.compute(tuple(kept), element, name=name)

        def over_kept(element: Callable[..., Any], name: str) -> Any:
            return te.compute(tuple(kept), element, name=name)

        summed = total(lambda inner, at: inner, "total")
        mean = over_kept(lambda *at: summed(*at) / count, "mean")
        squares = total(lambda inner, at: (inner - mean(*at)) * (inner - mean(*at)), "squares")
        inverse = over_kept(
            lambda *at: const(1, wide) / te.sqrt(squares(*at) / count + const(eps, wide)), "inverse"
        )

        def normalized(*at: Any) -> Any:
            group, tensors = group_of(at), list(affine)
            result = (convert(x(*at), work) - convert(mean(*group), work)) * convert(inverse(*group), work)
            if weighted:
                result = result * convert(tensors.pop(0)(*affine_at(at)), work)
            if biased:
                result = result + convert(tensors.pop(0)(*affine_at(at)), work)
            return convert(result, dtype)

        results = [te.compute(x.shape, normalized, name="normalized"), mean, inverse]
        found = [result for result, is_wanted in zip(results, wanted, strict=True) if is_wanted]
        return found[0] if len(found) == 1 else found

    tensors = [tensor for tensor in affine if tensor is not None]
    found = b.te(kernel, value, tensors, list(kept), list(reduced))
    parts = iter([found] if sum(wanted) == 1 else [b.emit(found[i]) for i in range(sum(wanted))])
    results = [next(parts) if is_wanted else None for is_wanted in wanted]
    for index in (1, 2):
        if results[index] is not None:
            statistic = b.emit(T.relax.op.reshape(results[index], b.shape(b.val[index])))
            results[index] = b.cast(statistic, b.val[index].dtype)
    return tuple(results)
