"""Kernels of PyTorch that end the process, or read and write out of bounds, for some arguments.

Code that runs for real on sizes that nobody asked for must not reach one of these calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode

from fxpasses.tracing.modes import bodies_in

__all__ = ["UnsafeCall", "Watched"]

aten = torch.ops.aten


class UnsafeCall(RuntimeError):
    """A call that PyTorch does not check, and that could end the process."""


class Watched(TorchDispatchMode):
    """In the body of its ``with``, a call that could end the process raises.

    Raises:
        UnsafeCall: names the operator and the sizes of its arguments.
    """

    supports_higher_order_operators = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return func(*bodies_in(self, args), **bodies_in(self, kwargs))
        with self:  # composites arrive whole in inference mode and in bodies
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        unsafe = _UNSAFE.get(func.overloadpacket)
        if unsafe is not None and unsafe(*args, **kwargs):
            sizes = [
                tuple(leaf.shape) for leaf in (*args, *kwargs.values()) if isinstance(leaf, torch.Tensor)
            ]
            raise UnsafeCall(f"{func} is not safe for arguments of sizes {sizes}")
        return func(*args, **kwargs)


def _nothing_to_attend(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> bool:
    """Blocks are counted by dividing by the number of elements."""
    return not (query.numel() and key.numel() and value.numel())


def _no_bag_for_an_index(
    weight: Any,
    indices: Any,
    offsets: Any,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> bool:
    """The rows of indices before the first bag are written to bag -1."""
    return offsets.numel() <= include_last_offset and indices.numel() > 0


def _pivots_of_another_size(factors: Any, pivots: Any, *_: Any, **__: Any) -> bool:
    return pivots.shape != (*factors.shape[:-2], min(factors.shape[-2:]))


def _channels_of_another_size(
    input: Any,
    weight: Any = None,
    bias: Any = None,
    running_mean: Any = None,
    running_var: Any = None,
    *_: Any,
    **__: Any,
) -> bool:
    vectors = (weight, bias, running_mean, running_var)
    return any(vector is not None and vector.numel() != input.shape[1] for vector in vectors)


def _maximum_beyond_the_image(
    grad: Any,
    image: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    indices: Any,
    **_: Any,
) -> bool:
    """A window that lies in the padding has its maximum nowhere."""
    return (
        indices.numel() > 0
        and not 0 <= int(indices.min()) <= int(indices.max()) < image.shape[-2] * image.shape[-1]
    )


def _segments_beyond_the_data(
    data: Any, reduce: str, *, lengths: Any = None, offsets: Any = None, axis: int = 0, **_: Any
) -> bool:
    ends = offsets if lengths is None else lengths.sum(-1)
    return ends is not None and ends.numel() > 0 and int(ends.max()) > data.shape[axis]


def _no_right_hand_side(self: Any, b: Any, *_: Any, **__: Any) -> bool:
    return b.numel() == 0


def _a_class_without_scores(grad_output: Any, self: Any, target: Any, *options: Any, **named: Any) -> bool:
    ignored = named["ignore_index"] if "ignore_index" in named else options[2]
    classes = self.shape[-1] if self.dim() < 3 else self.shape[1]
    return bool(((target != ignored) & ((target < 0) | (target >= classes))).any())


def _no_norm_for_each_slice(v: Any, g: Any, dim: int = 0) -> bool:
    """Slices are counted by dividing by the number of norms, which are not counted themselves."""
    return v.shape[dim] == 0 or g.numel() != v.shape[dim]


_UNSAFE: dict[Any, Callable[..., bool]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _nothing_to_attend,
    aten._embedding_bag: _no_bag_for_an_index,
    aten._embedding_bag_forward_only: _no_bag_for_an_index,
    aten.lu_unpack: _pivots_of_another_size,
    aten.native_batch_norm: _channels_of_another_size,
    aten._native_batch_norm_legit: _channels_of_another_size,
    aten._native_batch_norm_legit_functional: _channels_of_another_size,
    aten._native_batch_norm_legit_no_training: _channels_of_another_size,
    aten._batch_norm_with_update: _channels_of_another_size,
    aten._batch_norm_no_update: _channels_of_another_size,
    aten.max_pool2d_with_indices_backward: _maximum_beyond_the_image,
    aten.segment_reduce: _segments_beyond_the_data,
    aten.linalg_lstsq: _no_right_hand_side,
    aten.nll_loss_backward: _a_class_without_scores,
    aten.nll_loss2d_backward: _a_class_without_scores,
    aten._weight_norm_interface: _no_norm_for_each_slice,
}
