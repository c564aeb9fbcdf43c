"""`torch.cond` as an If of Relax; loops as islands."""

from __future__ import annotations

import pytest
import torch
from torch._higher_order_ops import while_loop
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan
from torch.export import Dim

from fxpasses.codegen.artifact import load
from fxpasses.codegen.compile import compile, explain
from fxpasses.errors import IndexRangeError, IslandWarning, UnsupportedOperatorError
from tests.codegen.helpers import compiled_of, program_of


def agree(model, *calls, dynamic_shapes=None, islands=0):
    """Compile with the first call's arguments, and compare all calls with eager."""
    compiled = compiled_of(model, *calls[0], dynamic_shapes=dynamic_shapes)
    assert len(compiled.islands.rows if compiled.islands else ()) == islands
    with torch.no_grad():
        for args in calls:
            torch.testing.assert_close(compiled(*args), model(*args), rtol=1e-5, atol=1e-5)
    return compiled


class Chooses(torch.nn.Module):
    """Nested choices with parameters in the branches and a closure over an outer value."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.register_buffer("shift", torch.arange(4.0))

    def forward(self, x):
        outer = x * 3

        def inside(x):
            inner = torch.cond(x.mean() > 1, lambda x: self.first(x), lambda x: self.second(x) * 2, (x,))
            return inner + outer, x + self.shift

        def other(x):
            return self.first(x).relu(), outer - x

        return torch.cond(x.sum() > 0, inside, other, (x,))


def test_both_branches_nested_with_parameters_saved_and_loaded(tmp_path):
    model = Chooses().eval()
    torch.manual_seed(0)
    calls = [(torch.randn(rows, 4) + shift,) for shift in (-2, 0.3, 3) for rows in (3, 6)]
    compiled = agree(model, *calls, dynamic_shapes=({0: Dim.DYNAMIC},))
    compiled.save(tmp_path / "model.fxp")
    loaded = load(tmp_path / "model.fxp")
    for args in calls:
        torch.testing.assert_close(loaded(*args), compiled(*args), rtol=0, atol=0)


def test_a_branch_may_return_its_operand_whose_memory_is_then_not_used_again():
    def model(x):
        hidden = x * 2 + 1
        kept, other = torch.cond(
            x.sum() > 0, lambda h: (h.clone(), h + 1), lambda h: (h - 1, h.clone()), (hidden,)
        )
        for _ in range(4):  # values of the same size, for which memory is planned anew
            other = torch.softmax(other, -1) @ torch.ones(8, 8)
        return kept, other

    agree(model, (torch.rand(8, 8),), (-torch.rand(8, 8),))


def test_the_predicate_may_be_an_argument_an_element_or_a_size():
    def given(flag, x):
        return torch.cond(flag, lambda x: x.sin(), lambda x: x.cos(), (x,))

    x = torch.randn(5)
    agree(given, (torch.tensor(True), x), (torch.tensor(False), x))

    def one_element(x):
        return torch.cond(x[:1] > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))

    agree(one_element, (torch.ones(3),), (-torch.ones(3),))

    def by_item(x):
        return torch.cond((x > 0).any().item(), lambda x: x.sin(), lambda x: x.cos(), (x,))

    agree(by_item, (torch.ones(3),), (-torch.ones(3),))

    def by_count(x):
        return torch.cond((x > 0).sum().item() > 2, lambda x: x.sin(), lambda x: x.cos(), (x,))

    agree(by_count, (torch.ones(3),), (-torch.ones(3),))


def test_sizes_that_only_a_branch_uses():
    def model(x, y):
        return torch.cond(
            x.sum() > 0,
            lambda x, y: x.sum(0) * y.shape[0] + torch.arange(4) * x.shape[0],
            lambda x, y: y.sum(0) / x.shape[0],
            (x, y),
        )

    batch, rows = Dim("batch"), Dim("rows")
    calls = [(torch.rand(b, 4) * s, torch.rand(r, 4)) for b, r, s in ((3, 5, 1), (2, 7, -1), (6, 2, 1))]
    agree(model, *calls, dynamic_shapes=({0: batch}, {0: rows}))


def test_equal_conditions_in_a_row_and_one_used_by_another():
    def model(x):
        for _ in range(3):
            x = torch.cond(x.sum() > 1, lambda x: x * 0.5, lambda x: x + 1, (x,))
        return x

    agree(model, (torch.rand(4),), (-torch.rand(4) * 9,), (torch.rand(4) * 9,))


def test_buffers_updated_from_a_branch():
    class Counter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += torch.cond(x.sum() > 0, lambda x: x.sum(), lambda x: x.sum() * 0, (x,))
            return x + self.seen

    compiled = compiled_of(Counter(), torch.ones(2))
    assert [compiled(torch.full((2,), v))[0].item() for v in (1.0, -5.0, 2.0)] == [3, -3, 8]
    assert compiled.state["seen"] == 6


def test_only_the_branch_taken_is_checked():
    table = torch.arange(5.0)

    def model(x, i):
        return torch.cond(x.sum() > 0, lambda x, i: x + table[i * 2], lambda x, i: x + table[i * 0], (x, i))

    x, i = torch.ones(3), torch.tensor([0, 1, 2])
    compiled = agree(model, (x, i), (-x, i), (-x, i + 9))
    with pytest.raises(IndexRangeError, match=r"aten.index.Tensor allows -5 to 4"):
        compiled(x, i + 9)
    torch.testing.assert_close(compiled(x, i), model(x, i))


def test_an_index_from_a_branch():
    def model(x):
        return x[torch.cond(x.sum() > 0, lambda: 0, lambda: 1, ())]

    agree(model, (torch.arange(1.0, 4),), (-torch.arange(1.0, 4),))


def test_an_island_in_a_branch():
    def model(x):
        return torch.cond(x.sum() > 0, lambda x: torch.special.zeta(x + 2, x + 1), lambda x: x * 2, (x,))

    agree(model, (torch.rand(3),), (-torch.rand(3),), islands=1)


LOOPS = {
    "while_loop": lambda x: while_loop(lambda i, x: i < 5, lambda i, x: (i + 1, x * 2), (torch.tensor(0), x)),
    "scan": lambda x: scan(lambda c, y: (c + y, c * y), torch.zeros(4), x),
    "map": lambda x: torch_map(lambda row, y: row.relu() + y, x, torch.ones(4)),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_run_as_islands_and_say_so(name, tmp_path):
    model = LOOPS[name]
    x = torch.randn(3, 4)
    compiled = agree(model, (x,), (x + 1,), islands=1)
    compiled.save(tmp_path / "model.fxp")
    with pytest.warns(IslandWarning, match=f"run in PyTorch: .*{name}"):
        loaded = load(tmp_path / "model.fxp")
    torch.testing.assert_close(loaded(x), model(x))
    (row,) = [row for row in explain(program_of(model, x)) if row.kind == "island"]
    assert row.reason == "TVM has no form of this control flow"
    with pytest.raises(UnsupportedOperatorError, match=name):
        compile(program_of(model, x), strict=True)


def _scaled(x):
    return x * torch.cond(x.sum() > 0, lambda x: 2, lambda x: 3, (x,))


def _mixed(x):
    y, n, same = torch.cond(x.sum() > 0, lambda x: (x.sin(), 2, 5), lambda x: (x.cos(), 3, 5), (x,))
    return y * same, n, torch.ones(n)


def _nested(x):
    def positive(x):
        return x * torch.cond(x[0, 0] > 0, lambda x: 7, lambda x: 9, (x,))

    return torch.cond(x.sum() > 0, positive, lambda x: x * 3, (x,))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("function", [_scaled, _mixed, _nested])
def test_branches_that_return_integers(function, dynamic):
    x = torch.randn(4, 3)
    shapes = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC},) if dynamic else None
    compiled = compile(function, (x,), dynamic_shapes=shapes, strict=True)
    for value in (x, -x, x.flip(0, 1)):
        torch.testing.assert_close(compiled(value), function(value))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.uint8], ids=str)
def test_a_number_decides(dtype):
    def model(n, x):
        return torch.cond(n, lambda x: x.sin(), lambda x: x.cos(), (x,))

    x, compiled = torch.randn(3), torch.compile(model, backend="fxpasses", fullgraph=True)
    for n in (0, 2, 1):
        expected = x.sin() if n else x.cos()
        torch.testing.assert_close(compiled(torch.tensor(n, dtype=dtype), x), expected)
