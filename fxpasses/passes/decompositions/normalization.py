"""Normalisation layers of inference."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import first, shape
from fxpasses.rewrite import Editor

aten = torch.ops.aten


@decomposition(aten.batch_norm.default)
def batch_norm(
    g: Editor,
    input: fx.Node,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Any:
    if training and running_mean is None and running_var is None:
        normed = g.call(aten._native_batch_norm_legit.no_stats, input, weight, bias, training, momentum, eps)
        return first(g, normed)
    if training or running_mean is None or running_var is None:
        return None
    normed = g.call(
        aten._native_batch_norm_legit_no_training.default,
        input,
        weight,
        bias,
        running_mean,
        running_var,
        momentum,
        eps,
    )
    return first(g, normed)


@decomposition(aten._native_batch_norm_legit_functional.default)
def batch_norm_of_statistics(
    g: Editor,
    input: fx.Node,
    weight: Any,
    bias: Any,
    running_mean: fx.Node,
    running_var: fx.Node,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    if training:
        return None
    normed = g.call(
        aten._native_batch_norm_legit_no_training.default,
        *(input, weight, bias, running_mean, running_var, momentum, eps),
    )
    return (*(g.call(operator.getitem, normed, result) for result in range(3)), running_mean, running_var)


@decomposition(aten.layer_norm.default)
def layer_norm(
    g: Editor, input: fx.Node, normalized_shape: Any, weight: Any, bias: Any, eps: float, cudnn_enable: bool
) -> fx.Node:
    return first(g, g.call(aten.native_layer_norm.default, input, normalized_shape, weight, bias, eps))


@decomposition(aten.group_norm.default)
def group_norm(
    g: Editor, input: fx.Node, num_groups: int, weight: Any, bias: Any, eps: float, cudnn_enabled: bool
) -> fx.Node:
    n, c, *spatial = shape(input)
    return first(
        g,
        g.call(
            aten.native_group_norm.default, input, weight, bias, n, c, math.prod(spatial), num_groups, eps
        ),
    )
