"""Operators that are others of ATen under another name: Python's, and short forms."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxpasses.passes.decompositions.table import decomposition
from fxpasses.rewrite import Editor

aten = torch.ops.aten


def _same_as(operator: OpOverload, spelled: OpOverload) -> None:
    @decomposition(operator)
    def row(g: Editor, self: fx.Node, other: Any) -> fx.Node:
        return g.call(spelled, self, other)


for _operator, _spelled in (
    (aten.__and__, aten.bitwise_and),
    (aten.__or__, aten.bitwise_or),
    (aten.__xor__, aten.bitwise_xor),
    (aten.__lshift__, aten.bitwise_left_shift),
    (aten.__rshift__, aten.bitwise_right_shift),
):
    _same_as(_operator.Tensor, _spelled.Tensor)
    if "Scalar" in _spelled.overloads():
        _same_as(_operator.Scalar, _spelled.Scalar)
_same_as(aten.min.other, aten.minimum.default)
_same_as(aten.max.other, aten.maximum.default)


@decomposition(aten.clamp_min.default)
def clamp_min(g: Editor, self: fx.Node, min: Any) -> fx.Node:
    return g.call(aten.clamp.default, self, min, None)


@decomposition(aten.clamp_max.default)
def clamp_max(g: Editor, self: fx.Node, max: Any) -> fx.Node:
    return g.call(aten.clamp.default, self, None, max)


@decomposition(aten.stack.default)
def stack(g: Editor, tensors: list[fx.Node], dim: int) -> fx.Node:
    return g.call(aten.cat.default, [g.call(aten.unsqueeze.default, value, dim) for value in tensors], dim)
