"""Convolution and pooling of images laid out [N, H, W, C]: see `fxpasses.dialect.channels_last`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import fxpasses.dialect  # noqa: F401  (registers the operators)
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import WITH_TAIL, const, is_static, lowest
from fxpasses.relax.table import lowering

dialect = torch.ops.fxpasses


@lowering(dialect.conv_channels_last.default)
def conv(
    b: Any, input: Any, weight: Any, stride: Any, padding: Any, dilation: Any, groups: Any, channels: Any
) -> Any:
    def kernel(x: Any, packed: Any, shape: Any) -> Any:
        tirx = T.tirx
        dtype = str(x.dtype)
        if any(is_static(size, 0) for size in x.shape):
            return T.te.compute(tuple(shape), lambda *_: const(0, dtype), name="conv")
        blocks, *window, inputs, width = packed.shape
        taps = [T.te.reduce_axis((0, size), name="k") for size in window]
        inner = None if is_static(inputs, 1) else T.te.reduce_axis((0, inputs), name="i")
        filled = int(blocks) * int(width)
        outputs = channels // groups
        # A channel of the image for each channel that fills up the weight, where each has one of its own.
        spare = filled - channels if groups == channels else 0
        padded = bordered(x, padding, const(0, dtype), channels=spare)

        def element(n: Any, *at: Any) -> Any:
            *places, o = at
            channel = tirx.IntImm("int64", 0) if inner is None else inner
            source = [i * s + k * d for i, s, k, d in zip(places, stride, taps, dilation, strict=True)]
            first = tirx.floordiv(o, outputs) * inputs if groups > 1 else 0
            value = padded(n, *source, first + channel)
            factor = packed(tirx.floordiv(o, width), *taps, channel, tirx.floormod(o, width))
            return T.te.sum(value * factor, axis=taps if inner is None else [*taps, inner])

        result = T.te.compute((*shape[:-1], filled), element, name="conv")
        return (
            result
            if filled == channels
            else T.te.compute(tuple(shape), lambda *at: result(*at), name="channels")
        )

    return b.te(kernel, input, weight, b.shape(b.val), primfunc_attrs=WITH_TAIL)


@lowering(dialect.max_pool2d_channels_last.default)
def max_pool2d(
    b: Any, input: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any
) -> Any:
    def kernel(x: Any, shape: Any) -> Any:
        te, tirx = T.te, T.tirx
        dtype = str(x.dtype)
        greatest = te.comm_reducer(
            lambda old, new: tirx.Select(tirx.any(new > old, tirx.isnan(new)), new, old),
            lambda _: lowest(dtype),
            name="greatest",
        )
        # A window that sticks out, as with ceil_mode, sees the border on the far side.
        border = []
        for size, result, k, s, p, d in zip(
            x.shape[1:3], shape[1:3], kernel_size, stride, padding, dilation, strict=True
        ):
            border += [p, b.analyzer.simplify((result - 1) * s + (k - 1) * d + 1 - size - p)]
        padded = bordered(x, border, lowest(dtype))
        down, across = (te.reduce_axis((0, size), name="k") for size in kernel_size)

        def element(n: Any, i: Any, j: Any, c: Any) -> Any:
            value = padded(n, i * stride[0] + down * dilation[0], j * stride[1] + across * dilation[1], c)
            return greatest(value, axis=[down, across])

        return te.compute(tuple(shape), element, name="max_pool")

    return b.te(kernel, input, b.shape(b.val))


def bordered(x: Any, border: Sequence[Any], value: Any, *, channels: int = 0) -> Any:
    """*x* [N, *size, C] with *value* around it: before and after each size, and so many *channels* behind."""
    if all(isinstance(size, int) and size == 0 for size in (*border, channels)):
        return x
    tirx = T.tirx
    batch, *sizes, known = x.shape
    before = border[::2]

    def element(n: Any, *at: Any) -> Any:
        *places, c = at
        source = [i - first for i, first in zip(places, before, strict=True)]
        inside = [
            condition for i, size in zip(source, sizes, strict=True) for condition in (i >= 0, i < size)
        ]
        if channels:
            inside.append(c < known)
        return tirx.if_then_else(tirx.all(*inside), x(n, *source, c), value)

    around = [size + first + last for size, first, last in zip(sizes, before, border[1::2], strict=True)]
    return T.te.compute((batch, *around, known + channels), element, name="padded")
