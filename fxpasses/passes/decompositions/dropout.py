"""Dropout and random slopes, which inference does not do."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import shape
from fxpasses.rewrite import Editor

aten = torch.ops.aten


@decomposition(
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
)
def dropout(g: Editor, input: fx.Node, p: float, train: bool) -> Any:
    return input if not train or p == 0 else None


@decomposition(aten.native_dropout.default)
def native_dropout(g: Editor, input: fx.Node, p: float, train: bool | None) -> Any:
    if train or train is None:
        return None
    ones = g.call(aten.full.default, shape(input), True, dtype=torch.bool)
    return (input, ones)


@decomposition(aten.rrelu_with_noise_functional.default)
def rrelu_with_noise(
    g: Editor, self: fx.Node, noise: fx.Node, lower: float, upper: float, training: bool, generator: Any
) -> Any:
    if training:
        return None
    return (g.call(aten.leaky_relu.default, self, (lower + upper) / 2), noise)
