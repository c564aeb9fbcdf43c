"""Operators whose result has a size that depends on values, through the passes."""

from __future__ import annotations

import pytest
import torch

import fxpasses as fxp
from fxpasses.errors import RunError

X = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
COUNTS = torch.tensor([2, 0])

PROGRAMS = {
    "argwhere": (lambda x: torch.argwhere(x > 0), (X,)),
    "nonzero used twice": (lambda x: (x.nonzero(), x.nonzero() + 1), (X,)),
    "boolean index": (lambda x: x[x > 0] * 2, (X,)),
    "repeat_interleave": (lambda x, n: (x.repeat_interleave(n, 0), x.tile(2)), (X, COUNTS)),
    "sum over what was found": (lambda x: x[x != 0].sum(), (X,)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_canonicalize(name):
    function, args = PROGRAMS[name]
    program = fxp.capture(function, args)
    result = fxp.canonicalize(program)
    fxp.verify(result, "canonical").raise_if_any()
    assert str(fxp.canonicalize(result)) == str(result)
    fxp.testing.assert_equivalent(function, result, args)
    fxp.testing.assert_equivalent(function, fxp.compile(result), args)


def places_of_groups(groups: torch.Tensor) -> torch.Tensor:
    """Where each group begins, as graph networks compute it; how many there are depends on values."""
    number = groups.max().item() + 1
    counts = torch.zeros(number, dtype=torch.int64).scatter_add(0, groups, torch.ones_like(groups))
    places = counts.new_empty(number + 1)
    places[0] = 0
    places[1:] = counts.cumsum(0)
    return places


def test_memory_that_is_filled_later():
    example = torch.tensor([0, 0, 1, 1, 2])
    compiled = fxp.compile(places_of_groups, (example,), dynamic_shapes=({0: torch.export.Dim("n")},))
    for groups in ([0, 1, 2, 2], [0, 1], [0, 0, 0], [3]):
        assert torch.equal(compiled(torch.tensor(groups)), places_of_groups(torch.tensor(groups)))


def test_conditions_on_what_is_read_follow_the_reading():
    import sympy

    from fxpasses.guards import restricted

    program = fxp.capture(places_of_groups, (torch.tensor([0, 0, 1, 1, 2]),))
    number = next(iter(program.graph.find_nodes(op="call_function", target=torch.ops.aten.item.default)))
    symbol = number.meta["val"].node.expr
    held = restricted(program, [("number", sympy.Ne(symbol, 2, evaluate=False))])
    fxp.verify(held).raise_if_any()
    places = held(torch.tensor([0, 0, 1, 1, 3]))
    assert torch.equal(places, torch.tensor([0, 2, 4, 4, 5]))
    with pytest.raises(RuntimeError):
        held(torch.tensor([0, 0, 1, 1, 2]))


def written_between(x: torch.Tensor, places: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[places[0] : places[1]] = y
    return x


def test_rows_between_two_values_are_as_many_as_what_is_written():
    rows = torch.export.Dim("rows", min=2)
    x, y = torch.randn(9, 8), torch.randn(4, 8)
    compiled = fxp.compile(
        written_between,
        (x, torch.tensor([0, 4]), y),
        dynamic_shapes=({0: torch.export.Dim.AUTO}, None, {0: rows}),
    )
    for places in ([0, 4], [2, 9], [-3, 9]):
        places = torch.tensor(places)
        y = torch.randn(len(x[places[0] : places[1]]), 8)
        assert torch.equal(compiled(x, places, y), written_between(x, places, y))
    with pytest.raises(RunError, match="a value that the program read or computed breaks"):
        compiled(x, torch.tensor([2, 5]), torch.randn(4, 8))
