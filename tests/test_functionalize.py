"""Calls in place on values that nothing else can see become functional ones without a second trace."""

from __future__ import annotations

import pytest
import torch

import fxpasses as fxp
from fxpasses.testing import assert_equivalent

aten = torch.ops.aten
X = torch.linspace(0.5, 3, 12).reshape(3, 4)


@pytest.mark.parametrize(
    ("change", "twin"),
    [
        (lambda y: y.relu_(), aten.relu.default),
        (lambda y: y.pow_(-0.5), aten.pow.Tensor_Scalar),
        (lambda y: y.pow_(y + 1), aten.pow.Tensor_Tensor),
        (lambda y: y.floor_divide_(y + 1), aten.floor_divide.default),
        (lambda y: y.div_(2, rounding_mode="floor"), aten.div.Tensor_mode),
    ],
)
def test_the_twin_takes_what_the_call_in_place_takes(change, twin, monkeypatch):
    class Model(torch.nn.Module):
        def forward(self, x):
            y = x * 2
            change(y)
            return y + x

    monkeypatch.setattr(
        torch.export.ExportedProgram, "run_decompositions", lambda *_: pytest.fail("traced again")
    )
    program = fxp.capture(Model(), (X,))
    assert twin in {node.target for node in program.graph.nodes}
    assert_equivalent(Model(), program, (X,))
