"""Calls in place on values that nothing else can see become functional ones without a second trace."""

from __future__ import annotations

import pytest
import torch

import fxpasses as fxp
from fxpasses.errors import CaptureError
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


WRITES = {
    "add": lambda x: x.expand(3, 4).add_(1),
    "slice": lambda x: x.expand(3, 4)[:2].mul_(2),
    "assignment": lambda x: x.expand(3, 4).__setitem__(slice(None), 1.0),
    "fill": lambda x: x.expand(3, 4).fill_(1),  # eager PyTorch takes this and the next
    "masked_fill": lambda x: x.expand(3, 4).masked_fill_(x > 0, 1),
    "scatter_add": lambda x: x.expand(3, 4).scatter_add_(0, torch.tensor([[0]]), torch.ones(1, 1)),
    "out": lambda x: torch.add(X, 1, out=x.expand(3, 4)),
}


@pytest.mark.parametrize("via", [None, "make_fx", "dynamo"])
@pytest.mark.parametrize("name", WRITES)
def test_a_write_to_elements_that_share_memory_is_refused(name, via):
    def function(x):
        y = x * 2
        WRITES[name](y)
        return y

    with pytest.raises(
        CaptureError, match=r"one place in memory.*test_functionalize.py|single memory location"
    ):
        fxp.capture(function, (X[:1],), via=via)


def test_a_write_to_one_place_of_an_expanded_tensor_is_kept():
    def function(x):
        y = x * 2
        y.expand(3, 4)[1].add_(1)
        y.expand(3, 4)[0, 2] = 9.0
        y.expand(1, 4).mul_(2)
        return y

    assert_equivalent(function, fxp.capture(function, (X[:1],)), (X[:1],))
