"""`ChannelsLast`: convolutions and what lies between them on signals, images and volumes laid out [N, *size, C]."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._prims_common import get_computation_dtype

from fxpasses.dialect.channels_last import pack_weight, packed_width
from fxpasses.passes.decompositions.values import cast, shape
from fxpasses.passes.normalize_dims import normalize_dims
from fxpasses.passes.subpixel import shuffle, subpixel
from fxpasses.program import Program
from fxpasses.rewrite import Editor
from fxpasses.schema import is_pointwise

__all__ = ["ChannelsLast", "channels_last"]

aten = torch.ops.aten
dialect = torch.ops.fxpasses

# The permutations by rank: of signals, images and volumes.
_TO_LAST = {3: [0, 2, 1], 4: [0, 2, 3, 1], 5: [0, 2, 3, 4, 1]}
_FROM_LAST = {3: [0, 2, 1], 4: [0, 3, 1, 2], 5: [0, 4, 1, 2, 3]}


@dataclass(frozen=True)
class ChannelsLast:
    """Write convolutions as `conv_channels_last` of packed weights, and move permutations out of the way.

    A convolution becomes one between two permutations. The one behind it is
    moved past each pointwise call, mean, pooling, concatenation and padding
    that can work on the other layout as well, until it meets the one before the
    next convolution, and both go. Zero padding goes into the convolution.

    A transposed convolution makes the pixels of a stride as channels of one pixel.

    Left as they are: computed weights, half types, groups of fewer channels than
    a vector has room for, and outputs of so few where rows of pixels fill vectors
    better.

    Args:
        vector_bytes: the size of a vector register of the target.
    """

    vector_bytes: int = 64
    __name__ = "channels_last"

    def __call__(self, program: Program) -> Program:
        if not any(node.target is aten.convolution.default for node in program.graph.nodes):
            return program
        g = normalize_dims(program).edit()  # the rules read arguments by position, and dims from the front
        for node in list(g.graph.nodes):
            if node.op != "call_function" or node._erased:
                continue
            with g.at(node):
                value = self._rewritten(g, node)
                if value is not None:
                    g.replace(node, value)
        return g.finish()

    def _rewritten(self, g: Editor, node: fx.Node) -> Any:
        if node.target is aten.convolution.default:
            return _convolution(g, node, self.vector_bytes)
        rule = _MOVES.get(node.target)
        if rule is not None:
            return rule(g, node)
        return _pointwise(g, node) if is_pointwise(node.target) else None


channels_last = ChannelsLast()
"""`ChannelsLast` for vectors of 64 bytes."""


def _inside(value: Any) -> fx.Node | None:
    """The image with its channels last that *value* is a view of."""
    if isinstance(value, fx.Node) and value.target is aten.permute.default:
        image, dims = value.args
        return image if dims == _FROM_LAST.get(len(dims)) else None  # type: ignore[return-value, arg-type]
    return None


def _to_last(g: Editor, value: fx.Node) -> fx.Node:
    return _inside(value) or g.call(aten.permute.default, value, _TO_LAST[len(shape(value))])


def _from_last(g: Editor, value: fx.Node) -> fx.Node:
    return g.call(aten.permute.default, value, _FROM_LAST[len(shape(value))])


# -- convolutions ------------------------------------------------------------------------


def _convolution(g: Editor, node: fx.Node, vector_bytes: int) -> Any:
    image, weight_node, bias, stride, padding, dilation, transposed, _, groups = node.args
    weight = g.tensor(weight_node)
    if weight is None or weight.dim() not in _TO_LAST or weight.dim() != len(shape(image)):
        return None
    if weight.dtype not in (torch.float32, torch.float64) or 0 in weight.shape:
        return None
    if transposed:
        return _transposed(g, node, weight, vector_bytes)
    dims = weight.dim() - 2
    lanes = vector_bytes // weight.dtype.itemsize
    outputs = weight.shape[0]
    depthwise = groups == outputs and weight.shape[1] == 1
    if groups != 1 and not depthwise and outputs // groups % lanes:
        return None
    along_rows = _each(stride, dims)[-1] == 1 or _has_whole_vectors(shape(node)[-1], lanes)
    if outputs < lanes // 2 and along_rows:
        return None
    both = [size for size in _each(padding, dims) for _ in range(2)]
    image, border = _without_padding(_to_last(g, image))  # type: ignore[arg-type]
    both = [a + b for a, b in zip(both, border, strict=True)]
    options = (_each(stride, dims), both, _each(dilation, dims), groups, outputs)
    result = g.call(
        dialect.conv_channels_last.default, image, _packed(g, weight_node, weight, lanes), *options
    )
    if bias is not None:
        result = g.call(aten.add.Tensor, result, bias)
    return _from_last(g, result)


def _has_whole_vectors(width: Any, lanes: int) -> bool:
    """Whether rows of so many pixels divide into vectors of more than half of the *lanes*."""
    return isinstance(width, int) and any(width % size == 0 for size in range(lanes // 2 + 1, lanes + 1))


def _packed(g: Editor, node: Any, weight: torch.Tensor, lanes: int) -> fx.Node:
    """The packed *weight*, made of the tensor that *node* reads."""
    packed = pack_weight(weight.detach(), packed_width(weight.shape[0], lanes))
    return g.constant(packed, f"{node.meta['role'].target}_packed", "param")


def _transposed(g: Editor, node: fx.Node, weight: torch.Tensor, vector_bytes: int) -> Any:
    """A convolution whose channels are the pixels of a stride, which are put in their places then."""
    image, weight_node, bias, stride, padding, dilation, _, output_padding, groups = node.args
    dims, size = weight.dim() - 2, shape(node)[2:]
    stride, padding, more, dilation = (
        _each(sizes, dims) for sizes in (stride, padding, output_padding, dilation)
    )
    lanes = vector_bytes // weight.dtype.itemsize
    if groups != 1 and math.prod(stride) * weight.shape[1] % lanes:
        return None
    parts = subpixel(weight.detach(), stride, padding, more, dilation, groups)
    if parts is None:
        return None
    packed = _packed(g, weight_node, parts.weight, lanes)
    options = ([1] * dims, parts.border, parts.dilation, groups, parts.weight.shape[0])
    result = g.call(dialect.conv_channels_last.default, _to_last(g, image), packed, *options)  # type: ignore[arg-type]
    result = shuffle(g, result, stride, padding, size, groups)
    if bias is not None:
        result = g.call(aten.add.Tensor, result, bias)
    return _from_last(g, result)


def _each(sizes: Any, dims: int) -> list[int]:
    return [*sizes] * dims if len(sizes) == 1 else [*sizes]


def _without_padding(image: fx.Node) -> tuple[fx.Node, list[int]]:
    """What *image* is before zeros are put around it, and how many: before and after each dim of a pixel's place."""
    rank = len(shape(image))
    if image.target is aten.constant_pad_nd.default and image.args[2] == 0:
        sizes: Any = [*image.args[1], *[0] * 2 * rank][: 2 * rank]  # type: ignore[misc]
        channels, *places, batch = [sizes[i : i + 2] for i in range(0, 2 * rank, 2)]
        border = [size for place in reversed(places) for size in place]
        if not any(channels) and not any(batch) and min(border) >= 0:
            return image.args[0], border  # type: ignore[return-value]
    return image, [0] * 2 * (rank - 2)


# -- moving a permutation behind the call that reads it -------------------------------------


def _pointwise(g: Editor, node: fx.Node) -> Any:
    """All operands of full rank in the other layout; those along one axis at most are permuted themselves."""
    val = node.meta["val"]
    if not isinstance(val, torch.Tensor) or val.dim() not in _TO_LAST:
        return None
    operands = [arg for arg in node.all_input_nodes if isinstance(arg.meta["val"], torch.Tensor)]
    if not any(_inside(operand) is not None for operand in operands):
        return None
    moved: dict[fx.Node, fx.Node] = {}
    for operand in operands:
        sizes = shape(operand)
        inside = _inside(operand)
        if inside is not None:
            moved[operand] = inside
        elif len(sizes) == val.dim() and sum(size != 1 for size in sizes) <= 1:
            moved[operand] = g.call(aten.permute.default, operand, _TO_LAST[val.dim()])
        elif len(sizes) and any(size != 1 for size in sizes):
            return None
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda arg: moved.get(arg, arg))
    return _from_last(g, g.call(node.target, *args, **kwargs))


def _mean(g: Editor, node: fx.Node) -> Any:
    inside = _inside(node.args[0])
    dims = node.args[1]
    if inside is None or not dims:
        return None
    rank = len(shape(inside))
    kept, moved = node.args[2], [_FROM_LAST[rank][dim] for dim in dims]  # type: ignore[union-attr]
    if not kept and moved != [*range(1, rank - 1)]:
        return None
    result = g.call(node.target, inside, moved, kept, **node.kwargs)
    return _from_last(g, result) if kept else result


def _max_pool(g: Editor, node: fx.Node) -> Any:
    inside = _inside(node.args[0])
    indices_used = any(user.target is operator.getitem and user.args[1] != 0 for user in node.users)
    if inside is None or len(shape(inside)) != 4 or indices_used:
        return None
    dtype = inside.meta["val"].dtype
    if not dtype.is_floating_point:
        return None
    window, stride, padding, dilation, ceil_mode = node.args[1:]
    sizes = [_each(value, 2) for value in (window, stride or window, padding, dilation)]
    wide = cast(g, inside, get_computation_dtype(dtype))  # no reducer has a half type
    result = g.call(dialect.max_pool2d_channels_last.default, wide, *sizes, ceil_mode)
    return (_from_last(g, cast(g, result, dtype)),)


def _avg_pool(g: Editor, node: fx.Node) -> Any:
    """The mean of all pixels, as networks spell it whose last layer is fully convolutional."""
    inside = _inside(node.args[0])
    if inside is None or len(shape(inside)) != 4:
        return None
    window, _, padding, _, _, divisor = node.args[1:]
    size = shape(inside)[1:3]
    if shape(node)[2:] != [1, 1] or any(padding) or divisor is not None:  # type: ignore[arg-type]
        return None
    if not all(isinstance(n, int) and n <= k for n, k in zip(size, _each(window, 2), strict=True)):
        return None
    return _from_last(g, g.call(aten.mean.dim, inside, [1, 2], True))


def _cat(g: Editor, node: fx.Node) -> Any:
    insides = [_inside(value) for value in node.args[0]]  # type: ignore[union-attr]
    if any(inside is None for inside in insides):
        return None
    dim = _FROM_LAST[len(shape(insides[0]))][node.args[1]]  # type: ignore[arg-type, index]
    return _from_last(g, g.call(node.target, insides, dim))


def _pad(g: Editor, node: fx.Node) -> Any:
    inside = _inside(node.args[0])
    sizes = node.args[1]
    if inside is None or len(sizes) > 2 * len(shape(inside)) - 4:  # type: ignore[arg-type]
        return None
    return _from_last(g, g.call(node.target, inside, [0, 0, *sizes], node.args[2]))  # type: ignore[misc]


def _permute(g: Editor, node: fx.Node) -> Any:
    """Two permutations are one, or none."""
    inner, dims = node.args
    if inner.target is not aten.permute.default:  # type: ignore[union-attr]
        return None
    source, first = inner.args  # type: ignore[union-attr]
    both = [first[dim] for dim in dims]  # type: ignore[union-attr]
    if both == sorted(both):
        return source
    return g.call(aten.permute.default, source, both)


def _reshape(g: Editor, node: fx.Node) -> Any:
    """A reshape of an image of one pixel does not see its layout."""
    inside = _inside(node.args[0])
    if inside is None or any(size != 1 for size in shape(inside)[1:-1]):
        return None
    return g.call(node.target, inside, node.args[1])


_MOVES: dict[Any, Callable[[Editor, fx.Node], Any]] = {
    aten._to_copy.default: _pointwise,
    aten.avg_pool2d.default: _avg_pool,
    aten.cat.default: _cat,
    aten.constant_pad_nd.default: _pad,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.mean.dim: _mean,
    aten.permute.default: _permute,
    aten.reshape.default: _reshape,
}
