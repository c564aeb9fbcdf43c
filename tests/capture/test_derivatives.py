"""Models that take a derivative themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import fxpasses as fxp
from fxpasses.errors import CaptureError


def _energy(x: torch.Tensor) -> torch.Tensor:
    return (x.sin() * x.cumsum(0)).sum()


def _force(x: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_(True)
    return -torch.autograd.grad(_energy(x), x)[0]


TRANSFORMED = {
    "grad": grad(_energy),
    "grad of grad": grad(lambda x: grad(_energy)(x).square().sum()),
    "vmap of grad": vmap(grad(lambda row: row.square().prod())),
    "jvp": lambda x: jvp(_energy, (x,), (x.cos(),)),
    "vjp": lambda x: vjp(torch.sin, x)[1](x),
    "jacrev": jacrev(lambda x: x.square().sum(0)),
    "jacfwd": jacfwd(lambda x: x.square().sum(0)),
    "hessian": hessian(_energy),
    "attention": grad(
        lambda x: nn.functional.scaled_dot_product_attention(*3 * [x[None, None]]).square().sum()
    ),
    "torch.autograd.grad": _force,
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_derivatives_are_operators_of_the_program(name):
    x, function = torch.randn(4, 3), TRANSFORMED[name]
    compiled = fxp.compile(function, (x,), strict=True)
    torch.testing.assert_close(compiled(x), function(x))


def test_derivative_of_a_size_that_varies():
    program = fxp.capture(grad(_energy), (torch.randn(4, 3),), dynamic_shapes=({0: Dim.DYNAMIC},))
    compiled = fxp.compile(program)
    for rows in (2, 9):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(compiled(x), grad(_energy)(x))


def test_derivative_by_parameters_follows_them():
    class Meta(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            weights = dict(self.layer.named_parameters())
            return grad(lambda given: functional_call(self.layer, given, (x,)).square().mean())(weights)

    model, x = Meta().eval(), torch.randn(4, 3)
    program = fxp.capture(model, (x,))
    assert {node.meta["role"].target for node in program.placeholders} >= {"layer.weight", "layer.bias"}
    torch.testing.assert_close(fxp.compile(program)(x), model(x))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_capture_that_fails_leaves_no_transform_on():
    with pytest.raises(CaptureError):
        fxp.capture(jacfwd(_energy), (torch.randn(3),), via="export")
    assert torch._C._functorch.peek_interpreter_stack() is None
    jacfwd(_energy)(torch.randn(3))
    nn.functional.dropout(torch.ones(3))


def test_gradients_of_parameters_are_refused():
    def step(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            _energy(x).backward()
            return x.grad

    with pytest.raises(CaptureError, match=r"torch\.autograd\.grad\(loss, inputs\)"):
        fxp.capture(step, (torch.randn(3),))


def test_kernel_of_attention_that_divides_by_no_queries_is_not_run_on_nothing():
    from torch.fx.experimental.proxy_tensor import make_fx

    query = torch.randn(1, 2, 8, 16)
    graph = make_fx(lambda q: nn.functional.scaled_dot_product_attention(q, q, q))(query)
    program = fxp.capture(graph, (query,), dynamic_shapes=({2: Dim.DYNAMIC},))
    (bounds,) = program.ranges.values()
    assert bounds.lower == 1
