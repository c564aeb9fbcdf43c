"""An example may have one tensor in several places, or one of the model's: the program tells its arguments apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxpasses as fxp
from fxpasses.capture import DOORS

X, Y, Z = torch.randn(2, 3, 8), torch.randn(2, 3, 8), torch.randn(2, 3, 8)


def difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a - b * 2


@pytest.mark.parametrize("via", DOORS)
def test_two_arguments(via: str) -> None:
    program = fxp.capture(difference, (X, X), via=via)
    assert torch.equal(program(X, Y), difference(X, Y))
    assert torch.equal(program(X, X), difference(X, X))
    assert str(program) == str(fxp.capture(difference, (X, Y), via=via))


def test_a_graph_of_dynamo() -> None:
    graphs: list[Any] = []

    def backend(graph_module: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(graph_module)
        return graph_module.forward

    torch.compile(difference, backend=backend)(X, Y)
    program = fxp.capture(graphs[0], (X, X))
    given = {"L_a_": X, "L_b_": Y}
    args = [given[node.target] for node in graphs[0].graph.find_nodes(op="placeholder")]
    assert torch.equal(program(*args)[0], difference(X, Y))


def test_compiled_and_any_size() -> None:
    batch = torch.export.Dim("batch")
    compiled = fxp.compile(difference, (X, X), dynamic_shapes=({0: batch}, {0: batch}))
    a, b = torch.randn(5, 3, 8), torch.randn(5, 3, 8)
    assert torch.equal(compiled(a, b), difference(a, b))


def test_inside_containers_and_as_a_parameter_or_buffer() -> None:
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(X.clone())
            self.register_buffer("old", Y)

        def forward(self, a: torch.Tensor, others: dict[str, Any]) -> torch.Tensor:
            return a * self.weight - others["b"] * self.old + others["c"][0]

    model = Held().eval()
    example = model.weight, {"b": Y, "c": [model.weight]}
    given = Z, {"b": X, "c": [Y]}
    for via in ("export", "dynamo", "make_fx"):
        program = fxp.capture(model, example, via=via)
        torch.testing.assert_close(program(*given), model(*given))
    assert example[1]["c"][0] is example[0] is model.weight  # the user's own are left as they were


@pytest.mark.parametrize("via", ["export", "dynamo", "make_fx", "symbolic_trace"])
def test_a_tensor_of_the_closure(via: str) -> None:
    def function(a: torch.Tensor) -> torch.Tensor:
        return a - X * 2

    assert torch.equal(fxp.capture(function, (X,), via=via)(Y), function(Y))


@pytest.mark.parametrize("other", [X.mT, X[:], X.detach(), X.view(-1), X.expand(4, 2, 3, 8)], ids=range(5))
def test_views_of_one_tensor(other: torch.Tensor) -> None:
    def function(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a.sum() - b * 2

    new = torch.randn(other.shape)
    assert torch.equal(fxp.capture(function, (X, other))(Y, new), function(Y, new))
    assert torch.equal(fxp.capture(function, (other, other))(new, new + 1), function(new, new + 1))


def test_a_layer_that_asks_whether_its_arguments_are_one() -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    compiled = fxp.compile(layer, (X, X, X), strict=True)
    for args in ((X, X, X), (X, Y, Y), (X, Y, Z)):
        torch.testing.assert_close(compiled(*args), layer(*args))


def test_an_argument_that_is_written_to() -> None:
    def function(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a.add_(1)
        return a * b

    whole = X.clone()
    for example in (
        (whole, whole),
        (whole, whole.view(2, 3, 8)),
        (whole[:1], whole[1:]),
        (whole.mT, whole.mT),
    ):
        compiled = fxp.compile(function, example)
        a, b = (torch.randn(part.shape) for part in example)
        expected = (a + 1) * b
        assert torch.equal(compiled(a, b), expected)
        assert torch.equal(a * b, expected)
    assert torch.equal(whole, X)
