"""Results share memory with nothing, as in eager PyTorch where the model makes a new tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxpasses as fxp

aten = torch.ops.aten

COPIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "clone": lambda x: x.clone(),
    "to a copy": lambda x: x.to(torch.float32, copy=True),
    "cat of one": lambda x: torch.cat([x]),
    "pad by nothing": lambda x: aten.constant_pad_nd(x, [0, 0]),
    "times one": lambda x: x * 1,
    "to the first": lambda x: x**1,
    "repeat once": lambda x: x.repeat(1),
    "flip nothing": lambda x: x.flip([]),
    "whole slice_scatter": lambda x: torch.empty_like(x).slice_scatter(x, 0),
    "copy_": lambda x: torch.empty_like(x).copy_(x),
}


@pytest.mark.parametrize("name", COPIES)
def test_what_the_model_copies_is_a_copy(name: str) -> None:
    def model(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return COPIES[name](x), x

    x = torch.randn(3)
    copy, itself = fxp.compile(model, (x,))(x)
    assert itself is x
    torch.testing.assert_close(copy, x, rtol=0, atol=0)
    copy.add_(1)
    assert not torch.equal(copy, x)


def test_a_change_after_the_copy_by_torch_compile() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        before = x.clone()
        x.add_(1)
        return before

    x = torch.zeros(3)
    before = torch.compile(model, backend="fxpasses")(x)
    torch.testing.assert_close(before, torch.zeros(3))
    torch.testing.assert_close(x, torch.ones(3))


def test_equal_results_are_tensors_of_their_own(tmp_path: Path) -> None:
    def model(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x + 1
        return y, y, x + 1, y.clone()

    x = torch.zeros(2)
    compiled = fxp.compile(model, (x,))
    compiled.save(tmp_path / "model.fxp")
    for program in (compiled, fxp.load(tmp_path / "model.fxp")):
        first, same, again, copy = program(x)
        assert same is first  # as in eager PyTorch
        first.zero_()
        torch.testing.assert_close(again, torch.ones(2))
        torch.testing.assert_close(copy, torch.ones(2))


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "dropout of nothing": lambda x: F.dropout(x, 0.0, training=True),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.5, training=False),
    "feature_dropout": lambda x: torch.feature_dropout(x, 0.5, False),
    "einsum": lambda x: torch.einsum("ij->ji", x),
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x, torch.ones(2, 3, 3))[0],
    "view": lambda x: x.view(-1),
    "contiguous": lambda x: x.contiguous(),
    "reshape": lambda x: x.reshape(-1),
    "type_as": lambda x: x.type_as(x),
    "chunk": lambda x: x.chunk(2, 1)[1],
    "real": lambda x: torch.real(x),
    "diagonal": lambda x: x.diagonal(),
}


@pytest.mark.parametrize("via", ["export", "dynamo", "make_fx", "symbolic_trace"])
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_sees_a_later_change(name: str, via: str) -> None:
    """Also where an operator is a view only sometimes, which its schema does not tell."""

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            y = x + 1
            view = VIEWS[name](y)
            y.mul_(2)
            return view

    x = torch.randn(3, 3)
    program = fxp.capture(Model(), (x,), via=via)
    torch.testing.assert_close(fxp.compile(program)(x), Model()(x))
