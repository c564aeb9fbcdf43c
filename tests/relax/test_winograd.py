"""Winograd's convolution: its three parts equal the convolution in eager, and their kernels the eager parts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fxpasses.dialect.channels_last import pack_weight
from tests.relax.test_channels_last import Call, compiled

dialect = torch.ops.fxpasses

CASES = [
    # batch, height, width, inputs, outputs, padding, groups
    (1, 8, 8, 16, 32, (1, 1, 1, 1), 1),
    (2, 7, 9, 16, 16, (1, 1, 1, 1), 1),
    (1, 5, 12, 48, 16, (0, 0, 0, 0), 1),
    (1, 6, 6, 32, 64, (2, 0, 1, 2), 2),
    (1, 3, 3, 16, 16, (0, 0, 0, 0), 1),  # one pixel
    (1, 13, 14, 20, 24, (1, 1, 1, 1), 1),  # no whole vectors
    (1, 40, 40, 16, 16, (1, 1, 1, 1), 1),  # rows of tiles in several parts
    (1, 34, 38, 16, 16, (1, 1, 1, 1), 2),  # more of them than wait for the next part of a panel
    (1, 6, 6, 34, 16, (1, 1, 1, 1), 1),  # a panel in parts of seventeen
]


class Convolution(torch.nn.Module):
    """The product between the two sides, with what follows in networks."""

    def __init__(self, weight, padding, groups):
        super().__init__()
        self.weight = torch.nn.Parameter(pack_weight(weight, 8))
        self.padding, self.groups = padding, groups

    def forward(self, x):
        top, bottom, left, right = self.padding
        size = [x.shape[1] + top + bottom - 2, x.shape[2] + left + right - 2]
        tiles = dialect.winograd_input(x, list(self.padding), self.groups)
        return torch.relu(
            dialect.winograd_output(
                dialect.winograd_products(tiles, self.weight, self.groups), x.shape[0], *size, self.groups
            )
            + 0.5
        )


@pytest.mark.parametrize(
    ("case", "dtype"),
    [*((case, torch.float32) for case in CASES), *((case, torch.float64) for case in CASES[::3])],
    ids=str,
)
def test_winograd(case, dtype):
    batch, height, width, inputs, outputs, padding, groups = case
    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs // groups, 3, 3, dtype=dtype)
    x = torch.randn(batch, height, width, inputs, dtype=dtype)
    module = Convolution(weight, padding, groups)
    top, bottom, left, right = padding
    image = F.pad(x.permute(0, 3, 1, 2), [left, right, top, bottom])
    want = torch.relu(F.conv2d(image, weight, None, groups=groups).permute(0, 2, 3, 1) + 0.5)
    rounding = {"rtol": 1e-4, "atol": 1e-4} if dtype is torch.float32 else {}
    torch.testing.assert_close(module(x).detach(), want, **rounding)
    torch.testing.assert_close(compiled(module, x)(x), want, **rounding)


def test_the_kernels_equal_the_eager_parts_to_the_last_bit():
    x = torch.randn(1, 9, 10, 32)
    into = Call(dialect.winograd_input.default, [1, 1, 1, 1], 2)
    torch.testing.assert_close(compiled(into, x)(x), into(x), rtol=0, atol=0)
