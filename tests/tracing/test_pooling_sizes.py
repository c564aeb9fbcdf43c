"""The count of windows of a pooling, beside that of eager PyTorch."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import _meta_registrations as kernels

from fxpasses.tracing.pooling_sizes import pooling_sizes


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_as_many_as_in_eager_pytorch(ceil_mode):
    grid = itertools.product(range(1, 14), range(1, 5), range(1, 5), range(3), (1, 2))
    for size, kernel, stride, padding, dilation in grid:
        reach = (kernel - 1) * dilation + 1
        if padding > min(reach, kernel) // 2 or size + 2 * padding < reach:
            continue
        x = torch.zeros(1, 1, size)
        want = torch.nn.functional.max_pool1d(x, kernel, stride, padding, dilation, ceil_mode).shape[-1]
        with pooling_sizes():
            got = kernels.pooling_output_shape(size, kernel, padding, stride, dilation, ceil_mode)
        assert got == want, (size, kernel, stride, padding, dilation)


def test_torch_has_its_own_again():
    before = kernels.pooling_output_shape_pad_lr
    with pooling_sizes():
        assert kernels.pooling_output_shape_pad_lr is not before
    assert kernels.pooling_output_shape_pad_lr is before
