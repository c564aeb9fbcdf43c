"""How many windows a pooling with ``ceil_mode`` has, without asking about a size that varies.

torch rounds the count up and takes one away where the last window would start
behind the input. On a size that is known only at run time that question becomes
a guard, which holds for half of the sizes. Kernel, stride and padding alone
answer it: of "windows that reach into the padded input" and "windows that start
before its end", both rounded up, one is the smaller for every size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._ops import OpOverload

__all__ = ["POOLINGS", "pooling_sizes"]

aten = torch.ops.aten

POOLINGS: tuple[OpOverload, ...] = (
    aten.max_pool2d_with_indices.default,
    aten.max_pool3d_with_indices.default,
    aten.avg_pool2d.default,
    aten.avg_pool3d.default,
)
"""The operators whose fake kernels ask; those of one dim are made of them."""


@contextmanager
def pooling_sizes() -> Iterator[None]:
    """Where torch traces, the sizes of poolings follow from the formula of this file."""
    from torch import _meta_registrations as kernels

    before = kernels.pooling_output_shape_pad_lr
    kernels.pooling_output_shape_pad_lr = _windows
    try:
        yield
    finally:
        kernels.pooling_output_shape_pad_lr = before


def _windows(
    size: Any, kernel: int, left: int, right: int, stride: int, dilation: int, ceil_mode: bool
) -> Any:
    reach = dilation * (kernel - 1) + 1
    if not ceil_mode:
        return (size + left + right - reach) // stride + 1
    reaching, starting = left + right - reach + stride, left
    return (size + min(reaching, starting) + stride - 1) // stride
