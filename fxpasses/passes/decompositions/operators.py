"""Python operators that have an operator of their own in ATen."""

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
