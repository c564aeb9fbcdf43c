"""Our own decompositions: functions shaped like operator schemas, as lowerings are.

They stand in the place of torch's where torch's form depends on strides (matmul,
linear), where a canonical spelling exists (views, splits, casts), and for the
operators that every model calls many times. A row may return None to leave a
call to torch's decomposition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxpasses.errors import FxpassesError, source_line
from fxpasses.relax.table import check_signature
from fxpasses.rewrite import Editor

__all__ = ["DECOMPOSITIONS", "decomposition"]

aten = torch.ops.aten
Row = Callable[..., Any]

_ROWS: dict[OpOverload, Row] = {}
DECOMPOSITIONS: Mapping[OpOverload, Row] = _ROWS


def decomposition(*ops: OpOverload) -> Callable[[Row], Row]:
    """Decorator: enter a function ``(g, *schema arguments) -> value``."""

    def enter(function: Row) -> Row:
        for op in ops:
            check_signature(op, function)
            _ROWS[op] = function
        return function

    return enter


def shape(node: fx.Node) -> list[Any]:
    """The sizes of a value, ints and SymInts."""
    return list(node.meta["val"].shape)


def reshape(g: Editor, node: fx.Node, sizes: Sequence[Any]) -> fx.Node:
    """*node* in another shape; itself where it has it."""
    from fxpasses.rewrite import same_size

    now = shape(node)
    if len(now) == len(sizes) and all(map(same_size, now, sizes)):
        return node
    return g.call(aten.reshape.default, node, list(sizes))


def _here(g: Editor) -> str:
    node = g._anchor
    return (source_line(node) if node is not None else None) or "no source line"


# -- matrix products: one form, whatever the strides ----------------------------------


@decomposition(aten.linear.default)
def linear(g: Editor, input: fx.Node, weight: fx.Node, bias: fx.Node | None) -> fx.Node:
    if weight.meta["val"].dim() == 1:
        weight = g.call(aten.unsqueeze.default, weight, 0)
        return reshape(g, linear(g, input, weight, bias), shape(input)[:-1])
    matrix = g.call(aten.permute.default, weight, [1, 0])
    flat = reshape(g, input, [math.prod(shape(input)[:-1]), shape(input)[-1]])
    if bias is None:
        product = g.call(aten.mm.default, flat, matrix)
    else:
        product = g.call(aten.addmm.default, bias, flat, matrix)
    return reshape(g, product, [*shape(input)[:-1], shape(matrix)[1]])


@decomposition(aten.matmul.default)
def matmul(g: Editor, self: fx.Node, other: fx.Node) -> fx.Node:
    left, right = shape(self), shape(other)
    if len(left) == 0 or len(right) == 0:
        raise FxpassesError(f"matmul of a 0-d tensor ({_here(g)}); multiply instead")
    if len(left) == 1:
        product = matmul(g, reshape(g, self, [1, *left]), other)
        sizes = shape(product)
        return reshape(g, product, sizes[:-2] + sizes[-1:] if len(right) > 1 else [])
    if len(right) == 1:
        product = matmul(g, self, reshape(g, other, [*right, 1]))
        return reshape(g, product, shape(product)[:-1])
    if len(right) == 2:
        flat = reshape(g, self, [math.prod(left[:-1]), left[-1]])
        return reshape(g, g.call(aten.mm.default, flat, other), [*left[:-1], right[-1]])
    batch = list(torch.broadcast_shapes(tuple(left[:-2]), tuple(right[:-2])))
    a = reshape(g, expand(g, self, batch + left[-2:]), [math.prod(batch), *left[-2:]])
    c = reshape(g, expand(g, other, batch + right[-2:]), [math.prod(batch), *right[-2:]])
    return reshape(g, g.call(aten.bmm.default, a, c), [*batch, left[-2], right[-1]])


def expand(g: Editor, node: fx.Node, sizes: Sequence[Any]) -> fx.Node:
    """*node* expanded to *sizes*; itself where it has them."""
    from fxpasses.rewrite import same_size

    now = shape(node)
    if len(now) == len(sizes) and all(map(same_size, now, sizes)):
        return node
    return g.call(aten.expand.default, node, list(sizes))


@decomposition(aten.mv.default)
def mv(g: Editor, self: fx.Node, vec: fx.Node) -> fx.Node:
    return matmul(g, self, vec)


@decomposition(aten.dot.default)
def dot(g: Editor, self: fx.Node, tensor: fx.Node) -> fx.Node:
    return matmul(g, self, tensor)


@decomposition(aten.addmm.default)
def addmm(g: Editor, self: fx.Node, mat1: fx.Node, mat2: fx.Node, *, beta: Any, alpha: Any) -> Any:
    if beta == 1 and alpha == 1:
        return None
    if beta == 0:
        return _scaled(g, g.call(aten.mm.default, mat1, mat2), alpha)
    product = _scaled(g, g.call(aten.mm.default, mat1, mat2), alpha)
    return g.call(aten.add.Tensor, product, _scaled(g, self, beta))


@decomposition(aten.baddbmm.default)
def baddbmm(g: Editor, self: fx.Node, batch1: fx.Node, batch2: fx.Node, *, beta: Any, alpha: Any) -> fx.Node:
    product = _scaled(g, g.call(aten.bmm.default, batch1, batch2), alpha)
    return product if beta == 0 else g.call(aten.add.Tensor, product, _scaled(g, self, beta))


def _scaled(g: Editor, node: fx.Node, factor: Any) -> fx.Node:
    return node if factor == 1 else g.call(aten.mul.Scalar, node, factor)


# -- convolution and normalisation ------------------------------------------------------


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
) -> fx.Node:
    def full(values: Any) -> list[int]:
        values = list(values)
        return values * rank if len(values) == 1 else values

    single = input.meta["val"].dim() == rank + 1
    if single:
        input = g.call(aten.unsqueeze.default, input, 0)
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
for _rank, _op in enumerate(
    (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input), 1
):
    _conv_transpose(_op, _rank)


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


def first(g: Editor, node: fx.Node) -> fx.Node:
    """Result 0 of a call with several results."""
    import operator

    return g.call(operator.getitem, node, 0)


@decomposition(aten.max_pool2d.default)
def max_pool2d(
    g: Editor, self: fx.Node, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> fx.Node:
    def full(values: Any) -> list[int]:
        values = list(values)
        return values * 2 if len(values) == 1 else values

    kernel = full(kernel_size)
    return first(
        g,
        g.call(
            aten.max_pool2d_with_indices.default,
            self,
            kernel,
            full(stride) if stride else kernel,
            full(padding),
            full(dilation),
            ceil_mode,
        ),
    )


# -- what inference does not do -----------------------------------------------------------


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


# -- views: reshape, permute, slice and select ----------------------------------------------


@decomposition(aten.view.default, aten._unsafe_view.default)
def view(g: Editor, self: fx.Node, size: Any) -> fx.Node:
    return g.call(aten.reshape.default, self, size)


@decomposition(aten.view_copy.default)
def view_copy(g: Editor, self: fx.Node, size: Any) -> fx.Node:
    return g.call(aten.reshape.default, self, size)


@decomposition(aten._reshape_alias.default)
def _reshape_alias(g: Editor, self: fx.Node, size: Any, stride: Any) -> fx.Node:
    return g.call(aten.reshape.default, self, size)


@decomposition(aten.view_as.default, aten.reshape_as.default)
def view_as(g: Editor, self: fx.Node, other: fx.Node) -> fx.Node:
    return reshape(g, self, shape(other))


@decomposition(aten.expand_as.default)
def expand_as(g: Editor, self: fx.Node, other: fx.Node) -> fx.Node:
    return expand(g, self, shape(other))


@decomposition(aten.flatten.using_ints)
def flatten(g: Editor, self: fx.Node, start_dim: int, end_dim: int) -> fx.Node:
    sizes = shape(self)
    if not sizes:
        return reshape(g, self, [1])
    start, end = start_dim % len(sizes), end_dim % len(sizes)
    return reshape(g, self, [*sizes[:start], math.prod(sizes[start : end + 1]), *sizes[end + 1 :]])


@decomposition(aten.t.default, aten.numpy_T.default)
def t(g: Editor, self: fx.Node) -> fx.Node:
    return g.call(aten.permute.default, self, list(range(self.meta["val"].dim()))[::-1])


@decomposition(aten.mT.default)
def m_t(g: Editor, self: fx.Node) -> fx.Node:
    return transpose(g, self, -2, -1)


@decomposition(aten.transpose.int, aten.transpose_copy.int)
def transpose(g: Editor, self: fx.Node, dim0: int, dim1: int) -> fx.Node:
    dims = list(range(self.meta["val"].dim()))
    if not dims:
        return self
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return g.call(aten.permute.default, self, dims)


@decomposition(aten.squeeze.default)
def squeeze(g: Editor, self: fx.Node) -> fx.Node:
    ones = [i for i, size in enumerate(shape(self)) if isinstance(size, int) and size == 1]
    return g.call(aten.squeeze.dims, self, ones)


@decomposition(aten.squeeze.dim)
def squeeze_dim(g: Editor, self: fx.Node, dim: int) -> fx.Node:
    return g.call(aten.squeeze.dims, self, [dim])


def _sections(g: Editor, self: fx.Node, sizes: Sequence[Any], dim: int) -> tuple[fx.Node, ...]:
    start, parts = 0, []
    for size in sizes:
        parts.append(g.call(aten.slice.Tensor, self, dim, start, start + size, 1))
        start = start + size
    return tuple(parts)


@decomposition(aten.split.Tensor)
def split(g: Editor, self: fx.Node, split_size: int, dim: int) -> Any:
    return _equal_sections(g, self, split_size, dim)


def _equal_sections(g: Editor, self: fx.Node, size: int, dim: int) -> Any:
    whole = shape(self)[dim]
    if not isinstance(whole, int) or not isinstance(size, int):
        return None
    if size == 0:
        return (self,)
    return _sections(g, self, [min(size, whole - i) for i in range(0, whole, size)] or [0], dim)


@decomposition(aten.chunk.default)
def chunk(g: Editor, self: fx.Node, chunks: int, dim: int) -> Any:
    whole = shape(self)[dim]
    if not isinstance(whole, int) or whole == 0:
        return None
    return _equal_sections(g, self, -(-whole // chunks), dim)


@decomposition(aten.split_with_sizes.default)
def split_with_sizes(g: Editor, self: fx.Node, split_sizes: Sequence[Any], dim: int) -> Any:
    sizes = [size.meta["val"] if isinstance(size, fx.Node) else size for size in split_sizes]
    return _sections(g, self, sizes, dim)


@decomposition(aten.split.sizes)
def split_sizes(g: Editor, self: fx.Node, split_size: Sequence[Any], dim: int) -> Any:
    return split_with_sizes(g, self, split_size, dim)


@decomposition(aten.unbind.int)
def unbind(g: Editor, self: fx.Node, dim: int) -> Any:
    whole = shape(self)[dim]
    if not isinstance(whole, int):
        return None
    return tuple(g.call(aten.select.int, self, dim, index) for index in range(whole))


# -- copies and casts ---------------------------------------------------------------------


@decomposition(
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh.default,
    aten.lift_fresh_copy.default,
    aten.resolve_conj.default,
    aten.resolve_neg.default,
    aten.lift.default,
    aten.alias_copy.default,
    aten.detach_copy.default,
    aten.positive.default,
)
def alias(g: Editor, self: fx.Node) -> fx.Node:
    return self


@decomposition(aten.clone.default, aten.contiguous.default)
def clone(g: Editor, self: fx.Node, *, memory_format: Any) -> fx.Node:
    return self


@decomposition(aten.copy.default)
def copy(g: Editor, self: fx.Node, src: fx.Node, non_blocking: bool) -> fx.Node:
    return _cast(g, expand(g, src, shape(self)), self.meta["val"].dtype)


def _cast(g: Editor, self: fx.Node, dtype: torch.dtype | None) -> fx.Node:
    if dtype is None or self.meta["val"].dtype == dtype:
        return self
    return g.call(aten._to_copy.default, self, dtype=dtype)


@decomposition(aten.to.dtype)
def to_dtype(
    g: Editor, self: fx.Node, dtype: torch.dtype, non_blocking: bool, copy: bool, memory_format: Any
) -> fx.Node:
    return _cast(g, self, dtype)


@decomposition(aten.to.dtype_layout)
def to_dtype_layout(
    g: Editor,
    self: fx.Node,
    *,
    dtype: Any,
    layout: Any,
    device: Any,
    pin_memory: Any,
    non_blocking: bool,
    copy: bool,
    memory_format: Any,
) -> fx.Node:
    return _cast(g, self, dtype)


@decomposition(aten.to.device)
def to_device(
    g: Editor, self: fx.Node, device: Any, dtype: Any, non_blocking: bool, copy: bool, memory_format: Any
) -> fx.Node:
    return _cast(g, self, dtype)


@decomposition(aten.to.other)
def to_other(
    g: Editor, self: fx.Node, other: fx.Node, non_blocking: bool, copy: bool, memory_format: Any
) -> fx.Node:
    return _cast(g, self, other.meta["val"].dtype)


@decomposition(aten.type_as.default)
def type_as(g: Editor, self: fx.Node, other: fx.Node) -> fx.Node:
    return _cast(g, self, other.meta["val"].dtype)


@decomposition(aten._to_copy.default)
def _to_copy(
    g: Editor,
    self: fx.Node,
    *,
    dtype: Any,
    layout: Any,
    device: Any,
    pin_memory: Any,
    non_blocking: bool,
    memory_format: Any,
) -> Any:
    if dtype is None or dtype == self.meta["val"].dtype:
        return self
    if any(x is not None for x in (layout, device, pin_memory, memory_format)) or non_blocking:
        return g.call(aten._to_copy.default, self, dtype=dtype)
    return None


# -- attention: one form, whichever kernel tracing below autograd has chosen ---------------------


@decomposition(aten._scaled_dot_product_flash_attention_for_cpu.default)
def flash_attention_for_cpu(
    g: Editor,
    query: fx.Node,
    key: fx.Node,
    value: fx.Node,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Any,
    scale: float | None,
) -> Any:
    attention = aten.scaled_dot_product_attention.default
    return (g.call(attention, query, key, value, attn_mask, dropout_p, is_causal, scale=scale), None)


# -- softmax --------------------------------------------------------------------------------


@decomposition(aten.softmax.int)
def softmax(g: Editor, self: fx.Node, dim: int, dtype: Any) -> fx.Node:
    return g.call(aten._softmax.default, _cast(g, self, dtype), dim, False)


@decomposition(aten.log_softmax.int)
def log_softmax(g: Editor, self: fx.Node, dim: int, dtype: Any) -> fx.Node:
    return g.call(aten._log_softmax.default, _cast(g, self, dtype), dim, False)


# -- reductions with their dims spelled out ---------------------------------------------------


def _all_dims(self: fx.Node) -> list[int]:
    return list(range(self.meta["val"].dim()))


@decomposition(aten.sum.default)
def sum_all(g: Editor, self: fx.Node, *, dtype: Any) -> fx.Node:
    return g.call(aten.sum.dim_IntList, self, _all_dims(self), False, dtype=dtype)


@decomposition(aten.mean.default)
def mean_all(g: Editor, self: fx.Node, *, dtype: Any) -> fx.Node:
    return g.call(aten.mean.dim, self, _all_dims(self), False, dtype=dtype)


@decomposition(aten.var.dim)
def var_dim(g: Editor, self: fx.Node, dim: Any, unbiased: bool, keepdim: bool) -> fx.Node:
    return g.call(aten.var.correction, self, dim, correction=int(unbiased), keepdim=keepdim)


@decomposition(aten.var.default)
def var_all(g: Editor, self: fx.Node, unbiased: bool) -> fx.Node:
    return g.call(aten.var.correction, self, _all_dims(self), correction=int(unbiased))


@decomposition(aten.any.default)
def any_all(g: Editor, self: fx.Node) -> fx.Node:
    return g.call(aten.any.dims, self, _all_dims(self))


@decomposition(aten.any.dim)
def any_dim(g: Editor, self: fx.Node, dim: int, keepdim: bool) -> fx.Node:
    return g.call(aten.any.dims, self, [dim], keepdim)


# -- creation: full and arange ------------------------------------------------------------------


def _full(g: Editor, size: Any, value: Any, dtype: Any) -> fx.Node:
    dtype = dtype if dtype is not None else torch.get_default_dtype()
    return g.call(aten.full.default, size, value, dtype=dtype)


@decomposition(aten.zeros.default)
def zeros(g: Editor, size: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any) -> fx.Node:
    return _full(g, size, 0, dtype)


@decomposition(aten.ones.default)
def ones(g: Editor, size: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any) -> fx.Node:
    return _full(g, size, 1, dtype)


@decomposition(aten.empty.memory_format)
def empty(
    g: Editor, size: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any, memory_format: Any
) -> fx.Node:
    return _full(g, size, 0, dtype)


@decomposition(aten.scalar_tensor.default)
def scalar_tensor(g: Editor, s: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any) -> fx.Node:
    return _full(g, [], s, dtype)


@decomposition(aten.zeros_like.default)
def zeros_like(
    g: Editor, self: fx.Node, *, dtype: Any, layout: Any, device: Any, pin_memory: Any, memory_format: Any
) -> fx.Node:
    return _full(g, shape(self), 0, dtype or self.meta["val"].dtype)


@decomposition(aten.ones_like.default)
def ones_like(
    g: Editor, self: fx.Node, *, dtype: Any, layout: Any, device: Any, pin_memory: Any, memory_format: Any
) -> fx.Node:
    return _full(g, shape(self), 1, dtype or self.meta["val"].dtype)


@decomposition(aten.empty_like.default)
def empty_like(
    g: Editor, self: fx.Node, *, dtype: Any, layout: Any, device: Any, pin_memory: Any, memory_format: Any
) -> fx.Node:
    return _full(g, shape(self), 0, dtype or self.meta["val"].dtype)


@decomposition(aten.full_like.default)
def full_like(
    g: Editor,
    self: fx.Node,
    fill_value: Any,
    *,
    dtype: Any,
    layout: Any,
    device: Any,
    pin_memory: Any,
    memory_format: Any,
) -> fx.Node:
    return _full(g, shape(self), fill_value, dtype or self.meta["val"].dtype)


@decomposition(aten.new_zeros.default)
def new_zeros(
    g: Editor, self: fx.Node, size: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any
) -> fx.Node:
    return _full(g, size, 0, dtype or self.meta["val"].dtype)


@decomposition(aten.new_ones.default)
def new_ones(
    g: Editor, self: fx.Node, size: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any
) -> fx.Node:
    return _full(g, size, 1, dtype or self.meta["val"].dtype)


@decomposition(aten.new_full.default)
def new_full(
    g: Editor,
    self: fx.Node,
    size: Any,
    fill_value: Any,
    *,
    dtype: Any,
    layout: Any,
    device: Any,
    pin_memory: Any,
) -> fx.Node:
    return _full(g, size, fill_value, dtype or self.meta["val"].dtype)


@decomposition(aten.arange.default)
def arange(g: Editor, end: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any) -> fx.Node:
    return _arange(g, 0, end, 1, dtype)


@decomposition(aten.arange.start)
def arange_start(
    g: Editor, start: Any, end: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any
) -> fx.Node:
    return _arange(g, start, end, 1, dtype)


def _arange(g: Editor, start: Any, end: Any, step: Any, dtype: Any) -> fx.Node:
    dtype = dtype if dtype is not None else g._anchor.meta["val"].dtype  # type: ignore[union-attr]
    return g.call(aten.arange.start_step, start, end, step, dtype=dtype)
