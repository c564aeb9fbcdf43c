"""Convolution of any number of spatial dims, grouped, dilated, transposed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import accumulator, const, convert, is_static
from fxpasses.relax.table import lowering

aten = torch.ops.aten


@lowering(aten.convolution.default)
def convolution(
    b: Any,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: Any,
    output_padding: Any,
    groups: Any,
) -> Any:
    dims = b.val.dim() - 2
    stride, padding, dilation = (_each(sizes, dims) for sizes in (stride, padding, dilation))
    kernel = _transposed_kernel if transposed else _kernel
    work = accumulator(b.dtype(b.val.dtype))

    def compute(x: Any, weight: Any, shape: Any, padding: Any) -> Any:
        if any(is_static(size, 0) for size in (*x.shape[1:], *weight.shape)):
            return T.te.compute(tuple(shape), lambda *_: const(0, work), name="conv")
        return kernel(x, weight, shape, stride, padding, dilation, groups, work)

    result = b.te(compute, input, weight, b.shape(b.val), b.shape(padding))
    if bias is not None:
        shape = [b.size(1), b.shape(b.val)[1], *[b.size(1)] * dims]
        along = b.emit(T.relax.op.reshape(b.cast(bias, work), shape))
        result = b.emit(T.relax.op.add(result, along))
    return b.cast(result, b.val.dtype)


def _kernel(
    x: Any,
    weight: Any,
    shape: Sequence[Any],
    stride: Sequence[int],
    padding: Sequence[Any],
    dilation: Sequence[int],
    groups: int,
    work: str,
) -> Any:
    padded = _padded(x, padding)
    outputs = T.tirx.floordiv(shape[1], groups)
    inputs = weight.shape[1]

    def element(n: Any, channel: Any, *at: Any) -> Any:
        axes = [T.te.reduce_axis((0, size), name=f"k{i}") for i, size in enumerate(weight.shape[1:])]
        source = [i * s + k * d for i, k, s, d in zip(at, axes[1:], stride, dilation, strict=True)]
        first = T.tirx.floordiv(channel, outputs) * inputs if groups > 1 else 0
        value = convert(padded(n, first + axes[0], *source), work)
        return T.te.sum(value * convert(weight(channel, *axes), work), axis=axes)

    return T.te.compute(tuple(shape), element, name="conv")


def _transposed_kernel(
    x: Any,
    weight: Any,
    shape: Sequence[Any],
    stride: Sequence[int],
    padding: Sequence[Any],
    dilation: Sequence[int],
    groups: int,
    work: str,
) -> Any:
    """As a convolution, with the kernel turned round, of the input spread out by *stride*."""
    window = weight.shape[2:]
    outputs = weight.shape[1]
    inputs = T.tirx.floordiv(x.shape[1], groups)
    reach = [(k - 1) * d for k, d in zip(window, dilation, strict=True)]

    def spread_element(n: Any, channel: Any, *at: Any) -> Any:
        source, inside = [], []
        for i, size, r, p, s in zip(at, x.shape[2:], reach, padding, stride, strict=True):
            place = i + p - r
            inside += [place >= 0, T.tirx.floordiv(place, s) < size]
            if s != 1:
                inside.append(T.tirx.floormod(place, s) == 0)
            source.append(T.tirx.floordiv(place, s))
        zero = const(0, str(x.dtype))
        return T.tirx.if_then_else(T.tirx.all(*inside), x(n, channel, *source), zero)

    sizes = [size + r for size, r in zip(shape[2:], reach, strict=True)]
    spread = T.te.compute((shape[0], x.shape[1], *sizes), spread_element, name="spread")

    def element(n: Any, channel: Any, *at: Any) -> Any:
        axes = [T.te.reduce_axis((0, size), name=f"k{i}") for i, size in enumerate([inputs, *window])]
        turned = [size - 1 - k for size, k in zip(window, axes[1:], strict=True)]
        source = [i + k * d for i, k, d in zip(at, axes[1:], dilation, strict=True)]
        source_channel = T.tirx.floordiv(channel, outputs) * inputs + axes[0]
        factor = weight(source_channel, T.tirx.floormod(channel, outputs), *turned)
        value = convert(spread(n, source_channel, *source), work)
        return T.te.sum(value * convert(factor, work), axis=axes)

    return T.te.compute(tuple(shape), element, name="conv_transposed")


def _padded(x: Any, padding: Sequence[Any]) -> Any:
    """*x* with zeros around its spatial dims."""
    padded = [not is_static(p, 0) for p in padding]
    if not any(padded):
        return x

    def element(n: Any, channel: Any, *at: Any) -> Any:
        source = [i - p for i, p in zip(at, padding, strict=True)]
        inside = [
            condition
            for i, size, is_padded in zip(source, x.shape[2:], padded, strict=True)
            if is_padded
            for condition in (i >= 0, i < size)
        ]
        return T.tirx.if_then_else(T.tirx.all(*inside), x(n, channel, *source), const(0, str(x.dtype)))

    sizes = [size + 2 * p for size, p in zip(x.shape[2:], padding, strict=True)]
    return T.te.compute((*x.shape[:2], *sizes), element, name="padded")


def _each(sizes: Sequence[int], dims: int) -> list[int]:
    """One size for each spatial dim; torch lets a single one stand for all."""
    return [*sizes] * dims if len(sizes) == 1 else [*sizes]
