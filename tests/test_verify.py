"""Every rule catches a violation that was planted for it, and says nothing about good programs."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import fxpasses as fxp
from fxpasses.errors import VerificationError
from fxpasses.passes import CheckInference, canonicalize
from fxpasses.pipeline import Pipeline, verify_each
from fxpasses.program import Input, Output, Program
from fxpasses.rewrite import Editor
from fxpasses.rules.subject import Subject
from fxpasses.tracing.fake_values import fake_tensor
from fxpasses.verify import RULES, Report, Rule, rule, rules_table, verify

aten = torch.ops.aten


# -- programs to spoil -------------------------------------------------------------------


def export(model: Any, *args: Any, dynamic: Any = None) -> Program:
    if not isinstance(model, nn.Module):
        model = _Module(model)
    return Program.from_exported_program(torch.export.export(model.eval(), args, dynamic_shapes=dynamic))


class _Module(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


class Counter(nn.Module):
    """A parameter, a mutated and a read-only buffer, a mutated input, a symbolic batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("table", torch.randn(4))

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.steps.add_(1)
        state.mul_(2)
        return x * self.weight + state, (x * self.table).sum(0)


Base = Callable[[], Program]


def base(make: Base) -> Base:
    """Decorator: a program made once, of which every call gives a copy that may be spoiled."""
    once = cache(make)

    @wraps(make)
    def copy() -> Program:
        return once().edit().finish()

    return copy


@base
def counter() -> Program:
    batch = torch.export.Dim("batch", max=64)
    return export(Counter(), torch.randn(3, 4), torch.randn(4), dynamic=({0: batch}, None))


@base
def branches() -> Program:
    def choose(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))

    return export(choose, torch.randn(3, 4))


@base
def data_dependent() -> Program:
    return export(lambda x: torch.nonzero(x).neg(), torch.randn(3))


@base
def relu() -> Program:
    """The canonical ``relu(x)`` on f32[2, 3, 4]; plants compute something else in its place."""
    return canonicalize(export(torch.relu, torch.randn(2, 3, 4)))


def node(program: Program, target: Any) -> fx.Node:
    return next(n for n in program.nodes() if target in (n.target, n.name, n.op))


# -- planting ------------------------------------------------------------------------------

Plant = tuple[Program, str | None]  # the program, and the name of the node that is to blame
PLANTS: dict[str, list[Callable[[], Plant]]] = {}


def plant(name: str) -> Callable[[Callable[[], Plant]], Callable[[], Plant]]:
    def enter(make: Callable[[], Plant]) -> Callable[[], Plant]:
        PLANTS.setdefault(name, []).append(make)
        return make

    return enter


def call(name: str, op: Any, *args: Any, **kwargs: Any) -> None:
    """Plant a violation of the rule *name*: ``op(x, *args, **kwargs)``, as it is, in a canonical program."""

    @plant(name)
    def make() -> Plant:
        return instead(lambda g, x: raw_call(g, op, x, *args, **kwargs))


def raw_call(g: Editor, op: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """A call with exactly these arguments, not in full form."""
    value = g.graph.call_function(op, args, kwargs)
    value.meta["val"] = g.infer(value)
    return value


def instead(build: Callable[[Editor, fx.Node], fx.Node]) -> Plant:
    """A canonical program of one input whose only output is what *build* makes of it."""
    g = relu().edit()
    (x,) = g.graph.find_nodes(op="placeholder")
    output = g.graph.output_node()
    with g.at(output), g.graph.inserting_before(output):
        value = build(g, x)
        output.args = ((value,),)
    for dead in g.nodes(aten.relu.default):
        g.erase(dead)
    return g.finish(), value.name


# -- well-formed ---------------------------------------------------------------------------


@plant("graph")
def used_before_computed() -> Plant:
    program = export(lambda x: x.sin().cos(), torch.randn(3))
    node(program, aten.cos.default).append(node(program, aten.sin.default))
    return program, "cos"


@plant("graph")
def name_taken() -> Plant:
    program = counter()
    add = node(program, aten.add.Tensor)
    mul = node(program, aten.mul.Tensor)
    late = max(add, mul)
    late._rename("fresh")
    late.name = min(add, mul).name
    return program, late.name


@plant("graph")
def no_output() -> Plant:
    program = relu()
    program.graph.erase_node(node(program, "output"))
    return program, None


@plant("nodes")
def tensor_by_get_attr() -> Plant:
    program = counter()
    program.graph_module.register_buffer("loose", torch.ones(4))
    with program.graph.inserting_before(node(program, "call_function")):
        return program, program.graph.get_attr("loose").name


@plant("nodes")
def method_call() -> Plant:
    program = counter()
    with program.graph.inserting_before(program.output):
        return program, program.graph.call_method("relu", (program.inputs[0],)).name


@plant("roles")
def no_role() -> Plant:
    program = counter()
    del program.inputs[0].meta["role"]
    return program, "x"


@plant("roles")
def unknown_role() -> Plant:
    program = counter()
    program.inputs[0].meta["role"] = Input("weight", "x")
    return program, "x"


@plant("roles")
def same_name_twice() -> Plant:
    program = counter()
    program.inputs[1].meta["role"] = Input("user", "x")
    return program, "state"


@plant("roles")
def role_in_a_body() -> Plant:
    program = branches()
    operand = next(iter(list(program.graph_modules())[1].graph.nodes))
    operand.meta["role"] = Input("user", "x")
    return program, operand.name


@plant("tensors")
def tensor_without_placeholder() -> Plant:
    program = counter()
    return program.replace(tensors={**program.tensors, "extra": torch.ones(2)}), None


@plant("tensors")
def placeholder_without_tensor() -> Plant:
    program = counter()
    return program.replace(tensors={k: v for k, v in program.tensors.items() if k != "weight"}), "p_weight"


@plant("tensors")
def tensor_of_another_shape() -> Plant:
    program = counter()
    return program.replace(tensors={**program.tensors, "weight": torch.ones(5)}), "p_weight"


@plant("tensors")
def tensor_of_another_dtype() -> Plant:
    program = counter()
    return program.replace(tensors={**program.tensors, "table": torch.ones(4, dtype=torch.int32)}), "b_table"


@plant("tensors")
def tensor_on_another_device() -> Plant:
    program = counter()
    return program.replace(tensors={**program.tensors, "table": torch.ones(4, device="meta")}), "b_table"


def _with_roles(change: Callable[[list[Output]], list[Output]]) -> Plant:
    program = counter()
    program.output.meta["roles"] = tuple(change(list(program.output.meta["roles"])))
    return program, "output"


@plant("outputs")
def role_missing() -> Plant:
    return _with_roles(lambda roles: roles[:-1])


@plant("outputs")
def unknown_target() -> Plant:
    return _with_roles(lambda roles: [Output("buffer_mutation", "nothing"), *roles[1:]])


@plant("outputs")
def mutated_twice() -> Plant:
    return _with_roles(lambda roles: [roles[0], roles[0], *roles[2:]])


@plant("outputs")
def parameter_mutated() -> Plant:
    return _with_roles(lambda roles: [Output("buffer_mutation", "weight"), *roles[1:]])


@plant("outputs")
def user_output_with_target() -> Plant:
    return _with_roles(lambda roles: [*roles[:-1], Output("user", "x")])


@plant("outputs")
def mutation_changes_shape() -> Plant:
    program = counter()
    values = program.output.args[0]
    program.output.args = ((values[-1], *values[1:]),)
    return program, values[-1].name


@plant("structure")
def outputs_beside_structure() -> Plant:
    program = counter()
    return program.replace(out_spec=torch.utils._pytree.tree_structure((0, 0, 0))), None


@plant("structure")
def inputs_beside_structure() -> Plant:
    program = counter()
    return program.replace(in_spec=torch.utils._pytree.tree_structure(((0,), {}))), None


@plant("structure")
def not_args_and_kwargs() -> Plant:
    program = counter()
    return program.replace(in_spec=torch.utils._pytree.tree_structure([0, 0])), None


@plant("values")
def no_value() -> Plant:
    program = counter()
    add = node(program, aten.add.Tensor)
    del add.meta["val"]
    return program, add.name


@plant("values")
def real_tensor_as_value() -> Plant:
    program = counter()
    add = node(program, aten.add.Tensor)
    add.meta["val"] = torch.zeros(())
    return program, add.name


@plant("values")
def another_mode() -> Plant:
    program = relu()
    add = node(program, aten.relu.default)
    add.meta["val"] = fake_tensor(FakeTensorMode(shape_env=ShapeEnv()), torch.zeros(2, 3, 4))
    return program, add.name


@plant("targets")
def in_place() -> Plant:
    return instead(lambda g, x: raw_call(g, aten.relu_.default, x))


@plant("targets")
def python_function() -> Plant:
    return instead(lambda g, x: raw_call(g, torch.relu, x))


@plant("arguments")
def missing_argument() -> Plant:
    program = relu()
    node(program, aten.relu.default).args = ()
    return program, "relu"


@plant("arguments")
def unknown_argument() -> Plant:
    program = relu()
    node(program, aten.relu.default).kwargs = {"slope": 1}
    return program, "relu"


@plant("arguments")
def argument_of_another_type() -> Plant:
    program, name = instead(lambda g, x: raw_call(g, aten.amax.default, x, [0], False))
    node(program, name).args = (program.inputs[0], [0.5], False)
    return program, name


@plant("arguments")
def loose_symbol() -> Plant:
    program = counter()
    g = program.edit()
    x = next(n for n in g.graph.nodes if n.name == "x")
    with g.graph.inserting_before(g.graph.output_node()):
        view = raw_call(g, aten.reshape.default, x, [4, -1])
        view.args = (x, [4, x.meta["val"].shape[0]])
    return g.finish(), view.name


@plant("arguments")
def result_out_of_range() -> Plant:
    program, name = instead(_maximum_and_its_place)
    node(program, operator.getitem).args = (node(program, aten.max.dim), 2)
    return program, name


def _maximum_and_its_place(g: Editor, x: fx.Node) -> fx.Node:
    return g.call(operator.getitem, g.call(aten.max.dim, x, 0, False), 0)


@plant("bodies")
def body_with_other_parameters() -> Plant:
    program = branches()
    cond = node(program, torch.ops.higher_order.cond)
    cond.args = (*cond.args[:3], (cond.args[0],))
    return program, cond.name


@plant("bodies")
def body_with_another_result() -> Plant:
    program = branches()
    body = list(program.graph_modules())[1].graph
    body.output_node().args = ((body.output_node().args[0][0],) * 2,)
    return program, "cond"


@plant("bodies")
def body_as_value() -> Plant:
    program = branches()
    with program.graph.inserting_before(program.output):
        use = program.graph.call_function(aten.relu.default, (node(program, "get_attr"),))
    use.meta["val"] = program.inputs[0].meta["val"]
    return program, use.name


@plant("symbols")
def symbol_without_range() -> Plant:
    return counter().replace(ranges={}), "x"


@plant("symbols")
def symbol_of_no_input() -> Plant:
    program = counter()
    x = program.inputs[0]
    x.meta["val"] = program.fake_mode.from_tensor(torch.zeros(3, 4), static_shapes=True)
    return program, next(
        n.name for n in program.nodes() if n.op == "call_function" and x in n.all_input_nodes
    )


@plant("symbols")
def unbacked_symbol_from_nowhere() -> Plant:
    program = canonicalize(data_dependent())
    neg = node(program, aten.neg.default)
    neg.args = (program.inputs[0],)
    program.graph.erase_node(node(program, aten.nonzero.default))
    return program, neg.name


# -- canonical: the form of calls --------------------------------------------------------------

call("full-form", aten.amax.default, [0])
call("full-form", aten._softmax.default, dim=0, half_to_float=False)
call("scalars", aten.add.Tensor, 2.0, alpha=1)
call("promotion", aten.mul.Scalar, 2)
call("alpha-beta", aten.add.Scalar, 2.0, 3)
call("dims", aten.amax.default, [-1], False)
call("dims", aten.amax.default, [], False)
call("dims", aten.sum.dim_IntList, None, False, dtype=None)
call("dims", aten.unsqueeze.default, -1)
call("indices", aten.select.int, 0, -1)
call("indices", aten.slice.Tensor, 0, None, 1, 1)
call("indices", aten.slice.Tensor, 0, 1, 2**63 - 1, 1)
call("indices", aten.slice.Tensor, 0, 2, 1, 1)
call("sizes", aten.reshape.default, [2, -1])
call("layout", aten.view.default, [6, 4])
call("layout", aten.clone.default, memory_format=None)
call("inference", aten.native_dropout.default, 0.5, True)
call("random", aten.bernoulli.p, 0.5)


@plant("opset")
def composite() -> Plant:
    return instead(lambda g, x: g.call(aten.softplus_backward.default, x, x, 1.0, 20.0))


@plant("promotion")
def two_dtypes() -> Plant:
    return instead(
        lambda g, x: g.call(aten.mul.Tensor, x, g.call(aten._to_copy.default, x, dtype=torch.float64))
    )


@plant("promotion")
def ints_to_floats() -> Plant:
    return instead(lambda g, x: g.call(aten.sin.default, g.call(aten._to_copy.default, x, dtype=torch.int64)))


@plant("promotion")
def sum_of_bools() -> Plant:
    def build(g: Editor, x: fx.Node) -> fx.Node:
        return g.call(aten.sum.dim_IntList, g.call(aten.gt.Scalar, x, 0.0), [0], False, dtype=None)

    return instead(build)


@plant("scalars")
def size_as_tensor() -> Plant:
    g = canonicalize(counter()).edit()
    x = next(n for n in g.graph.nodes if n.meta.get("role") == Input("user", "x"))
    value = g.call(aten.mul.Tensor, x, g.call(aten.sym_size.int, x, 0))
    return g.finish(), value.name


@plant("sizes")
def size_of_a_computed_value() -> Plant:
    g = canonicalize(counter()).edit()
    mul = g.nodes(aten.mul.Tensor)[0]
    return_ = g.call(aten.sym_size.int, mul, 0)
    return g.finish(), return_.name


@plant("sizes")
def size_that_is_a_number() -> Plant:
    return instead(lambda g, x: g.call(aten.sym_size.int, x, 0))


@plant("dtypes")
def default_dtype() -> Plant:
    return instead(lambda g, x: g.call(aten.full.default, [2], 1.0))


@plant("layout")
def memory_format() -> Plant:
    def build(g: Editor, x: fx.Node) -> fx.Node:
        return g.call(aten._to_copy.default, x, dtype=torch.float64, memory_format=torch.contiguous_format)

    return instead(build)


@plant("layout")
def device() -> Plant:
    return instead(lambda g, x: g.call(aten.full.default, [2], 1.0, dtype=torch.float32, device="cpu"))


@plant("results")
def result_taken_twice() -> Plant:
    def build(g: Editor, x: fx.Node) -> fx.Node:
        pair = g.call(aten.max.dim, x, 0, False)
        first = g.call(operator.getitem, pair, 0)
        return g.call(aten.add.Tensor, first, g.call(operator.getitem, pair, 0))

    program, _ = instead(build)
    return program, "getitem_1"


@plant("results")
def results_used_whole() -> Plant:
    program, _ = instead(lambda g, x: g.call(aten.max.dim, x, 0, False))
    return program, "output"


@plant("asserts")
def assertion() -> Plant:
    g = relu().edit()
    x = g.graph.find_nodes(op="placeholder")[0]
    with g.graph.inserting_before(g.graph.output_node()):
        check = g.graph.call_function(aten._assert_tensor_metadata.default, (x, None, None, torch.float32))
    return g.finish(), check.name


# -- canonical: the program as a whole ---------------------------------------------------------


@plant("dead")
def unused_call() -> Plant:
    g = relu().edit()
    dead = g.call(aten.sin.default, g.graph.find_nodes(op="placeholder")[0])
    return g.finish(), dead.name


@plant("dead")
def unused_tensor() -> Plant:
    g = relu().edit()
    return_ = g.constant(torch.arange(3.0))
    return g.finish(), return_.name


@plant("twins")
def equal_calls() -> Plant:
    names = []

    def build(g: Editor, x: fx.Node) -> fx.Node:
        sines = [g.call(aten.sin.default, x) for _ in range(2)]
        names.append(sines[1].name)
        return g.call(aten.mul.Tensor, *sines)

    return instead(build)[0], names[0]


@plant("folded")
def constant_expression() -> Plant:
    names = []

    def build(g: Editor, x: fx.Node) -> fx.Node:
        sine = g.call(aten.sin.default, g.constant(torch.arange(4.0)))
        names.append(sine.name)
        return g.call(aten.mul.Tensor, x, sine)

    return instead(build)[0], names[0]


@plant("storages")
def tied_weights() -> Plant:
    names = []

    def build(g: Editor, x: fx.Node) -> fx.Node:
        tensor = torch.randn(4)
        scaled = g.call(aten.mul.Tensor, x, g.constant(tensor, "first"))
        second = g.constant(tensor.view(4), "second")
        names.append(second.name)
        return g.call(aten.mul.Tensor, scaled, second)

    return instead(build)[0], names[0]


@plant("inference")
def attention_with_dropout() -> Plant:
    op = aten.scaled_dot_product_attention.default
    return instead(lambda g, x: raw_call(g, op, x, x, x, None, 0.1, False))


@plant("inference")
def batch_norm_in_training() -> Plant:
    def build(g: Editor, x: fx.Node) -> fx.Node:
        mean, variance = g.constant(torch.zeros(3)), g.constant(torch.ones(3))
        op = aten._native_batch_norm_legit_functional.default
        return raw_call(g, op, x, None, None, mean, variance, True, 0.1, 1e-5)

    return instead(build)


@plant("order")
def another_name() -> Plant:
    program = relu()
    node(program, aten.relu.default)._rename("activation")
    return program, "activation"


@plant("order")
def another_order() -> Plant:
    program = canonicalize(export(lambda x: (x.sin(), x.cos()), torch.randn(3)))
    node(program, "sin").prepend(node(program, "cos"))
    return program, "cos"


# -- strict ------------------------------------------------------------------------------------


@plant("propagation")
def another_shape() -> Plant:
    program = relu()
    fake = fake_tensor(program.fake_mode, torch.zeros(3, 4))
    node(program, aten.relu.default).meta["val"] = fake
    return program, "relu"


@plant("propagation")
def another_dtype() -> Plant:
    program = relu()
    fake = fake_tensor(program.fake_mode, torch.zeros(2, 3, 4, dtype=torch.float64))
    node(program, aten.relu.default).meta["val"] = fake
    return program, "relu"


@plant("propagation")
def impossible_call() -> Plant:
    program, name = instead(lambda g, x: raw_call(g, aten.permute.default, x, [0, 1, 2]))
    node(program, name).args = (program.inputs[0], [0, 0, 0])
    return program, name


# -- the tests ---------------------------------------------------------------------------------


def planted() -> list[Any]:
    cases = [(name, make) for name, makes in PLANTS.items() for make in makes]
    return [pytest.param(name, make, id=f"{name}-{make.__name__}") for name, make in cases]


@pytest.mark.parametrize(("name", "make"), planted())
def test_rule_catches_what_was_planted(name: str, make: Callable[[], Plant]) -> None:
    program, culprit = make()
    report = verify(program, "canonical", strict=True)
    places = [v.place.rpartition("/")[2] or None for v in report if v.rule == name]
    assert culprit in places, report
    if RULES[name].level == "canonical":
        assert not verify(program), "the plant should break the canonical form alone"


@pytest.mark.parametrize("name", [name for name in RULES if name != "mutations-kept"])
def test_every_rule_has_a_plant(name: str) -> None:
    assert PLANTS.get(name), f"no violation of the rule {name!r} is planted in this file"


@pytest.mark.parametrize("make", [counter, branches, data_dependent, relu])
def test_good_programs_are_well_formed(make: Base) -> None:
    report = verify(make(), strict=True)
    assert not report, report
    assert report.ok


@pytest.mark.parametrize("make", [counter, branches, data_dependent, relu])
def test_canonicalize_reaches_what_the_canonical_rules_ask(make: Base) -> None:
    before = make()
    report = verify(canonicalize(before), "canonical", strict=True, before=before)
    assert report.ok, report


# -- mutations-kept ------------------------------------------------------------------------------


def test_a_dropped_mutation_is_found() -> None:
    program = counter()
    output = program.output
    output.args, output.meta["roles"] = (output.args[0][1:],), output.meta["roles"][1:]
    assert not verify(program)
    (violation,) = verify(program, before=counter())
    assert violation.rule == "mutations-kept"
    assert "'steps'" in violation.message


def test_an_added_mutation_is_found() -> None:
    program, before = counter(), counter()
    output = before.output
    output.args, output.meta["roles"] = (output.args[0][1:],), output.meta["roles"][1:]
    (violation,) = verify(program, before=before)
    assert "'steps'" in violation.message


def test_a_mutation_to_the_same_value_may_be_dropped() -> None:
    before, after = counter(), counter()
    steps = next(n for n in before.placeholders if n.meta["role"].target == "steps")
    before.output.args = ((steps, *before.output.args[0][1:]),)
    after.output.args, after.output.meta["roles"] = (
        (after.output.args[0][1:],),
        after.output.meta["roles"][1:],
    )
    assert not verify(after, before=before)


def test_a_changed_calling_convention_is_found() -> None:
    before, after = counter(), counter()
    first, second = after.inputs
    second.append(first)
    (violation,) = verify(after, before=before)
    assert "(x, state)" in violation.message
    assert "(state, x)" in violation.message
    nested = torch.utils._pytree.tree_structure((((0, 0),), {}))
    (violation,) = verify(before.replace(in_spec=nested), before=before)
    assert "in_spec" in violation.message


def test_pipeline_names_the_pass_and_the_rule() -> None:
    def forget(program: Program) -> Program:
        g = program.edit()
        output = g.graph.output_node()
        output.args, output.meta["roles"] = (output.args[0][1:],), output.meta["roles"][1:]
        return g.finish()

    with pytest.raises(
        fxp.errors.PassError, match=r"after pass 'forget'.*\n.*\n.*\nmutations-kept .*'steps'"
    ):
        Pipeline(forget, hook=verify_each())(counter())


# -- what is no violation ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        lambda g, x: g.call(aten.where.self, g.call(aten.gt.Scalar, x, 0.0), x, g.call(aten.neg.default, x)),
        lambda g, x: g.call(aten.scaled_dot_product_attention.default, x, x, x),
        lambda g, x: g.call(aten.mul.Tensor, x, g.constant(torch.randn(4), kind="param")),
        lambda g, x: g.call(operator.getitem, g.call(aten.max.dim, x, 2, False), 1),
        lambda g, x: g.call(aten.unsqueeze.default, x, 3),
        lambda g, x: g.call(aten.roll.default, x, [1], []),
        lambda g, x: g.call(aten.slice.Tensor, x, 0, 2, 2, 1),
        lambda g, x: g.call(aten.eq.Scalar, g.call(aten._to_copy.default, x, dtype=torch.int64), 2),
        lambda g, x: g.call(aten._to_copy.default, g.call(aten.gt.Scalar, x, 0.0), dtype=torch.int64),
    ],
)
def test_rules_leave_good_calls_alone(build: Callable[[Editor, fx.Node], fx.Node]) -> None:
    program, _ = instead(build)
    found = [v for v in verify(program, "canonical", strict=True) if v.rule not in ("opset", "order")]
    assert not found


def test_a_symbol_may_be_bound_by_a_multiple_of_it() -> None:
    twice = 2 * torch.export.Dim("half", max=8)
    program = export(lambda x: x.reshape(-1, 2), torch.randn(6), dynamic=(({0: twice},),))
    assert not verify(program, strict=True)
    assert not verify(canonicalize(program), "canonical", strict=True)


def test_random_operators_on_request() -> None:
    def noise(x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(3)

    program = export(noise, torch.randn(3))
    assert "random" in {v.rule for v in verify(program, "canonical")}
    assert "random" not in {v.rule for v in verify(CheckInference(allow_random=True)(program), "canonical")}


# -- the report ----------------------------------------------------------------------------------


def test_all_violations_are_reported_at_once_with_their_source() -> None:
    g = relu().edit()
    (old,) = g.nodes(aten.relu.default)
    old.stack_trace = '  File "model.py", line 12, in forward\n    return self.act(x)\n'
    with g.at(old), g.graph.inserting_before(old):
        views = [raw_call(g, aten.view.default, old.args[0], [6, 4]) for _ in range(3)]
    for view in views:
        view.stack_trace = old.stack_trace
    program = g.finish().replace(tensors={"lost": torch.zeros(2)})
    report = verify(program, "canonical")
    assert [v.node for v in report if v.rule == "layout"] == views
    assert {"tensors", "layout", "dead"} <= {v.rule for v in report}
    assert all(
        v.source == "model.py:12 in forward, code: return self.act(x)" for v in report if v.node in views
    )
    text = str(report)
    assert "lost" in text
    assert "model.py:12" in text
    assert all(view.name in text for view in views)


def test_a_violation_in_a_body_says_which_body() -> None:
    program = branches()
    body = list(program.graph_modules())[1].graph
    del next(n for n in body.nodes if n.op == "call_function").meta["val"]
    (violation,) = verify(program, rules=[RULES["values"]])
    assert violation.place == "true_graph_0/sin"
    assert "true_graph_0/sin" in str(violation)


def test_report_is_a_list_that_is_empty_for_a_good_program() -> None:
    good = verify(relu(), "canonical")
    assert good == []
    assert good.ok
    good.raise_if_any("never")
    assert str(good) == f"canonical: {len(good.rules)} rules hold"
    bad = verify(counter().replace(ranges={}))
    assert len(bad) == 1
    assert not bad.ok
    with pytest.raises(
        VerificationError, match=r"^after my pass: well-formed: 1 violation of 1 rule\n"
    ) as caught:
        bad.raise_if_any("after my pass")
    assert "symbols" in str(caught.value)


def test_report_shows_itself_in_a_notebook() -> None:
    html = verify(counter().replace(ranges={}))._repr_html_()
    assert "symbols" in html
    assert "program.ranges" in html
    assert "rules hold" in verify(relu())._repr_html_()


def test_levels() -> None:
    assert {r.level for r in verify(relu()).rules} == {"well-formed"}
    assert {r.level for r in verify(relu(), "canonical").rules} == {"well-formed", "canonical"}
    assert {r.level for r in verify(relu(), strict=True).rules} == {"well-formed", "strict"}
    with pytest.raises(
        ValueError, match="unknown level 'cannonical'; levels are 'well-formed' and 'canonical'"
    ):
        verify(relu(), "cannonical")


def test_public_name() -> None:
    assert fxp.verify is verify
    assert fxp.verify.RULES is RULES


# -- rules ---------------------------------------------------------------------------------------


def test_rules_table_lists_every_rule_with_its_doc() -> None:
    lines = rules_table().splitlines()
    assert len(lines) == len(RULES) + 2
    assert len({len(line) for line in lines}) == 1
    for name, entry in RULES.items():
        assert any(f"| {name} " in line and entry.level in line and entry.doc in line for line in lines)
        assert entry.doc.endswith(".")


def no_relu(subject: Subject) -> Any:
    """The model uses no relu."""
    for found in subject.calls:
        if found.op is aten.relu.default:
            yield found.node, "is a relu"


def test_a_rule_of_ones_own() -> None:
    mine = Rule("no-relu", "canonical", "The model uses no relu.", no_relu)
    report = verify(relu(), rules=[mine])
    assert [(v.rule, v.place, v.message) for v in report] == [("no-relu", "relu", "is a relu")]
    assert isinstance(report, Report)


def test_the_decorator_refuses_bad_entries() -> None:
    with pytest.raises(ValueError, match="'graph': the name is taken"):
        rule("graph", "canonical")(no_relu)
    with pytest.raises(ValueError, match="unknown level 'perfect'"):
        rule("no-relu", "perfect")(no_relu)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no docstring"):
        rule("no-relu", "canonical")(lambda subject: iter(()))
    assert "no-relu" not in RULES


# -- growth --------------------------------------------------------------------------------------


def test_time_grows_with_the_nodes() -> None:
    def chain(length: int) -> Program:
        def build(g: Editor, x: fx.Node) -> fx.Node:
            for i in range(length // 2):
                x = g.call(aten.mul.Scalar, g.call(aten.sin.default, x), float(i))
            return x

        return instead(build)[0]

    def seconds(program: Program) -> float:
        def once() -> float:
            start = time.process_time()
            assert not [v for v in verify(program, "canonical") if v.rule != "order"]
            return time.process_time() - start

        return min(once(), once())

    short, long = seconds(chain(250)), seconds(chain(2000))
    assert long < 8 * 3 * short
