"""`first_divergence` names the first node that differs, and what it was matched by."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxpasses.passes import canonicalize
from fxpasses.program import Program
from fxpasses.rewrite import rewrite
from fxpasses.testing import first_divergence, inputs_for, programs

aten = torch.ops.aten


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        y = torch.relu(x)
        z = torch.tanh(y)
        self.seen += 1
        return torch.exp(z) + y, z


def captured() -> Program:
    return Program.from_exported_program(torch.export.export(Net(), (torch.randn(3),)))


@rewrite(aten.tanh.default)
def tanh_to_sigmoid(g, node):
    return g.call(aten.sigmoid.default, *node.args)


X = torch.tensor([0.5, -1.0, 2.0])


@settings(max_examples=30)
@given(program=programs(), data=st.data())
def test_a_program_does_not_diverge_from_itself(program, data):
    assert first_divergence(program, program, data.draw(inputs_for(program))) is None


def test_renaming_is_no_divergence():
    program = captured()
    assert first_divergence(program, canonicalize(program), X) is None
    assert first_divergence(canonicalize(program), program, X) is None


def test_an_argument_changed_in_place_is_found_by_name():
    program = captured()
    g = program.edit()
    (node,) = g.nodes(aten.exp.default)
    node.target = aten.exp2.default
    found = first_divergence(program, g.finish(), X)
    assert found is not None
    assert found.a.name == "add_1"  # exp and exp2 are no twins; what follows them is
    assert found.matched_by == "name"
    assert found.arguments == (("exp", False), ("relu", True))
    text = str(found)
    assert "first divergence: add_1 of a, add_1 of b (matched by name)" in text
    assert "a: add_1: f32[3] = aten.add.Tensor(exp, relu)" in text
    assert "relu agree; exp have no equal in b" in text


def test_a_replaced_call_is_found_by_its_source_line():
    program = captured()
    found = first_divergence(program, tanh_to_sigmoid(program), X)
    assert found is not None
    assert found.a.target is aten.tanh.default
    assert found.b.target is aten.sigmoid.default
    assert found.matched_by == "source line"
    assert found.arguments == (("relu", True),)
    assert found.difference is not None
    assert found.difference.count == 3
    assert "test_divergence.py" in str(found)


def test_without_names_and_lines_the_outputs_tell():
    program = captured()
    other = tanh_to_sigmoid(program)
    for number, node in enumerate(other.graph.nodes):
        if node.op == "call_function":
            node.name = f"n{number}"
        node.meta.pop("stack_trace", None)
    found = first_divergence(program, other, X)
    assert found is not None
    assert found.matched_by == "output 0"


def test_a_mutation_that_differs():
    program = captured()
    g = program.edit()
    node = g.graph.output_node()
    (placeholder,) = (n for n in g.graph.find_nodes(op="placeholder") if n.meta["role"].target == "seen")
    node.args = (tuple(placeholder if i == 0 else v for i, v in enumerate(node.args[0])),)
    found = first_divergence(program, g.finish(), X)
    assert found is not None
    assert found.matched_by == "new value of 'seen'"


def test_a_type_that_differs():
    program = captured()
    g = program.edit()
    node = g.graph.output_node()
    with g.at(node):
        wide = g.call(aten._to_copy.default, node.args[0][1], dtype=torch.float64)
    node.args = ((node.args[0][0], wide, *node.args[0][2:]),)
    found = first_divergence(program, g.finish(), X)
    assert found is not None
    assert found.difference is None
    assert "their types differ" in str(found)


def test_rounding_is_no_divergence():
    class A(torch.nn.Module):
        def forward(self, x, w):
            return (x @ w).sum(0)

    class B(torch.nn.Module):
        def forward(self, x, w):
            return (w.t() @ x.t()).t().flip(0).sum(0)

    torch.manual_seed(0)
    args = (torch.randn(16, 64), torch.randn(64, 16))
    a, b = (Program.from_exported_program(torch.export.export(m, args)) for m in (A(), B()))
    assert first_divergence(a, b, args) is None


def test_results_picked_from_different_calls_are_not_matched_by_name():
    def function(x):
        first, second = x.split([2, 2])
        return torch.ones_like(first), *torch.cummax(second, 0)

    x = torch.tensor([[1.0], [2.0], [-3.0], [4.0]])
    program = Program.from_exported_program(torch.export.export(_Function(function), (x,)))
    assert first_divergence(program, canonicalize(program), x) is None


class _Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function
