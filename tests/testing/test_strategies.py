"""The generator: programs are well formed and diverse, restricted as asked, and shrink."""

from __future__ import annotations

import collections
import operator

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from fxpasses.errors import FxpassesError
from fxpasses.program import Program
from fxpasses.testing import inputs_for, programs, sample_inputs
from fxpasses.testing.drawers import FLOAT, Motif, Row, guess_row, tensor
from fxpasses.testing.rows import FAMILIES, OPS
from fxpasses.tracing.fake_values import fake_value, same_type
from fxpasses.verify import verify

aten = torch.ops.aten


def collect(strategy, count):
    """What the strategy gives in a run of the tests."""
    found = []

    @settings(max_examples=count, phases=[Phase.generate], database=None, derandomize=True, deadline=None)
    @given(strategy)
    def run(program):
        found.append(program)

    run()
    return found


@pytest.fixture(scope="module")
def sample() -> list[Program]:
    return collect(programs(), 250)


def calls(program: Program):
    return [node for node in program.graph.nodes if node.op == "call_function"]


def executed(program: Program, seed: int):
    with torch.no_grad():
        return program.execute(list(sample_inputs(program, seed)))


def tensors_of(program: Program):
    return [v for node in program.graph.nodes if isinstance(v := node.meta.get("val"), torch.Tensor)]


# -- what is drawn -----------------------------------------------------------------------------


def test_programs_are_well_formed(sample):
    for program in sample:
        verify(program, "well-formed").raise_if_any()


def test_the_fake_values_are_what_eager_computes(sample):
    for program in sample:
        outputs = executed(program, 0)
        for value, (_, node) in zip(outputs, program.outputs, strict=True):
            if isinstance(value, torch.Tensor):
                assert value.dtype == node.meta["val"].dtype
                assert value.shape == node.meta["val"].shape


def test_the_values_follow_from_the_arguments(sample):
    for program in sample[:60]:
        for node in calls(program):
            assert same_type(fake_value(program.fake_mode, node), node.meta["val"]), node.format_node()


def test_dynamic_programs_run_at_every_size():
    programs_ = [program for program in collect(programs(dynamic=True, max_nodes=5), 60) if program.ranges]
    assert len(programs_) >= 8
    for program in programs_:
        verify(program, "well-formed").raise_if_any()
        sizes = set()
        for seed in range(4):
            inputs = sample_inputs(program, seed)
            sizes.add(tuple(tuple(x.shape) for x in inputs))
            program.run(*inputs, **inputs.kwargs)
        assert len(sizes) > 1


def test_many_operators_are_drawn(sample):
    ops = collections.Counter(node.target for program in sample for node in calls(program))
    assert len(ops) > 150
    assert ops.most_common(1)[0][0] in (operator.getitem, aten.add.Tensor)
    _, count = next((op, n) for op, n in ops.most_common() if op not in (operator.getitem, aten.add.Tensor))
    assert count < sum(ops.values()) / 10


def test_every_family_is_drawn(sample):
    drawn = {node.target for program in sample for node in calls(program)}
    for name, rows in FAMILIES.items():
        own = {row.op for row in rows if isinstance(row, Row)}
        assert not own or len(own & drawn) >= len(own) / 5, name


def test_every_dtype_is_drawn(sample):
    dtypes = collections.Counter(v.dtype for program in sample for v in tensors_of(program))
    assert dtypes.most_common(1)[0][0] == torch.float32
    everything = (*FLOAT, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    assert all(dtypes[dtype] >= 5 for dtype in everything), dtypes


def test_sizes_vary(sample):
    counts = [len(calls(program)) for program in sample]
    assert sum(n >= 5 for n in counts) > len(sample) / 6
    assert sum(n <= 2 for n in counts) > len(sample) / 10
    ranks = collections.Counter(v.dim() for program in sample for v in tensors_of(program))
    assert all(ranks[rank] >= 10 for rank in range(5)), ranks


def test_roles_and_outputs_vary(sample):
    kinds = collections.Counter(n.meta["role"].kind for program in sample for n in program.placeholders)
    assert all(kinds[kind] >= 20 for kind in ("user", "param", "buffer", "constant")), kinds
    roles = collections.Counter(role.kind for program in sample for role, _ in program.outputs)
    assert roles["buffer_mutation"] >= 10
    assert roles["input_mutation"] >= 10
    assert sum(bool(program.mutations) for program in sample) > len(sample) / 8
    returned = [[v for _, v in program.outputs] for program in sample]
    assert sum(len(values) > 1 for values in returned) > len(sample) / 4
    assert any(None in values for values in returned)
    assert any(3 in [v for v in values if isinstance(v, int)] for values in returned)
    assert any(len({id(v) for v in values}) < len(values) for values in returned)


def test_calls_are_spelled_in_several_ways(sample):
    nodes = [node for program in sample for node in calls(program)]
    assert any("self" in node.kwargs for node in nodes)
    assert any("dim" in node.kwargs for node in nodes)
    assert any(isinstance(node.args[-1], int) and node.args[-1] < 0 for node in nodes if node.args)
    assert any(
        node.target is aten.add.Tensor and isinstance(node.args[-1], int | float)
        for node in nodes
        if node.args
    )
    mixed = [
        node
        for node in nodes
        if len({a.meta["val"].dtype for a in node.all_input_nodes if isinstance(a.meta["val"], torch.Tensor)})
        > 1
    ]
    assert len(mixed) > 15


def test_results_are_finite_and_of_moderate_size(sample):
    for program in sample[:100]:
        for seed in range(2):
            outputs = executed(program, seed)
            finite = [bool(v.double().isfinite().all()) for v in outputs if isinstance(v, torch.Tensor)]
            assert all(finite) or seed > 0, program


@settings(max_examples=40)
@given(program=programs(), data=st.data())
def test_inputs_fit(program, data):
    inputs = data.draw(inputs_for(program))
    program.run(*inputs, **inputs.kwargs)
    special = data.draw(inputs_for(program, special=True))
    program.run(*special, **special.kwargs)


# -- options -----------------------------------------------------------------------------------


def test_ops_restrict_the_table():
    for program in collect(programs(ops=[aten.relu.default, aten.mm.default], mutation=False), 30):
        assert {node.target for node in calls(program)} <= {aten.relu.default, aten.mm.default}


def test_ops_are_extended_by_rows_motifs_and_guesses():
    def triple(g):
        return g.call(aten.mul.Tensor, g.tensor(FLOAT, (1, 2)), 3.0)

    digamma = Row(aten.digamma.default, {"self": tensor(FLOAT, domain="positive")})
    ops = [digamma, Motif("triple", triple), aten.sinc.default]
    drawn = {
        node.target for program in collect(programs(ops=ops, mutation=False), 60) for node in calls(program)
    }
    assert drawn == {aten.digamma.default, aten.mul.Tensor, aten.sinc.default}
    everything = collect(programs(ops=[*OPS, aten.sinc.default], max_nodes=4), 3)
    assert everything


def test_a_custom_operator_takes_part():
    with torch.library._scoped_library("fxptest", "FRAGMENT") as library:
        library.define("twice(Tensor x, int n=2) -> Tensor")
        library.impl("twice", lambda x, n=2: x * n, "CompositeExplicitAutograd")
        op = torch.ops.fxptest.twice.default
        assert set(guess_row(op).arguments) == {"x", "n"}
        drawn = [
            node for program in collect(programs(ops=[op], mutation=False), 20) for node in calls(program)
        ]
        assert drawn
        assert {node.target for node in drawn} == {op}


def test_dtypes_restrict_inputs():
    for program in collect(programs(dtypes=[torch.float64], mutation=False), 40):
        assert all(
            n.meta["val"].dtype == torch.float64
            for n in program.inputs
            if n.meta["val"].dtype.is_floating_point
        )


def test_without_mutation():
    assert not any(program.mutations for program in collect(programs(mutation=False), 40))


def test_max_nodes_counts_steps():
    for program in collect(programs(max_nodes=1, mutation=False, ops=[aten.relu.default]), 10):
        assert len(calls(program)) <= 1


def test_wrong_options_are_refused():
    with pytest.raises(FxpassesError, match="ops is empty"):
        programs(ops=[])
    with pytest.raises(FxpassesError, match="dtypes must be some of"):
        programs(dtypes=[torch.complex64])
    with pytest.raises(FxpassesError, match="max_nodes"):
        programs(max_nodes=0)
    with pytest.raises(FxpassesError, match="has no argument 'input'"):
        Row(aten.relu.default, {"input": tensor(FLOAT)})
    with pytest.raises(FxpassesError, match="no value can be guessed"):
        guess_row(aten.einsum.default)


# -- shrinking ---------------------------------------------------------------------------------


_QUICK = settings(
    max_examples=500, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
_COMPANY = [aten.relu.default, aten.add.Tensor, aten.permute.default, aten.cat.default]


@pytest.mark.parametrize(
    "target",
    [
        aten.index.Tensor,
        aten.conv2d.default,
        *(pytest.param(op, marks=pytest.mark.sweep) for op in (aten.sum.dim_IntList, aten.view.default)),
    ],
)
def test_a_planted_bug_shrinks_to_the_call_that_has_it(target):
    program = find(
        programs(ops=[*_COMPANY, target]),
        lambda program: any(node.target is target for node in calls(program)),
        settings=_QUICK,
    )
    assert len(calls(program)) == 1
    assert len([v for _, v in program.outputs if v is not None]) == 1
    assert all(v.numel() <= 36 for v in tensors_of(program))
    assert all(v.dtype in (torch.float32, torch.int64) for v in tensors_of(program))


def test_a_bug_that_takes_two_calls_shrinks_to_two():
    program = find(
        programs(ops=[*_COMPANY, aten.amax.default]),
        lambda program: any(
            node.target is aten.amax.default and node.all_input_nodes[0].target is aten.permute.default
            for node in calls(program)
        ),
        settings=_QUICK,
    )
    assert len(calls(program)) <= 3
