"""`leaf=`: one opaque call, with its parameters as operands, through every door and pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxpasses as fxp
from fxpasses.errors import CaptureError, InputError


def sort_scaled(x: torch.Tensor, factor: int, *, alpha: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    values, indices = (x * factor * alpha).sort(-1)
    return values, indices


class Block(nn.Module):
    def __init__(self, residual: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.residual = residual

    def forward(self, x: torch.Tensor, *, scale: Any = None) -> dict[str, Any]:
        return {"y": self.norm(self.linear(x)) * self.residual, "scale": scale}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block(), Block(2.0)])
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x, scale=None)["y"]
        values, _ = sort_scaled(x, 2, alpha=0.5)
        return self.head(values).view(x.shape[0], -1)


class ChangesItsArgument(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1)


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x * 2)


def leaves(program: fxp.Program) -> list[str]:
    return [
        node.target._opname
        for node in program.nodes()
        if getattr(node.target, "namespace", None) == "fxpasses_leaf"
    ]


@pytest.mark.parametrize("via", ["export", "make_fx", "symbolic_trace", "torchscript"])
def test_leaves_stay_through_canonicalisation(via: str) -> None:
    model, x = Model().eval(), torch.randn(3, 4)
    code = sort_scaled.__code__
    program = fxp.capture(model, (x,), via=via, leaf=(Block, sort_scaled))
    assert sort_scaled.__code__ is code
    assert "forward" not in model.blocks[0].__dict__
    canonical = fxp.canonicalize(program)
    for one in (program, canonical):
        # Blocks that differ in nothing but their parameters are one operator.
        assert leaves(one) == ["Block", "Block", "Block_1", "sort_scaled"]
        torch.testing.assert_close(one(x), model(x).detach())
    assert "blocks.1.norm.running_mean" in program.tensors
    assert "blocks.2.linear.weight" in program.tensors
    reference = fxp.capture(model, (x,), leaf=(Block, sort_scaled))
    assert fxp.canonicalize(reference).fingerprint == canonical.fingerprint


def test_leaf_with_a_dynamic_size() -> None:
    model = Model().eval()
    program = fxp.capture(
        model, (torch.randn(3, 4),), leaf=Block, dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    for batch in (1, 7):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(program(x), model(x).detach())


@pytest.mark.parametrize("choose", [lambda m: "blocks.2", lambda m: m.blocks[2]], ids=["name", "instance"])
def test_leaf_by_name_and_instance(choose: Any) -> None:
    model, x = Model().eval(), torch.randn(3, 4)
    assert leaves(fxp.capture(model, (x,), leaf=choose(model))) == ["Block_1"]


def test_leaf_within_a_leaf_is_inside() -> None:
    model, x = Model().eval(), torch.randn(3, 4)
    assert len(leaves(fxp.capture(model, (x,), leaf=(Block, nn.BatchNorm1d)))) == 3


def test_program_keeps_the_module_as_it_was() -> None:
    model, x = Model().eval(), torch.randn(3, 4)
    program = fxp.capture(model, (x,), leaf=Block)
    before = model(x).detach()
    model.blocks[0].residual = 100.0
    torch.testing.assert_close(program(x), before)
    assert leaves(fxp.capture(model, (x,), leaf="blocks.0")) == ["Block_2"]


def test_modules_around_which_nothing_is_left() -> None:
    linear, x = nn.Linear(4, 4), torch.randn(3, 4)
    program = fxp.capture(linear, (x,), leaf=nn.Linear)
    assert len(leaves(program)) == 1
    torch.testing.assert_close(program(x), linear(x).detach())


@pytest.mark.parametrize(
    ("leaf", "match"),
    [
        ("nowhere", "no part of Model; its modules are 'blocks', 'blocks.0'"),
        (nn.Conv2d, "no part of Model"),
        (nn.Linear(4, 4), "no part of Model"),
        (torch.relu, "a Python function"),
        (torch.nn.functional.gelu, "a Python function"),
        (torch.nn.functional.relu, "'relu' is never called"),
    ],
    ids=["name", "class", "instance", "builtin", "builtin of nn.functional", "function"],
)
def test_leaf_that_is_not_there(leaf: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        fxp.capture(Model().eval(), (torch.randn(3, 4),), leaf=leaf, via="export")


def test_leaf_that_changes_its_argument_is_refused() -> None:
    with pytest.raises(
        CaptureError, match="leaf 'inner' changes its arguments, parameters or buffers in place"
    ):
        fxp.capture(Around(ChangesItsArgument()), (torch.randn(3, 4),), leaf=ChangesItsArgument, via="export")


def test_leaf_that_gives_a_view_or_its_argument() -> None:
    x = torch.randn(3, 4)
    program = fxp.capture(Around(nn.Flatten(0)), (x,), leaf=nn.Flatten)
    torch.testing.assert_close(program(x), (x * 2).flatten())
    program = fxp.capture(Around(nn.Identity()), (x,), leaf=nn.Identity)
    torch.testing.assert_close(program(x), x * 2)


def test_leaf_comes_too_late_for_a_finished_graph() -> None:
    exported = torch.export.export(nn.Linear(4, 4), (torch.randn(1, 4),))
    with pytest.raises(InputError, match="leaf= comes too late"):
        fxp.capture(exported, leaf=nn.Linear)
