"""Passes on the structure of a graph: dead code, twins, constants, order, tensors, no-ops."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxpasses import passes as P
from fxpasses.pipeline import Pipeline
from tests.passes.helpers import apply, aten, body, program_of

X = torch.randn(2, 3, 4)


def targets(program):
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


class Model(nn.Module):
    """A module whose forward is a function of itself."""

    def __init__(self, forward, **tensors):
        super().__init__()
        for name, tensor in tensors.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)
        self.function = forward

    def forward(self, *args):
        return self.function(self, *args)


def test_dead_code_goes_and_inputs_stay():
    model = Model(lambda m, x, y: (x.exp().sin(), x + m.used)[1], used=torch.ones(1), unused=torch.ones(1))
    program = program_of(model, X, X)
    after = apply(P.eliminate_dead_code, program, X, X)
    assert targets(after) == [aten.add.Tensor]
    assert list(after.tensors) == ["used"]
    assert len(after.inputs) == 2


def test_a_mutated_buffer_is_not_dead():
    def forward(m, x):
        m.count.add_(1)
        return x

    program = apply(P.canonicalize, program_of(Model(forward, count=torch.zeros(())), X), X)
    assert list(program.mutations) == ["count"]


def test_equal_calls_become_one():
    program = program_of(lambda x: (x + 1).exp() * (x + 1).exp() + (x + 1.0).cos(), X)
    after = apply(P.eliminate_common_subexpressions, program, X)
    assert targets(after).count(aten.exp.default) == 1
    assert targets(after).count(aten.add.Tensor) == 3  # + 1 and + 1.0 are spelled differently


def test_zeros_of_both_signs_are_no_twins():
    program = program_of(lambda x: (x * 0.0, x * -0.0), X)
    after = apply(P.eliminate_common_subexpressions, program, X)
    assert targets(after).count(aten.mul.Tensor) == 2


def test_random_calls_are_no_twins():
    program = program_of(lambda x: torch.rand_like(x) + torch.rand_like(x), X)
    assert targets(P.eliminate_common_subexpressions(program)).count(aten.rand_like.default) == 2


def test_calls_with_symbols_of_their_own_are_not_merged():
    program = program_of(lambda x: x * (x.sum().item() + 2 * x.sum().item()), torch.arange(3))
    after = P.canonicalize(program)
    assert targets(after).count(aten._local_scalar_dense.default) == 2
    assert targets(after).count(aten.sum.dim_IntList) == 1
    assert torch.equal(after.run(torch.arange(3))[0], torch.tensor([0, 9, 18]))


def test_constants_fold():
    model = Model(lambda m, x: x + (m.table[1:] * 2).sin(), table=torch.arange(5.0))
    after = apply(P.canonicalize, program_of(model, X), X)
    assert targets(after) == [aten.add.Tensor]
    (name,) = after.tensors
    assert torch.equal(after.tensors[name], (model.table[1:] * 2).sin())


def test_an_even_constant_folds_to_full():
    model = Model(lambda m, x: x * (m.ones + 1), ones=torch.ones(4))
    after = apply(P.canonicalize, program_of(model, X), X)
    assert body(after).splitlines()[0] == "full: f32[4] = aten.full.default([4], 2.0, dtype=torch.float32)"
    assert after.tensors == {}


def test_zeros_of_both_signs_do_not_fold_to_full():
    model = Model(lambda m, x: x * m.zeros.neg().neg(), zeros=torch.tensor([0.0, -0.0, 0.0, -0.0]))
    after = apply(P.canonicalize, program_of(model, X), X)
    (tensor,) = after.tensors.values()
    assert tensor.signbit().tolist() == [False, True, False, True]


FOLD = Pipeline(P.FoldConstants(max_bytes=64), P.eliminate_dead_code)


@pytest.mark.parametrize(
    ("forward", "tensors", "kept"),
    [
        (lambda m, x: x + m.t.exp(), {"t": nn.Parameter(torch.ones(4))}, [aten.exp.default, aten.add.Tensor]),
        (
            lambda m, x: x.sum() + m.t.exp(),
            {"t": torch.rand(17)},
            [aten.sum.default, aten.exp.default, aten.add.Tensor],
        ),
        (lambda m, x: x + torch.arange(4), {}, [aten.arange.default, aten.add.Tensor]),
        (
            lambda m, x: (m.t.add_(1), x + m.t.exp())[1],
            {"t": torch.ones(4)},
            [aten.add.Tensor, aten.exp.default, aten.add.Tensor],
        ),
    ],
    ids=["parameter", "too large", "lone creation", "mutated"],
)
def test_left_unfolded(forward, tensors, kept):
    after = apply(FOLD, program_of(Model(forward, **tensors), X), X)
    assert targets(after) == kept


def test_order_and_names_do_not_depend_on_how_the_graph_was_written():
    def left(x):
        a, b = x.exp(), x.sin()
        return a + b

    def right(x):
        b = x.sin()
        a = x.exp()
        return a + b

    ordered = [apply(P.order_nodes, program_of(f, X), X) for f in (left, right)]
    assert str(ordered[0]) == str(ordered[1])
    assert [node.name for node in ordered[0].graph.nodes] == ["input0", "exp", "sin", "add", "output"]


def test_order_keeps_the_sequence_of_random_calls():
    def function(x):
        a, b = torch.rand_like(x), torch.randn_like(x)
        return b, a

    after = P.order_nodes(program_of(function, X))
    assert targets(after) == [aten.rand_like.default, aten.randn_like.default]


def test_tied_tensors_have_one_placeholder():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embedding.weight
            self.spare = nn.Linear(2, 2)

        def forward(self, ids):
            return self.head(self.embedding(ids))

    model, ids = Tied(), torch.tensor([[1, 2]])
    after = apply(P.normalize_params, program_of(model, ids), ids)
    assert len(after.tensors) == 1
    torch.testing.assert_close(after(ids), model(ids))


def test_transposed_view_of_a_parameter_is_not_tied_to_it():
    weight = nn.Parameter(torch.randn(3, 3))

    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = weight
            self.register_buffer("b", weight.detach().t())

        def forward(self, x):
            return x @ self.a + x @ self.b

    x = torch.randn(2, 3)
    after = apply(P.normalize_params, program_of(Views(), x), x)
    assert len(after.tensors) == 2


NOOPS = {
    "reshape to the same shape": lambda x: x.reshape(2, 3, 4),
    "permute there and back": lambda x: x.permute(2, 0, 1).permute(1, 2, 0),
    "reshape there and back": lambda x: x.reshape(6, 4).reshape(2, 3, 4),
    "unsqueeze and squeeze by reshape": lambda x: x.unsqueeze(1).reshape(2, 3, 4),
    "whole slice": lambda x: x[:, 0:3],
    "expand to the same shape": lambda x: x.expand(2, 3, 4),
    "cast to its own dtype": lambda x: x.to(torch.float32),
    "cat of one": lambda x: torch.cat([x]),
    "times one": lambda x: x * 1,
    "over one": lambda x: x / 1.0,
    "to the power of one": lambda x: x**1,
    "contiguous": lambda x: x.contiguous().clone().detach(),
    "no padding": lambda x: torch.nn.functional.pad(x, (0, 0)),
    "no repeats": lambda x: x.repeat(1, 1, 1),
}


@pytest.mark.parametrize("name", NOOPS)
def test_noops_vanish(name):
    after = apply(P.canonicalize, program_of(lambda x: NOOPS[name](x) + 1, X), X)
    assert targets(after) == [aten.add.Scalar]


KEPT = {
    "zero added to a float": (lambda x: x + 0.0, [aten.add.Scalar]),
    "times one that promotes": (lambda x: x.long() * 1.0, [aten._to_copy.default, aten._to_copy.default]),
    "permute": (lambda x: x.permute(2, 0, 1), [aten.permute.default]),
}


@pytest.mark.parametrize("name", KEPT)
def test_no_noops_stay(name):
    function, expected = KEPT[name]
    after = apply(P.canonicalize, program_of(function, X), X)
    assert targets(after) == expected


def test_assertions_leave_the_graph():
    def function(x):
        n = x.shape[0]
        torch._check(n > 1)
        return x * n

    program = program_of(function, X, dynamic_shapes=({0: torch.export.Dim("n", min=2, max=9)},))
    after = apply(P.remove_assertions, program, X)
    assert not any("assert" in str(target) for target in targets(after))
    assert [(int(b.lower), int(b.upper)) for b in after.ranges.values()] == [(2, 9)]


def test_propagate_shapes_restores_what_another_tool_lost():
    program = program_of(lambda x: x.exp().sum(0), X)
    edited = program.edit()
    for node in edited.nodes(aten.exp.default, aten.sum.dim_IntList):
        node.meta["val"] = X.new_zeros(1)
    after = P.propagate_shapes(edited.finish())
    assert str(after) == str(program)
