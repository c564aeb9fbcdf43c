"""Convolutions of every rank as `aten.convolution`."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import shape
from fxpasses.rewrite import Editor

aten = torch.ops.aten


def _convolution(
    g: Editor,
    input: fx.Node,
    weight: fx.Node,
    bias: fx.Node | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    rank: int,
    transposed: bool = False,
    output_padding: Any = (0,),
    border: Any = (),
) -> fx.Node:
    """*border* is what `constant_pad_nd` puts around the image before."""

    def full(values: Any) -> list[int]:
        values = list(values)
        return values * rank if len(values) == 1 else values

    single = input.meta["val"].dim() == rank + 1
    if single:
        input = g.call(aten.unsqueeze.default, input, 0)
    if any(not isinstance(side, int) or side for side in border):
        input = g.call(aten.constant_pad_nd.default, input, border)
    result = g.call(
        aten.convolution.default,
        input,
        weight,
        bias,
        full(stride),
        full(padding),
        full(dilation),
        transposed,
        full(output_padding),
        groups,
    )
    return g.call(aten.squeeze.dims, result, [0]) if single else result


def _conv(op: OpOverload, rank: int) -> None:
    @decomposition(op)
    def conv(
        g: Editor,
        input: fx.Node,
        weight: fx.Node,
        bias: fx.Node | None,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
    ) -> fx.Node:
        return _convolution(g, input, weight, bias, stride, padding, dilation, groups, rank)


def _conv_named(op: OpOverload, rank: int) -> None:
    @decomposition(op)
    def conv(
        g: Editor,
        input: fx.Node,
        weight: fx.Node,
        bias: fx.Node | None,
        stride: Any,
        padding: str,
        dilation: Any,
        groups: int,
    ) -> fx.Node:
        window = shape(weight)[2:]
        steps = list(dilation) * (rank if len(dilation) == 1 else 1)
        if padding == "valid":
            window = [1] * rank
        sums = [step * (size - 1) for step, size in zip(steps, window, strict=True)]
        # Half on each side; what is left goes behind the image.
        halves = [total // 2 for total in sums]
        rests = [total - 2 * half for total, half in zip(sums, halves, strict=True)]
        border = [side for rest in reversed(rests) for side in (0, rest)]
        return _convolution(g, input, weight, bias, stride, halves, dilation, groups, rank, border=border)


def _conv_transpose(op: OpOverload, rank: int) -> None:
    @decomposition(op)
    def conv_transpose(
        g: Editor,
        input: fx.Node,
        weight: fx.Node,
        bias: fx.Node | None,
        stride: Any,
        padding: Any,
        output_padding: Any,
        groups: int,
        dilation: Any,
    ) -> fx.Node:
        return _convolution(
            g, input, weight, bias, stride, padding, dilation, groups, rank, True, output_padding
        )


for _rank, _op in enumerate((aten.conv1d.default, aten.conv2d.default, aten.conv3d.default), 1):
    _conv(_op, _rank)
for _rank, _op in enumerate((aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding), 1):
    _conv_named(_op, _rank)
for _rank, _op in enumerate(
    (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input), 1
):
    _conv_transpose(_op, _rank)
