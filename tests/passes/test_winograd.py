"""`winograd`: which convolutions it writes anew, what they become, and that they stay what they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim

import fxpasses as fxp
from fxpasses.passes import Winograd, canonicalize, channels_last, winograd
from fxpasses.testing import assert_equivalent
from tests.passes.helpers import apply, program_of

CONV = torch.ops.fxpasses.conv_channels_last.default
PARTS = ["winograd_input.default", "winograd_products.default", "winograd_output.default"]


def parts(program):
    names = [str(n.target).removeprefix("fxpasses.") for n in program.graph.nodes if n.op == "call_function"]
    return [name for name in names if name in PARTS]


def check(module, *shape, dtype=torch.float32, pass_=winograd):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype)
    before = channels_last(canonicalize(program_of(module.to(dtype).eval(), x)))
    after = apply(pass_, before, x, exact=False)
    # The error is that of the numbers in a tile, so it is measured by the largest pixel and not by each.
    largest = before.run(x)[0].abs().max().item()
    assert_equivalent(before, after, (x,), atol=8 * torch.finfo(dtype).eps * largest)
    return after


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(32, 64, 3, padding=1), (1, 32, 12, 12)),
        (nn.Conv2d(32, 48, 3, padding=(0, 2)), (2, 32, 11, 9)),
        (nn.Conv2d(64, 128, 3, padding=1, groups=2, bias=False), (1, 64, 9, 8)),
        (nn.Sequential(nn.ZeroPad2d((0, 1, 2, 0)), nn.Conv2d(33, 48, 3)), (1, 33, 9, 10)),
    ],
    ids=["plain", "odd", "grouped", "padded"],
)
def test_what_fits(module, shape):
    after = check(module, *shape)
    assert parts(after) == PARTS
    assert CONV not in {node.target for node in after.graph.nodes}
    assert parts(winograd(after)) == PARTS


def test_the_weights_take_no_more_memory():
    x = torch.randn(1, 32, 12, 12)
    before = channels_last(canonicalize(program_of(nn.Conv2d(32, 64, 3, padding=1).eval(), x)))
    after = apply(winograd, before, x, exact=False)
    assert parts(after) == PARTS
    assert {name: t.shape for name, t in after.tensors.items()} == {
        name: t.shape for name, t in before.tensors.items()
    }


def test_doubles():
    assert parts(check(nn.Conv2d(32, 32, 3, padding=1), 1, 32, 8, 8, dtype=torch.float64)) == PARTS


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(32, 32, 3, stride=2), (1, 32, 20, 20)),
        (nn.Conv2d(32, 32, 3, dilation=2), (1, 32, 20, 20)),
        (nn.Conv2d(32, 32, 5), (1, 32, 20, 20)),
        (nn.Conv2d(16, 32, 3), (1, 16, 20, 20)),  # few channels in
        (nn.Conv2d(64, 64, 3, groups=4), (1, 64, 20, 20)),  # few in a group
        (nn.Conv2d(32, 16, 3), (1, 32, 20, 20)),  # few out
        (nn.Conv2d(32, 40, 3), (1, 32, 20, 20)),  # no whole vectors out
        (nn.Conv2d(32, 32, 3), (1, 32, 8, 8)),  # few tiles
        (nn.Conv2d(32, 32, 3), (32, 32, 3, 3)),  # tiles of one pixel
    ],
    ids=["stride", "dilation", "window", "in", "group", "out", "vectors", "image", "pixel"],
)
def test_what_does_not_pay_stays(module, shape):
    assert parts(check(module, *shape)) == []


def test_dynamic_sizes_stay():
    x = torch.randn(2, 32, 16, 16)
    for dims in ({0: Dim("n")}, {2: Dim("h", min=4)}):
        program = fxp.capture(nn.Conv2d(32, 32, 3), (x,), dynamic_shapes=(dims,))
        before = channels_last(canonicalize(program))
        assert winograd(before) is before


def test_the_bounds_are_options():
    assert parts(check(nn.Conv2d(16, 16, 3), 1, 16, 6, 6, pass_=Winograd(channels=16, tiles=4))) == PARTS


def test_compiled():
    """Every kernel at sizes that no tile divides, with a residual as in a network."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(48, 48, 3, padding=1), nn.Conv2d(48, 48, 3, padding=1)

        def forward(self, x):
            return torch.relu(self.second(torch.relu(self.first(x))) + x)

    model, x = Block().eval(), torch.randn(2, 48, 11, 15)
    with torch.no_grad():
        torch.testing.assert_close(fxp.compile(model, (x,), strict=True)(x), model(x), rtol=1e-5, atol=1e-5)
