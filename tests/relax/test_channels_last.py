"""Operators on images laid out [N, H, W, C], compiled beside their eager references."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from fxpasses.dialect.channels_last import pack_weight, packed_width, unpack_weight

dialect = torch.ops.fxpasses


class Call(torch.nn.Module):
    def __init__(self, op, *args, weight=None):
        super().__init__()
        self.op, self.args = op, args
        self.weight = None if weight is None else torch.nn.Parameter(weight)

    def forward(self, x):
        operands = (x,) if self.weight is None else (x, self.weight)
        return self.op(*operands, *self.args)


def compiled(module, x, dynamic=None):
    program = fxp.Program.from_exported_program(torch.export.export(module, (x,), dynamic_shapes=dynamic))
    return fxp.compile(program, strict=True)


CONVOLUTIONS = [
    # batch, height, width, inputs, outputs, window, stride, padding, dilation, groups
    (1, 9, 14, 3, 16, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    (2, 7, 7, 32, 48, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    (1, 14, 15, 16, 24, (3, 3), (2, 2), (0, 1, 0, 1), (1, 1), 1),
    (1, 13, 17, 5, 37, (3, 1), (1, 2), (2, 0, 0, 0), (2, 1), 1),
    (1, 8, 19, 32, 32, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 32),
    (1, 8, 8, 20, 20, (5, 5), (2, 2), (2, 2, 2, 2), (1, 1), 20),
    (2, 6, 6, 32, 64, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 2),
    (1, 1, 1, 64, 10, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    (1, 9, 17, 16, 131, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),  # neither rows nor channels are whole tiles
    (2, 5, 28, 24, 24, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    (1, 9, 10, 41, 41, (3, 3), (1, 1), (1, 0, 0, 1), (1, 1), 41),
    (1, 9, 40, 88, 88, (5, 5), (1, 2), (2, 2, 2, 2), (1, 1), 88),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution(case):
    batch, height, width, inputs, outputs, window, stride, padding, dilation, groups = case
    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs // groups, *window)
    packed = pack_weight(weight, packed_width(outputs, 16))
    op = dialect.conv_channels_last.default
    module = Call(op, list(stride), list(padding), list(dilation), groups, outputs, weight=packed)
    x = torch.randn(batch, height, width, inputs)
    torch.testing.assert_close(compiled(module, x)(x), module(x).detach(), rtol=1e-4, atol=1e-4)


def test_weights_are_packed_with_zeros_behind_them():
    weight = torch.randn(37, 5, 3, 2)
    packed = pack_weight(weight, 16)
    assert packed.shape == (3, 3, 2, 5, 16)
    assert not packed[2, ..., 5:].any()
    torch.testing.assert_close(unpack_weight(packed, 37), weight, rtol=0, atol=0)


def test_convolution_of_any_batch():
    weight = torch.randn(32, 16, 3, 3)
    module = Call(
        dialect.conv_channels_last.default,
        [1, 1],
        [1, 1, 1, 1],
        [1, 1],
        1,
        32,
        weight=pack_weight(weight, 16),
    )
    function = compiled(module, torch.randn(2, 14, 14, 16), ({0: Dim("batch", max=8)},))
    for batch in (1, 3, 8):
        x = torch.randn(batch, 14, 14, 16)
        torch.testing.assert_close(function(x), module(x).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("window", "stride", "padding", "dilation", "ceil_mode"), [
    ([3, 3], [2, 2], [1, 1], [1, 1], False), ([2, 3], [2, 1], [0, 1], [1, 2], False),
    ([3, 3], [2, 2], [0, 0], [1, 1], True), ([2, 2], [3, 3], [1, 1], [1, 1], True),
])  # fmt: skip
def test_max_pool(window, stride, padding, dilation, ceil_mode):
    module = Call(dialect.max_pool2d_channels_last.default, window, stride, padding, dilation, ceil_mode)
    x = torch.randn(2, 12, 11, 24)
    x[0, 3, 4, 5] = torch.nan
    x[1, :6] = -torch.inf
    torch.testing.assert_close(compiled(module, x)(x), module(x), rtol=0, atol=0, equal_nan=True)
