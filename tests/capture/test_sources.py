"""Each kind of source: what the program takes, gives, holds, and leaves as it was."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

import fxpasses as fxp
from fxpasses.capture import DOORS, LADDER
from fxpasses.errors import InputError
from tests.capture.models import (
    MLP,
    Assigned,
    Counter,
    InPlace,
    Mixed,
    Result,
    Structured,
    TiedEmbedding,
    example,
    some_ops,
)


def roles(program: fxp.Program) -> dict[str, tuple[str, bool]]:
    return {
        role.target: (role.kind, role.persistent) for role in (n.meta["role"] for n in program.placeholders)
    }


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


# -- modules and functions --------------------------------------------------------------------


@pytest.mark.parametrize("via", DOORS)
def test_names_structure_and_constants(via: str) -> None:
    model = Structured().eval()
    args = (torch.randn(2, 4), 2, "negate", torch.randn(4))
    scale = torch.tensor(2.0)
    program = fxp.capture(model, args, {"scale": scale}, via=via)
    assert program.notes == {"via": via, "skipped": {}}
    found = roles(program)
    assert {name for name, (kind, _) in found.items() if kind == "param"} == {"linear.weight", "linear.bias"}
    users = [name for name, (kind, _) in found.items() if kind == "user"]
    assert users == ["x", "times", "mode", "pairs_0", "scale"]
    result = program(*args, scale=scale)
    assert isinstance(result, Result)
    expected = model(*args, scale=scale)
    same(result.value, expected.value)
    same(result.parts["first"][0], expected.parts["first"][0])
    assert result.parts["sizes"] == [4]
    assert result.parts["first"][1] is None
    with pytest.raises(InputError, match="captured with the constant"):
        program(args[0], 5, *args[2:], scale=scale)


@pytest.mark.parametrize("via", ["export", "dynamo", "make_fx", "symbolic_trace", "torchscript"])
def test_mutation_reaches_program_and_arguments_but_not_the_model(via: str) -> None:
    model = Counter()
    before = copy.deepcopy(model)
    program = fxp.capture(model, (torch.randn(3, 4),), via=via)
    assert set(program.mutations) == {"count", "mean"}
    same(model.count, before.count)
    assert roles(program)["mean"] == ("buffer", False)
    for _ in range(3):
        x = torch.randn(3, 4)
        same(program(x), before(x))
    same(program.tensors["count"], before.count)
    same(model.count, torch.zeros((), dtype=torch.int64))

    x = torch.randn(3, 4)
    kept = x.clone()
    program = fxp.capture(InPlace(), (x,), via=via)
    same(x, kept)
    other = x.clone()
    same(program(x), InPlace()(other))
    same(x, other)


@pytest.mark.parametrize("via", ["export", "make_fx", "symbolic_trace"])
def test_assigned_buffer(via: str) -> None:
    model = Assigned()
    program = fxp.capture(model, (torch.ones(2),), via=via)
    assert set(program.mutations) == {"count"}
    assert [float(program(torch.ones(2))[0]) for _ in range(3)] == [1.0, 2.0, 3.0]
    same(model.count, torch.zeros(1))


def test_tied_weights_are_one_storage() -> None:
    model, args = example("tied_embedding")
    program = fxp.capture(model, args)
    tied = [t for t in program.tensors.values() if t.shape == (20, 8)]
    assert {t.data_ptr() for t in tied} == {model.head.weight.data_ptr()}
    canonical = fxp.canonicalize(program)
    assert sum(t.shape == (20, 8) for t in canonical.tensors.values()) == 1


def test_modes_and_attributes_stay() -> None:
    model = Mixed().train()
    attributes = set(model.__dict__)
    for via in LADDER:
        if via != "dynamo":
            fxp.capture(model, (torch.randn(2, 4),), via=via)
    assert model.training
    assert model.linear.training
    assert set(model.__dict__) == attributes
    assert not model._forward_hooks
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


def test_training_is_captured_as_it_is() -> None:
    model = MLP().train()
    program = fxp.capture(model, (torch.randn(3, 8),))
    assert "norm.running_mean" in program.mutations
    same(model.norm.running_mean, torch.zeros(16))


def test_statistics_of_instance_norm_move_while_it_trains() -> None:
    """Torch's functionalisation keeps this operator, and drops that it changes its statistics."""
    model = nn.InstanceNorm2d(3, track_running_stats=True).train()
    x = torch.randn(2, 3, 4, 4) + 1
    program = fxp.capture(model, (x,))
    assert {"running_mean", "running_var"} <= set(program.mutations)
    expected = copy.deepcopy(model)
    compiled = program.to_module()
    torch.testing.assert_close(compiled(x), expected(x))
    torch.testing.assert_close(compiled.running_mean, expected.running_mean)
    torch.testing.assert_close(compiled.running_var, expected.running_var)


def test_norms_without_statistics_keep_their_graph() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.instance_norm(x) + nn.functional.batch_norm(x, None, None, training=True)

    program = fxp.capture(function, (torch.randn(2, 3, 4, 4),))
    assert str(fxp.Program.from_exported_program(program.to_exported_program())) == str(program)


def test_grad_mode_of_the_caller_plays_no_part() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        without = fxp.capture(layer, (x,))
    assert str(without) == str(fxp.capture(layer, (x,)))


def test_function_and_the_modules_that_it_reaches() -> None:
    norm = nn.BatchNorm1d(4).train()

    def function(x: torch.Tensor, *, shift: float = 0.0) -> torch.Tensor:
        return norm(x) + shift

    x = torch.randn(3, 4)
    program = fxp.capture(function, (x,), {"shift": 2.0})
    assert roles(program)["norm.weight"] == ("param", True)
    assert "norm.num_batches_tracked" in program.mutations
    same(norm.num_batches_tracked, torch.tensor(0))
    expected = copy.deepcopy(norm)(x) + 2.0
    torch.testing.assert_close(program(x, shift=2.0), expected.detach())


def test_method_partial_builtin_and_callable_object() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x).tanh()

    class Doubler:
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    model, x = Model(), torch.randn(2, 4)
    program = fxp.capture(model.encode, (x,))
    assert "linear.weight" in program.tensors
    same(program(x), model.encode(x).detach())
    same(fxp.capture(functools.partial(torch.add, alpha=2), (x, x))(x, x), x * 3)
    same(fxp.capture(torch.relu, (x,))(x), x.relu())
    same(fxp.capture(torch.isin, (x, x[0]), {"invert": True})(x, x[0], invert=True), ~torch.isin(x, x[0]))
    same(fxp.capture(Doubler(), (x,))(x), x * 2)
    same(fxp.capture(some_ops, (x, x))(x, x), some_ops(x, x))


def test_output_of_a_transformers_model() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=16, bos_token_id=1, eos_token_id=1
    )
    model = transformers.GPT2Model(config).eval()
    ids = torch.randint(0, 20, (2, 5))
    program = fxp.capture(model, (ids,))
    found, expected = program(ids), model(ids)
    assert type(found) is type(expected)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state.detach())
    assert type(found.past_key_values) is type(expected.past_key_values)


# -- graphs --------------------------------------------------------------------------------


def test_graph_modules_keep_names_and_their_own_structure() -> None:
    model = TiedEmbedding().eval()
    args = (torch.randint(0, 20, (2, 5)),)
    program = fxp.capture(fx.symbolic_trace(model, concrete_args={"mask": None}), args)
    assert program.notes["via"] == "export"
    assert "places.weight" in program.tensors
    result = program(*args)
    assert type(result) is dict
    assert type(result["hidden"]) is tuple
    same(result["logits"], model(*args)["logits"].detach())


@pytest.mark.parametrize("tracer", [fx.symbolic_trace, lambda f: make_fx(f)(torch.randn(3))])
def test_constants_of_a_trace_are_constants(tracer: Any) -> None:
    graph = tracer(lambda x: x + torch.tensor([1.0, 2.0, 3.0]))
    program = fxp.capture(graph, (torch.randn(3),))
    assert [kind for kind, _ in roles(program).values()] == ["constant", "user"]


def test_regions_in_a_graph_of_make_fx() -> None:
    model, (x,) = example("mixed")
    program = fxp.capture(make_fx(model, pre_dispatch=True)(x), (x,))
    same(program(x), model(x).detach())


def test_exported_program_and_file(tmp_path: Path) -> None:
    model, args = example("counter")
    exported = torch.export.export(model, args)
    program = fxp.capture(exported)
    assert program.notes == {"via": "export", "skipped": {}}
    assert program.fingerprint == fxp.capture(model, args).fingerprint
    file = tmp_path / "model.pt2"
    torch.export.save(exported, file)
    for source in (file, str(file)):
        loaded = fxp.capture(source)
        assert loaded.fingerprint == program.fingerprint
        same(loaded(*args), fxp.capture(model, args)(*args))


def test_compiled_module_is_taken_for_the_module() -> None:
    model, args = example("mlp")
    assert fxp.capture(torch.compile(model), args).fingerprint == fxp.capture(model, args).fingerprint


# -- the ladder ---------------------------------------------------------------------------------


def test_ladder_tells_which_door_and_why_not_others() -> None:
    class Counted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n = int(x.sum())
            return x[:n]

    program = fxp.capture(Counted(), (torch.ones(3),))
    assert program.notes["via"] == "dynamo"
    reason = program.notes["skipped"]["export"]
    assert "a Python value is read out of a tensor" in reason
    assert __file__ in reason


def test_symbolic_trace_takes_item_assignment() -> None:
    model, (x,) = example("in_place")
    program = fxp.capture(model, (x,), via="symbolic_trace")
    other = x.clone()
    same(program(x), model(other))


def test_symbolic_trace_takes_assignment_with_an_operator() -> None:
    """fx takes ``z *= 10`` for ``z = z * 10``, which leaves what z is a view of as it was."""

    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y, whole = x.clone(), x.int()
        z, bits = y[1:3], whole[0]
        z *= 10
        y[2] += z[0]
        for change in (z.t(), x):
            change -= 1
            change /= 3
            change **= 2
        bits //= 2
        bits %= 5
        bits <<= 3
        bits |= 4
        bits ^= 1
        return y, z, whole

    x = 10 * torch.randn(4, 6)
    program = fxp.capture(function, (x,), via="symbolic_trace")
    same(program(given := x.clone()), function(expected := x.clone()))
    same(given, expected)


# -- the proxies of the symbolic_trace door -----------------------------------------------------


class Sizes(nn.Module):
    """Branches, loops and factories that depend on sizes and dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, *_, width = x.shape
        if width != self.weight.shape[0] or x.dim() != 2:
            raise ValueError("a wrong shape")
        if x.dtype != torch.float32 or not x.is_floating_point():
            raise ValueError("a wrong dtype")
        first, second = (x @ self.weight).chunk(2, dim=-1)
        for column in first.unbind(1):
            second = second + column[:, None]
        ramp = torch.arange(batch, device=x.device)[:, None] + torch.zeros(batch, 2)
        return second * ramp if x.size(0) > 2 else second


@pytest.mark.parametrize("shapes", [None, ({0: torch.export.Dim("n", min=3)},)], ids=["static", "dynamic"])
def test_proxies_know_sizes(shapes: Any) -> None:
    model, x = Sizes(), torch.randn(4, 4)
    program = fxp.capture(model, (x,), via="symbolic_trace", dynamic_shapes=shapes)
    reference = fxp.capture(model, (x,), via="export", dynamic_shapes=shapes)
    assert fxp.canonicalize(program).fingerprint == fxp.canonicalize(reference).fingerprint
    if shapes is not None:
        x = torch.randn(7, 4)
    torch.testing.assert_close(program(x), model(x).detach())


def test_branch_on_a_size_that_varies_leaves_a_guard() -> None:
    for via in ("symbolic_trace", "make_fx", "export"):
        program = fxp.capture(
            Sizes(), (torch.randn(4, 4),), via=via, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
        (bounds,) = program.ranges.values()
        assert bounds.lower == 3, via
        with pytest.raises(InputError):
            program(torch.randn(2, 4))


def test_random_numbers_are_drawn_by_the_program() -> None:
    state = torch.get_rng_state()
    program = fxp.capture(lambda x: x + torch.rand(3), (torch.zeros(3),), via="symbolic_trace")
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(program(torch.zeros(3)), program(torch.zeros(3)))


def test_checkpointed_regions_are_part_of_the_graph() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            save = functools.partial(create_selective_checkpoint_contexts, [torch.ops.aten.addmm.default])
            return checkpoint(self.block, x, use_reentrant=False, context_fn=save)

    model, x = Checkpointed(), torch.randn(2, 4)
    exported = torch.export.export(model, (x,), strict=True)
    assert any("checkpoint" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(fxp.compile(exported, strict=True)(x), model(x).detach())


def test_sizes_as_arguments() -> None:
    x = torch.randn(4, 2)
    compiled = fxp.compile(torch.reshape, (x, torch.Size([2, 4])))
    for size in (torch.Size([2, 4]), (2, 4)):
        torch.testing.assert_close(compiled(x, size), x.reshape(2, 4))


def test_the_root_of_a_size() -> None:
    rows = torch.export.Dim("rows")
    compiled = fxp.compile(
        lambda x: x / torch.sym_sqrt(x.shape[0]), (torch.ones(9, 2),), dynamic_shapes=({0: rows},)
    )
    torch.testing.assert_close(compiled(torch.ones(4, 2)), torch.full((4, 2), 0.5))


@pytest.mark.parametrize("number", [1, 0.5, True])
def test_a_number_and_an_assertion_beside_functions_of_one_sample(number: float) -> None:
    """A number of an operator under `torch.vmap` is a tensor to it; an assertion in such a program has no value."""

    def model(x: torch.Tensor) -> Any:
        torch._assert_async((x < 9).all(), "too large")
        return torch.vmap(lambda row: row + number)(x), torch.vmap(lambda row: number * row)(x.int())

    x = torch.randn(4, 3)
    compiled = fxp.compile(model, (x,), strict=True)
    torch.testing.assert_close(compiled(x), model(x))
    with pytest.raises(fxp.errors.RunError, match="too large"):
        compiled(x + 20)


def test_functions_of_one_sample() -> None:
    """The values between the ends of `torch.vmap` have the shape of one sample, and may be written to."""

    def model(x: torch.Tensor) -> Any:
        def sample(row: torch.Tensor) -> torch.Tensor:
            return torch.zeros(3).index_add(0, torch.tensor([0, 2]), row[:2]) + row.clone().relu_()

        return torch.vmap(sample)(x), torch.vmap(torch.vmap(torch.exp))(x)

    x = torch.randn(4, 3)
    torch.testing.assert_close(fxp.compile(model, (x,), strict=True)(x), model(x))
