"""The sizes that a program for any sizes is called with, and that its failures are seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from tests.sweep.dynamic import AnySize, resized
from tests.sweep.edges import Variant
from tests.sweep.judge import Outcome, judge
from tests.sweep.systems import dynamic_answers

AUTO = Dim.AUTO


class Module(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.function(*tensors)


def captured(function: Callable[..., Any], *tensors: torch.Tensor, dim: Any = AUTO) -> fxp.Program:
    shapes = tuple(dict.fromkeys(range(tensor.dim()), dim) for tensor in tensors)
    return fxp.capture(Module(function), tensors, dynamic_shapes=(shapes,))


def shapes(program: fxp.Program, *tensors: torch.Tensor) -> list[list[tuple[int, ...]]]:
    return [[tuple(tensor.shape) for tensor in new] for new in resized(program, tensors)]


def test_each_size_that_varies_has_a_number():
    """A size that two tensors have in common is one of them."""
    x, y = torch.rand(2, 3), torch.rand(3, 4)
    assert shapes(captured(torch.matmul, x, y), x, y) == [
        [(2, 3), (3, 4)],
        [(3, 5), (5, 7)],
        [(7, 9), (9, 11)],
        [(1, 2), (2, 3)],
        [(1, 1), (1, 1)],
        [(2, 10), (10, 4)],
        [(17, 17), (17, 17)],
        [(0, 0), (0, 0)],
    ]


def test_sizes_are_those_within_the_ranges():
    x = torch.rand(4)
    program = captured(torch.neg, x, dim=Dim("n", min=3, max=10))
    assert shapes(program, x) == [[(4,)], [(5,)], [(10,)], [(3,)]]


def test_without_a_size_that_varies_there_is_no_call():
    assert not shapes(fxp.capture(Module(torch.neg), (torch.rand(4),)), torch.rand(4))


def test_values_are_those_of_the_example():
    x = torch.tensor([2, 5])
    assert {int(value) for (tensor,) in resized(captured(torch.neg, x), [x]) for value in tensor} == {2, 5}


def outcomes(eager: Callable[..., Any], compiled: Callable[..., Any]) -> dict[int, Outcome]:
    """What becomes of the calls of a program of *compiled* in the place of *eager*, by size."""
    x = torch.rand(4)
    op = AnySize("f", lambda x: [eager(x)], captured(lambda x: [compiled(x)], x))
    calls = [(op, tuple(new), {}) for new in resized(op.program, [x])]
    found = judge([Variant(call, may_raise=True) for call in calls], dynamic_answers)
    return {len(call[1][0]): outcome for call, outcome in zip(calls, found, strict=True) if outcome}


def evenly(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, 2).neg().reshape(-1)


@pytest.mark.parametrize(
    ("eager", "compiled", "even", "odd"),
    [
        (torch.neg, torch.neg, "exact", "exact"),
        (torch.neg, torch.abs, "wrong", "wrong"),
        (evenly, torch.neg, "exact", "wrong"),
        (torch.neg, evenly, "exact", "refused"),
        (evenly, evenly, "exact", "raises"),
    ],
)
def test_what_becomes_of_calls(eager, compiled, even, odd):
    kinds = {size: outcome.kind for size, outcome in outcomes(eager, compiled).items() if size > 2}
    assert kinds == {4: even, 5: odd, 11: odd, 3: odd, 17: odd}


def test_sizes_of_the_example_that_were_kept_are_wrong():
    found = outcomes(lambda x: x * len(x), lambda x: x * 4)
    assert {size for size, outcome in found.items() if outcome.kind == "wrong"} == {5, 11, 3, 1, 17}


def test_a_result_where_eager_raises_is_told():
    outcome = outcomes(evenly, torch.neg)[11]
    assert outcome.detail.startswith("a result, where eager raises RuntimeError: shape '[-1, 2]' is invalid")
