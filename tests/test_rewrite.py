"""`Editor` and `@rewrite`: metadata upkeep, source lines, refusals."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import nn

import fxpasses as fxp
from fxpasses.errors import FxpassesError
from tests.passes.helpers import aten, program_of

X = torch.randn(2, 3)


@fxp.rewrite(aten.relu.default)
def relu_of_relu(g, node):
    """The example of the documentation."""
    (inner,) = node.args
    return inner if inner.target is aten.relu.default else None


def count(program, target):
    return sum(node.target is target for node in program.graph.nodes)


def test_rewrite_removes_a_whole_chain():
    program = program_of(lambda x: x.relu().relu().relu() + x.relu(), X)
    after = relu_of_relu(program)
    assert count(after, aten.relu.default) == 2
    assert count(program, aten.relu.default) == 4
    torch.testing.assert_close(after(X), program(X))
    assert repr(relu_of_relu) == "relu_of_relu"
    assert relu_of_relu.__doc__ == "The example of the documentation."


def test_rewrite_without_a_match_gives_the_program_itself():
    program = program_of(lambda x: x + 1, X)
    assert relu_of_relu(program) is program
    unmatched = program_of(lambda x: x.relu(), X)
    assert relu_of_relu(unmatched) is unmatched


def test_rewrite_visits_what_it_makes():
    @fxp.rewrite(aten.add.Tensor)
    def count_down(g, node):
        x, number = node.args[:2]
        if not isinstance(number, int) or number <= 1:
            return None
        return g.call(aten.add.Tensor, g.call(aten.add.Tensor, x, 1), number - 1)

    after = count_down(program_of(lambda x: x + 5, X))
    assert count(after, aten.add.Tensor) == 5
    torch.testing.assert_close(after(X), X + 5)


def test_a_rule_without_end_is_stopped():
    @fxp.rewrite(aten.relu.default)
    def forever(g, node):
        return g.call(aten.relu.default, node.args[0])

    with pytest.raises(FxpassesError, match="forever does not come to an end"):
        forever(program_of(lambda x: x.relu(), X))


def test_a_rule_that_gives_up_leaves_nothing_behind():
    @fxp.rewrite(aten.relu.default)
    def undecided(g, node):
        g.call(aten.exp.default, g.call(aten.neg.default, node.args[0]))
        return None

    program = program_of(lambda x: x.relu(), X)
    assert undecided(program) is program


def test_results_of_a_call_with_several_are_replaced_together():
    @fxp.rewrite(aten.max.dim)
    def spell_out(g, node):
        x, dim, keepdim = node.args[0], node.args[1], False
        return (g.call(aten.amax.default, x, [dim], keepdim), g.call(aten.argmax.default, x, dim, keepdim))

    program = program_of(lambda x: x.max(1), X)
    after = spell_out(program)
    assert count(after, operator.getitem) == 0
    torch.testing.assert_close(tuple(after(X)), tuple(program(X)))


def test_new_calls_carry_fake_values_source_lines_and_full_form():
    program = program_of(lambda x: x.relu(), X)
    g = program.edit()
    (node,) = g.nodes(aten.relu.default)
    with g.at(node):
        new = g.call(aten.softmax.int, node.args[0], dim=1)
    assert new.args[1:] == (1, None)
    assert new.meta["val"].shape == (2, 3)
    assert new.meta["val"].fake_mode is program.fake_mode
    assert new.stack_trace == node.stack_trace


def test_a_symbolic_size_becomes_the_node_that_computes_it():
    program = program_of(lambda x: x.relu(), X, dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    g = program.edit()
    (node,) = g.nodes(aten.relu.default)
    n = node.meta["val"].shape[0]
    with g.at(node):
        flat = g.call(aten.reshape.default, node.args[0], [n * 3])
        g.replace(node, g.call(aten.reshape.default, g.call(aten.relu.default, flat), [n, 3]))
    after = g.finish()
    assert not fxp.verify(after)
    for size in (1, 4):
        x = torch.randn(size, 3)
        torch.testing.assert_close(after(x), x.relu())


def test_replacement_must_have_the_same_type():
    program = program_of(lambda x: x.relu(), X)
    g = program.edit()
    (node,) = g.nodes(aten.relu.default)
    with g.at(node):
        shorter = g.call(aten.sum.dim_IntList, node.args[0], [0])
        with pytest.raises(
            FxpassesError, match=r"relu: f32\[2, 3\] cannot be replaced by .*: f32\[3\] \(.*\.py:\d+ in"
        ):
            g.replace(node, shorter)
        with pytest.raises(FxpassesError, match="can be replaced by a node only, not by 3"):
            g.replace(node, 3)


def test_calls_that_do_not_fit_the_schema_are_refused():
    g = program_of(lambda x: x.relu(), X).edit()
    (node,) = g.nodes(aten.relu.default)
    with g.at(node):
        with pytest.raises(FxpassesError, match="aten.relu.default takes 1 positional arguments, got 2"):
            g.call(aten.relu.default, node.args[0], 1)
        with pytest.raises(FxpassesError, match="aten.softmax.int lacks argument 'dim'"):
            g.call(aten.softmax.int, node.args[0])
        with pytest.raises(FxpassesError, match="aten.relu.default has no argument 'inplace'"):
            g.call(aten.relu.default, node.args[0], inplace=True)


def test_constants_get_names_of_their_own():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("constant", torch.ones(3))

        def forward(self, x):
            return x + self.constant

    program = program_of(Model(), X)
    g = program.edit()
    (node,) = g.nodes(aten.add.Tensor)
    with g.at(node):
        g.replace(node, g.call(aten.mul.Tensor, node.args[0], g.constant(torch.full((3,), 2.0))))
    after = g.finish()
    assert not fxp.verify(after)
    assert list(after.tensors) == ["constant", "constant_1"]
    torch.testing.assert_close(after(X), X * 2)
    assert list(fxp.passes.eliminate_dead_code(after).tensors) == ["constant_1"]


def test_tensor_gives_only_what_never_changes():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.register_buffer("count", torch.zeros(3))

        def forward(self, x):
            self.count.add_(1)
            return x * self.weight + self.count

    program = program_of(Model(), X)
    g = program.edit()
    values = {node.meta["role"].target: g.tensor(node) for node in g.graph.find_nodes(op="placeholder")}
    assert values["weight"] is program.tensors["weight"]
    assert values["count"] is None
    assert values["x"] is None


def test_edit_leaves_the_original_alone():
    program = program_of(lambda x: x.relu().exp(), X)
    text = str(program)
    g = program.edit()
    for node in reversed(g.nodes(aten.exp.default, aten.relu.default)):
        g.replace(node, node.args[0])
    after = g.finish()
    assert str(program) == text
    torch.testing.assert_close(after(X), X)


def test_editing_reaches_the_bodies_of_control_flow():
    class Model(nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda x: x.relu().relu(), lambda x: x.sin().relu().relu(), (x,))

    program = program_of(Model(), X)
    after = relu_of_relu(program)
    assert sum(node.target is aten.relu.default for node in after.nodes()) == 2
    for x in (X.abs(), -X.abs()):
        torch.testing.assert_close(after(x), program(x))
