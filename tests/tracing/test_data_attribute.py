"""``x.data``: what is changed through it is changed; giving it another tensor is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxpasses as fxp
from fxpasses.errors import CaptureError
from fxpasses.testing import assert_equivalent

X, MASK = torch.linspace(-1, 2, 12).reshape(4, 3), torch.arange(12).reshape(4, 3) % 2 == 0
DOORS = ("export", "make_fx", "symbolic_trace")


class Computed(nn.Module):
    def forward(self, x, mask):
        y = x * 2
        y.data.masked_fill_(mask, -1.0)
        return y


class Argument(nn.Module):
    def forward(self, x, mask):
        x.data.add_(1)
        return x * mask


class Buffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x, mask):
        self.mean.data.copy_(x.data.mean(0))
        return (x - self.mean) * self.weight.data * mask


class Exchanged(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x, mask):
        y = x * mask
        y.data = x + 1
        return y * self.weight


class ExchangedWeight(Exchanged):
    def forward(self, x, mask):
        self.weight.data = self.weight.data * 0.5
        return x * mask * self.weight


@pytest.mark.parametrize("via", DOORS)
@pytest.mark.parametrize("model", [Computed, Argument, Buffer])
def test_changed_through_it(model, via):
    program = fxp.capture(model(), (X.clone(), MASK), via=via)
    assert_equivalent(model(), fxp.compile(program), (X, MASK))


@pytest.mark.parametrize("via", [None, *DOORS, "dynamo"])
@pytest.mark.parametrize("model", [Exchanged, ExchangedWeight])
def test_exchanged(model, via):
    with pytest.raises(CaptureError, match=r"x\.data = value.*x\.copy_\(value\)") as raised:
        fxp.capture(model(), (X, MASK), via=via)
    assert ".data = " in str(raised.value).splitlines()[1]


def test_dynamo_loses_its_origin():
    """Running what it gives would read memory that is not there."""
    with pytest.raises(CaptureError, match=r"lost the origin .* read the tensor itself"):
        fxp.capture(Argument(), (X, MASK), via="dynamo")
    exported = torch.export.export(Argument(), (X, MASK), strict=True)
    with pytest.raises(CaptureError, match="lost the origin"):
        fxp.capture(exported)
