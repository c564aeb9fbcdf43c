"""Programs in the hands of other tools."""

from __future__ import annotations

import networkx
import pytest
import torch
from torch import nn

import fxpasses as fxp
from fxpasses.errors import CaptureError
from tests.passes.helpers import aten, program_of

X = torch.randn(2, 3)


def test_networkx_shows_the_dataflow():
    program = fxp.canonicalize(program_of(nn.Linear(3, 4), X))
    graph = program.to_networkx()
    assert networkx.is_directed_acyclic_graph(graph)
    assert list(networkx.topological_sort(graph))[-1] == "output"
    assert graph.nodes["addmm"]["type"] == "f32[2, 4]"
    assert graph.nodes["addmm"]["target"] is aten.addmm.default
    assert {graph.nodes[n]["target"] for n in graph.predecessors("addmm")} == {
        "bias",
        "input",
        aten.permute.default,
    }


def test_a_module_of_a_program_is_an_ordinary_one():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    program = program_of(model, X)
    module = program.to_module()
    torch.testing.assert_close(module.state_dict(), model.state_dict())
    with torch.no_grad():
        module.get_parameter("0.weight").zero_()
    torch.testing.assert_close(program(X), model(X))  # its tensors are copies
    assert module.to(torch.float64)(X.double()).dtype == torch.float64
    scripted = torch.jit.trace(program.to_module(), (X,))
    torch.testing.assert_close(scripted(X), model(X))


def test_training_can_go_on_in_a_module_of_a_program():
    module = program_of(nn.Linear(3, 4), X).to_module()
    module(X).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_what_a_program_cannot_hold_is_refused_by_name():
    exported = torch.export.export(nn.Linear(3, 4), (X,))
    spec = exported.graph_signature.output_specs[0]
    spec.kind = torch.export.graph_signature.OutputKind.LOSS_OUTPUT
    with pytest.raises(CaptureError, match="output 'linear' is a loss_output"):
        fxp.Program.from_exported_program(exported)


def test_running_a_program_leaves_the_exported_one_alone():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count.add_(1)
            return x + self.count

    exported = torch.export.export(Counter(), (X,))
    program = fxp.Program.from_exported_program(exported)
    program(X)
    assert program.tensors["count"] == 1
    assert exported.state_dict["count"] == 0


def test_old_values_of_what_is_mutated_leave_a_program_as_values():
    class Swap(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("a", torch.tensor([1.0, 2.0]))
            self.register_buffer("b", torch.tensor([3.0, 4.0]))

        def forward(self, x):
            old_a, old_b, old_x = self.a.clone(), self.b.clone(), x.clone()
            self.a.copy_(old_b)
            self.b.copy_(old_a)
            x.add_(1)
            return old_a.reshape(2, 1), old_x, nn.functional.dropout(old_b, training=False)

    x = torch.zeros(2)
    program = fxp.canonicalize(program_of(Swap(), x))
    assert not program.graph.find_nodes(op="call_function", target=aten.clone.default)
    for module in (program.to_module(), program.to_exported_program().module()):
        fxp.testing.assert_equivalent(Swap(), module, (x,), calls=3)


def test_a_view_that_keeps_quiet_about_it_leaves_a_program_as_a_value():
    class Changes(nn.Module):
        def forward(self, x):
            old = (
                aten._unsafe_view(x, [4]),
                *aten.unsafe_split(x, 1),
                *aten.unsafe_split_with_sizes(x, [1, 1]),
            )
            old = [value.clone() for value in old]
            x.add_(1)
            return old

    x = torch.zeros(2, 2)
    editor = program_of(Changes(), x).edit()
    for clone in editor.nodes(aten.clone.default):
        with editor.at(clone):
            editor.replace(clone, clone.args[0])
    program = editor.finish()
    assert not program.graph.find_nodes(op="call_function", target=aten.clone.default)
    fxp.testing.assert_equivalent(Changes(), program.to_module(), (x,), calls=2)


def test_the_new_value_may_be_a_view_of_the_old_one():
    class Turns(nn.Module):
        def forward(self, x, same):
            x.copy_(x.mT.clone())
            same.copy_(same.view(-1).view(2, 2).clone())
            return x + 1

    inputs = torch.arange(4.0).view(2, 2), torch.ones(2, 2)
    program = fxp.canonicalize(program_of(Turns(), *inputs))
    assert not program.graph.find_nodes(op="call_function", target=aten.clone.default)
    for model in (program, program.to_module(), program.to_exported_program().module(), fxp.compile(program)):
        fxp.testing.assert_equivalent(Turns(), model, inputs, calls=2)


class Counter(nn.Module):
    def __init__(self, persistent):
        super().__init__()
        self.register_buffer("seen", torch.zeros(4), persistent=persistent)

    def forward(self, x):
        self.seen[:2] += x[:2]
        self.seen.mul_(2)
        return x + self.seen


class Shares(nn.Module):
    """A layer that changes a buffer, under two names."""

    def __init__(self, persistent=True):
        super().__init__()
        self.first = Counter(persistent)
        self.inner = nn.Sequential(self.first, nn.ReLU())

    def forward(self, x):
        return self.inner(self.first(x)) * self.first.seen


@pytest.mark.parametrize("via", ["export", "make_fx", "symbolic_trace"])
@pytest.mark.parametrize("persistent", [True, False])
def test_a_tied_buffer_changes_under_each_of_its_names(persistent, via):
    x = torch.arange(4.0)
    program = fxp.capture(Shares(persistent), (x,), via=via)
    assert {"first.seen", "inner.0.seen"} == {role.target for role, _ in program.outputs if role.target}
    assert program.tensors["first.seen"] is program.tensors["inner.0.seen"]
    for model in (program, fxp.canonicalize(program), program.to_module(), fxp.compile(program)):
        fxp.testing.assert_equivalent(Shares(persistent), model, (x,), calls=3)


def test_one_value_may_be_the_new_one_of_two_buffers():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("a", torch.zeros(2))
            self.register_buffer("b", torch.zeros(2))

        def forward(self, x):
            new = self.a + x
            self.a.copy_(new)
            self.b.copy_(new)
            return new

    program = fxp.canonicalize(program_of(Both(), torch.ones(2)))
    again = fxp.Program.from_exported_program(program.to_exported_program())
    assert str(again) == str(program)
    fxp.testing.assert_equivalent(Both(), program.to_module(), (torch.ones(2),), calls=3)


@pytest.mark.parametrize("layer", [torch.nn.Linear(4, 4), torch.nn.Conv1d(4, 2, 1)], ids=["linear", "conv1d"])
def test_a_program_that_was_exported_under_autocast_is_refused(layer):
    class Inside(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.layer(x)

    x = torch.randn(3, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exported = torch.export.export(layer.eval(), (x,))
    with pytest.raises(
        CaptureError, match=r"exported under torch.autocast.* enter it in the module's forward"
    ):
        fxp.capture(exported)
    again = torch.export.export(Inside().eval(), (x,))
    torch.testing.assert_close(fxp.capture(again)(x), Inside()(x))
    half = torch.export.export(layer.to(torch.bfloat16), (x.bfloat16(),))
    torch.testing.assert_close(fxp.capture(half)(x.bfloat16()), layer(x.bfloat16()))
    layer.float()
