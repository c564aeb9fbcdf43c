"""`assert_equivalent` finds planted errors, passes equal things, and changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.node import map_aggregate

from fxpasses.errors import EquivalenceError
from fxpasses.pipeline import Pipeline
from fxpasses.program import Output, Program
from fxpasses.rewrite import rewrite
from fxpasses.testing import assert_equivalent, compare_each, inputs_for, programs, single_op_program

aten = torch.ops.aten


class Counter(torch.nn.Module):
    """Changes a buffer and an argument."""

    def __init__(self, step: int = 1, factor: float = 2.0) -> None:
        super().__init__()
        self.step, self.factor = step, factor
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.linear = torch.nn.Linear(3, 3)

    def forward(self, x, cache):
        self.count += self.step
        cache.mul_(self.factor)
        return {"y": self.linear(x) + cache, "n": self.count * 1}


def exported(module, *args) -> Program:
    return Program.from_exported_program(torch.export.export(module, args))


@pytest.fixture
def counter():
    torch.manual_seed(1)
    module = Counter()
    args = (torch.randn(2, 3), torch.randn(2, 3))
    return module, exported(copy.deepcopy(module), *args), args


@rewrite(aten.tanh.default)
def tanh_to_sigmoid(g, node):
    return g.call(aten.sigmoid.default, *node.args)


@settings(max_examples=30)
@given(program=programs(), data=st.data())
def test_a_program_equals_itself(program, data):
    inputs = data.draw(inputs_for(program))
    before = [x.clone() for x in inputs]
    tensors = {name: tensor.clone() for name, tensor in program.tensors.items()}
    assert_equivalent(program, program, inputs, calls=2)
    for x, y in zip(inputs, before, strict=True):
        assert torch.equal(x, y)
    for name, tensor in tensors.items():
        assert torch.equal(program.tensors[name], tensor)


def test_module_and_program_agree_and_stay_as_they_are(counter):
    module, program, args = counter
    kept = [x.clone() for x in args]
    assert_equivalent(module, program, args, calls=3)
    assert_equivalent(program, module, args, calls=3)
    assert module.count == 0
    assert program.tensors["count"] == 0
    assert all(torch.equal(x, y) for x, y in zip(args, kept, strict=True))


def test_a_function_is_compared_by_outputs_and_arguments():
    def f(x):
        x.add_(1)
        return (x * 2).sum()

    def g(x):
        x += 1
        return torch.sum(x + x)

    def h(x):
        return ((x + 1) * 2).sum()

    x = torch.randn(5)
    assert_equivalent(f, g, x)
    with pytest.raises(EquivalenceError, match="argument #0 after the call"):
        assert_equivalent(f, h, x)


def test_wrong_value():
    program, inputs = single_op_program(aten.tanh.default, torch.linspace(-1, 1, 6).reshape(2, 3))
    with pytest.raises(EquivalenceError) as failure:
        assert_equivalent(program, tanh_to_sigmoid(program), inputs)
    text = str(failure.value)
    assert "the output (float32[2, 3]) differs in 6 of 6 elements" in text
    assert "worst at [0, 2]: a has -0.197375" in text
    assert "b has 0.450166" in text
    assert "float64 oracle -0.197375" in text
    assert "allowed" in text


def test_wrong_dtype_and_shape():
    x = torch.ones(2, 2)
    with pytest.raises(EquivalenceError, match="dtype float32 in a and float64 in b"):
        assert_equivalent(lambda x: x, lambda x: x.double(), x)
    with pytest.raises(EquivalenceError, match=r"shape \[2, 2\] in a and \[4\] in b"):
        assert_equivalent(lambda x: x, lambda x: x.flatten(), x)


def test_wrong_structure_and_constants():
    x = torch.ones(2)
    with pytest.raises(EquivalenceError, match="nested differently"):
        assert_equivalent(lambda x: (x,), lambda x: [x], x)
    with pytest.raises(EquivalenceError, match="output 1 is 3 in a and 4 in b"):
        assert_equivalent(lambda x: (x, 3), lambda x: (x, 4), x)
    with pytest.raises(EquivalenceError, match=r"output 1 is a tensor float32\[2\] in a and 4 in b"):
        assert_equivalent(lambda x: (x, x), lambda x: (x, 4), x)


def test_a_single_wrong_integer():
    x = torch.arange(5)
    with pytest.raises(EquivalenceError, match="integers and truth values must be equal"):
        assert_equivalent(lambda x: x + 1, lambda x: (x + 1).where(x != 3, 7), x)


def test_data_movement_must_be_exact():
    x = torch.randn(4, 4)
    program, inputs = single_op_program(aten.permute.default, x, [1, 0])
    with pytest.raises(EquivalenceError, match="results of data movement must be equal"):
        assert_equivalent(program, lambda x: x.t() + 1e-7, inputs)


def test_missing_buffer_mutation(counter):
    module, program, args = counter
    forgetful = Counter(step=0)
    forgetful.load_state_dict(module.state_dict())
    with pytest.raises(EquivalenceError, match="output 1"):  # computed from the count
        assert_equivalent(program, forgetful, args)
    with pytest.raises(EquivalenceError, match="buffer 'count' after the call"):
        assert_equivalent(
            without(program, "count", outputs=()), without(forgetful, "count", outputs=()), args
        )
    with pytest.raises(EquivalenceError, match="no state that can be seen"):
        assert_equivalent(program, lambda x, cache: module(x, cache), args)


def without(subject, name, outputs):
    """The same, with no user outputs: only mutations are left to compare."""
    if isinstance(subject, Program):
        from torch.utils import _pytree as pytree

        g = subject.edit()
        node = g.graph.output_node()
        kept = [(r, v) for r, v in zip(node.meta["roles"], node.args[0], strict=True) if r.kind != "user"]
        node.args = (tuple(v for _, v in kept),)
        node.meta["roles"] = tuple(r for r, _ in kept)
        return g.finish().replace(out_spec=pytree.tree_structure(()))

    class Silent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", subject.count.clone())

        def forward(self, x, cache):
            self.count += subject.step
            cache.mul_(subject.factor)
            return ()

    return Silent()


def dropped(program: Program, lost: Output) -> Program:
    g = program.edit()
    node = g.graph.output_node()
    kept = [(r, v) for r, v in zip(node.meta["roles"], node.args[0], strict=True) if r != lost]
    node.args = (tuple(v for _, v in kept),)
    node.meta["roles"] = tuple(r for r, _ in kept)
    return g.finish()


def test_dropped_mutations_of_a_program(counter):
    _, program, args = counter
    with pytest.raises(EquivalenceError, match="buffer 'count' after the call"):
        assert_equivalent(program, dropped(program, Output("buffer_mutation", "count")), args)
    with pytest.raises(EquivalenceError, match="argument 'cache' after the call"):
        assert_equivalent(program, dropped(program, Output("input_mutation", "cache")), args)


def test_an_error_that_only_the_second_call_shows(counter):
    module, program, args = counter

    class Resetting(Counter):
        def forward(self, x, cache):
            if self.count == 1:
                self.count -= 5
            return super().forward(x, cache)

    resetting = Resetting()
    resetting.load_state_dict(module.state_dict())
    assert_equivalent(program, resetting, args)
    with pytest.raises(EquivalenceError, match="of call 2"):
        assert_equivalent(program, resetting, args, calls=2)


def test_parameters_of_a_module_that_change_are_compared():
    class Writer(torch.nn.Module):
        def __init__(self, value):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))
            self.value = value

        def forward(self, x):
            with torch.no_grad():
                self.weight.add_(self.value)
            return x

    assert_equivalent(Writer(1.0), Writer(1.0), torch.ones(1))
    with pytest.raises(EquivalenceError, match="buffer 'weight' after the call"):
        assert_equivalent(Writer(1.0), Writer(2.0), torch.ones(1))


def test_rounding_of_another_order_is_no_difference():
    torch.manual_seed(0)
    x, w = torch.randn(32, 256), torch.randn(256, 32)
    assert_equivalent(lambda x, w: x @ w, lambda x, w: x.flip(1) @ w.flip(0), (x, w))
    assert_equivalent(lambda x: x.softmax(1), lambda x: (x - 3).exp() / (x - 3).exp().sum(1, keepdim=True), x)
    half = x.to(torch.bfloat16)
    assert_equivalent(lambda x: x.sum(1), lambda x: x.flip(1).float().sum(1).to(torch.bfloat16), half)


def test_edges_are_left_out():
    x = torch.linspace(0.1, 5, 50)
    assert_equivalent(lambda x: (x / x * 3).floor(), lambda x: ((1 / x) * x * 3).floor(), x)
    assert_equivalent(lambda x: (x * 7 / 7) > x, lambda x: (x / 7 * 7) > x, x)


def test_given_tolerances():
    x = torch.ones(3)
    assert_equivalent(lambda x: x, lambda x: x * 1.01, x, rtol=0.1)
    with pytest.raises(EquivalenceError, match=r"atol=0.001 \+ rtol=0 \* \|a\|"):
        assert_equivalent(lambda x: x, lambda x: x * 1.01, x, atol=1e-3)


def test_random_operators_draw_the_same_numbers():
    program, _ = single_op_program(aten.rand.default, [3])
    assert_equivalent(program, lambda: torch.rand(3), ())
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    assert_equivalent(program, program, ())
    assert torch.equal(torch.rand(1), first)


def test_keyword_arguments():
    assert_equivalent(
        lambda x, *, k: x * k, lambda x, k: k * x, torch.ones(2), kwargs={"k": torch.ones(2) * 3}
    )


class Compiled:
    """Stands for a compiled program: opaque code with state."""

    def __init__(self, factor=1.0):
        self.state = {"total": torch.zeros(2)}
        self.factor = factor

    def __call__(self, x):
        import numpy as np

        self.state["total"].copy_(self.state["total"] + x * self.factor)
        return torch.from_numpy(np.tanh(x.numpy()))


class Eager(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(2))

    def forward(self, x):
        self.total += x
        return x.tanh()


def test_the_state_of_a_compiled_program_is_compared_and_restored():
    compiled, x = Compiled(), torch.tensor([0.3, 0.7])
    assert_equivalent(Eager(), compiled, x, calls=2)
    assert_equivalent(compiled, Eager(), x, calls=2)
    assert_equivalent(compiled, Compiled(), x, calls=2)
    assert torch.equal(compiled.state["total"], torch.zeros(2))
    with pytest.raises(EquivalenceError, match="buffer 'total' after the call"):
        assert_equivalent(Eager(), Compiled(1.01), x)
    with pytest.raises(EquivalenceError, match="buffer 'total' after the call"):
        assert_equivalent(Compiled(1.01), Compiled(), x)


def test_functions_that_leave_pytorch_have_a_tolerance_too():
    import numpy as np

    x = torch.linspace(0, 1, 5)
    opaque = lambda x: torch.from_numpy(np.sin(x.numpy()))  # noqa: E731
    assert_equivalent(opaque, torch.sin, x)
    with pytest.raises(EquivalenceError):
        assert_equivalent(opaque, torch.cos, x)


def test_what_cannot_be_compared():
    with pytest.raises(TypeError, match="needs inputs"):
        assert_equivalent(torch.sin, torch.sin)
    with pytest.raises(TypeError, match=r"only a Program.*got 3"):
        assert_equivalent(torch.sin, 3, torch.ones(1))


def test_the_message_reproduces_the_difference(counter):
    _, program, args = counter
    worse = program.edit()
    for node in worse.nodes(aten.mul.Tensor):
        if node.args[1] == 2.0:
            worse.update(node, node.args[0], 2.5)
    with pytest.raises(EquivalenceError) as failure:
        assert_equivalent(program, worse.finish(), args)
    code = "\n".join(line[4:] for line in str(failure.value).split("to see it again:\n\n")[1].splitlines())
    with pytest.raises(EquivalenceError, match="output 0"):
        exec(code, {})


# -- compare_each ----------------------------------------------------------------------------


def test_compare_each_puts_differences_into_the_history():
    program, inputs = single_op_program(aten.tanh.default, torch.linspace(-1, 1, 6))
    identity = lambda p: p  # noqa: E731
    _, history = Pipeline(identity, tanh_to_sigmoid, hook=compare_each(inputs)).run(program)
    assert history[0].difference == 0.0
    assert history[1].difference == pytest.approx(1.0306, abs=1e-3)
    _, history = Pipeline(tanh_to_sigmoid, hook=compare_each()).run(program)
    assert history[0].difference > 0.1


def test_compare_each_refuses_another_type():
    def cast(program):
        g = program.edit()
        (node,) = g.nodes(aten.tanh.default)
        with g.at(g.graph.output_node()):
            g.graph.output_node().args = ((g.call(aten._to_copy.default, node, dtype=torch.float64),),)
        return g.finish()

    program, inputs = single_op_program(aten.tanh.default, torch.linspace(-1, 1, 6))
    with pytest.raises(Exception, match="pass 'cast' changed the results: the output has dtype"):
        Pipeline(cast, hook=compare_each(inputs)).run(program)


def test_values_that_every_pass_must_keep_are_all_seen(counter):
    """The comparison covers outputs, arguments and buffers: plant an error in each returned value."""
    _, program, args = counter
    for index, (role, value) in enumerate(program.outputs):
        g = program.edit()
        node = g.graph.output_node()
        old = node.args[0][index]
        with g.at(node):
            new = g.call(aten.add.Tensor, old, 1)
        node.args = (tuple(new if i == index else v for i, v in enumerate(node.args[0])),)
        assert map_aggregate(node.args, lambda a: a) is not None
        with pytest.raises(EquivalenceError):
            assert_equivalent(program, g.finish(), args)
        assert role is not None
        assert value is not None


class _TwoProducts(torch.nn.Module):
    def __init__(self, weights: list[torch.Tensor], backwards: bool) -> None:
        super().__init__()
        self.weights, self.backwards = weights, backwards

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for w in self.weights:
            x = torch.tanh(x.flip(-1) @ w.flip(0) if self.backwards else x @ w)
        return x


def test_none_of_many_elements_is_wrong_because_noise_moved_it_little_by_chance():
    """Four runs with noise are too few for some of 130,000 elements, whose sums have another order."""
    weights = [torch.randn(256, 256) / 16 for _ in range(2)]
    x = torch.randn(512, 256)
    forwards, backwards = _TwoProducts(weights, False), _TwoProducts(weights, True)
    assert_equivalent(forwards, backwards, (x,))
    with pytest.raises(EquivalenceError):
        assert_equivalent(forwards, lambda x: backwards(x) * (1 + 1e-5), (x,))
