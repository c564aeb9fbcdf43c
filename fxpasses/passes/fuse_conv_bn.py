"""`fuse_conv_bn`: batch norm of inference folded into the convolution or linear before it."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.values import shape
from fxpasses.passes.normalize_kwargs import on_full_form
from fxpasses.rewrite import Editor, rewrite
from fxpasses.schema import bind

__all__ = ["fuse_conv_bn"]

aten = torch.ops.aten


@dataclass(frozen=True)
class _Producer:
    """Where a call keeps its weight and bias; how its weight is laid out."""

    weight: int
    bias: int
    transposed: Any = False  # a bool, or the position of the argument
    groups: int | None = None


_PRODUCERS = {
    aten.convolution.default: _Producer(weight=1, bias=2, transposed=6, groups=8),
    aten.conv1d.default: _Producer(1, 2, False, 6),
    aten.conv2d.default: _Producer(1, 2, False, 6),
    aten.conv3d.default: _Producer(1, 2, False, 6),
    aten.conv_transpose1d.default: _Producer(1, 2, True, 6),
    aten.conv_transpose2d.input: _Producer(1, 2, True, 6),
    aten.conv_transpose3d.input: _Producer(1, 2, True, 6),
    aten.linear.default: _Producer(1, 2),
    aten.addmm.default: _Producer(weight=2, bias=0),
    aten.mm.default: _Producer(weight=1, bias=-1),
}


@on_full_form
@rewrite(aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default)
def fuse_conv_bn(g: Editor, node: fx.Node) -> Any:
    """Fold batch norm with running statistics into the weights of what it follows.

    Producers are convolutions of 1 to 3 dims (grouped and transposed ones too)
    and linear layers. Left alone: a producer with other users, weights that are
    shared, computed, mutated or inputs, and batch norm in training mode. The new
    weights are computed in float64.
    """
    args, _ = bind(node.target, node.args, node.kwargs)  # type: ignore[arg-type]
    input, gamma, beta, mean, var = args[:5]
    multiple = node.target is aten._native_batch_norm_legit_no_training.default
    eps = args[6] if multiple else args[7]
    if not multiple and args[5]:
        return None
    if multiple and any(
        user.target is not operator.getitem or (user.args[1] != 0 and user.users) for user in node.users
    ):
        return None
    producer = _PRODUCERS.get(input.target)
    if producer is None or len(input.users) != 1:
        return None
    statistics = [None if t is None else g.tensor(t) for t in (gamma, beta, mean, var)]
    if mean is None or var is None:
        return None
    if any(
        value is None
        for value, given in zip(statistics, (gamma, beta, mean, var), strict=True)
        if given is not None
    ):
        return None
    fused = _fused_call(g, input, producer, statistics, float(eps))
    if fused is None:
        return None
    return (fused,) if multiple else fused


def _fused_call(
    g: Editor, call: fx.Node, producer: _Producer, statistics: list[Any], eps: float
) -> fx.Node | None:
    args, kwargs = bind(call.target, call.args, call.kwargs)  # type: ignore[arg-type]
    if kwargs and any(value != 1 for value in kwargs.values()):
        return None  # addmm with beta or alpha
    weight_node = args[producer.weight]
    permuted = weight_node.target is aten.permute.default and weight_node.args[1] == [1, 0]
    holder = weight_node.args[0] if permuted else weight_node
    weight = g.tensor(holder)
    if weight is None or len(holder.users) != 1 or len(weight_node.users) != 1:
        return None
    bias_node = args[producer.bias] if producer.bias >= 0 else None
    bias = None if bias_node is None else g.tensor(bias_node)
    if bias_node is not None and (bias is None or bias.dim() != 1 or len(bias_node.users) != 1):
        return None
    # The axis of the weight that counts the channels of the result.
    matrix = call.target in (aten.addmm.default, aten.mm.default)
    transposed = (
        args[producer.transposed] if producer.transposed not in (True, False) else producer.transposed
    )
    groups = args[producer.groups] if producer.groups is not None else 1
    gamma, beta, mean, var = (None if t is None else t.detach().double() for t in statistics)
    assert mean is not None
    assert var is not None
    scale = torch.rsqrt(var + eps) * (1 if gamma is None else gamma)
    if shape(call)[1:2] != [scale.numel()]:
        return None
    wide = weight.detach().double()
    if transposed:
        # [in, out / groups, ...]: group k of the inputs makes group k of the results
        per_group = wide.reshape(groups, wide.shape[0] // groups, *wide.shape[1:])
        factor = scale.reshape(groups, 1, wide.shape[1], *[1] * (wide.dim() - 2))
        wide = (per_group * factor).reshape(wide.shape)
    elif matrix and not permuted:
        wide = wide * scale
    else:
        wide = wide * scale.reshape(-1, *[1] * (wide.dim() - 1))
    shift = (0 if bias is None else bias.detach().double()) - mean
    shift = shift * scale + (0 if beta is None else beta)
    name = holder.meta["role"].target
    bias_name = bias_node.meta["role"].target if bias_node is not None else name.rpartition(".")[0] + ".bias"
    new_weight = g.constant(wide.to(weight.dtype), f"{name}_fused", "param")
    new_bias = g.constant(shift.to(weight.dtype), f"{bias_name}_fused".lstrip("."), "param")
    if permuted:
        new_weight = g.call(aten.permute.default, new_weight, [1, 0])
    if matrix:
        flat = args[1] if call.target is aten.addmm.default else args[0]
        return g.call(aten.addmm.default, new_bias, flat, new_weight)
    new_args = list(args)
    new_args[producer.weight], new_args[producer.bias] = new_weight, new_bias
    return g.call(call.target, *new_args)
