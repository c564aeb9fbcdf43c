"""Concrete inputs: away from edges, in range, the same for the same seed."""

from __future__ import annotations

import pytest
import torch

from fxpasses.program import Program
from fxpasses.testing import sample_inputs, single_op_program
from fxpasses.testing.values import Inputs, integer_bounds, random_tensor

aten = torch.ops.aten


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_floats_keep_away_from_edges_and_from_each_other(dtype, generator):
    values = random_tensor(dtype, (5, 12), generator).double()
    doubled = values * 2
    assert float((doubled - doubled.round()).abs().min()) > 0.1
    assert len(values.unique()) == 60
    assert -3 < float(values.min()) < -2
    assert 2 < float(values.max()) < 3


def test_domains(generator):
    assert bool((random_tensor(torch.float32, (50,), generator, low=0, high=3) > 0).all())
    integers = random_tensor(torch.int32, (200,), generator, low=-2, high=2, nonzero=True)
    assert set(integers.tolist()) == {-2, -1, 1, 2}
    assert int(random_tensor(torch.uint8, (50,), generator).min()) >= 0
    assert random_tensor(torch.bool, (50,), generator).float().mean() not in (0, 1)
    assert random_tensor(torch.complex64, (3,), generator).dtype == torch.complex64
    assert random_tensor(torch.float32, (0, 3), generator).shape == (0, 3)


def test_the_same_seed_gives_the_same_inputs():
    program, _ = single_op_program(aten.add.Tensor, torch.ones(3), torch.ones(3))
    first, again, other = (sample_inputs(program, seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


@pytest.mark.parametrize(
    ("op", "args", "position", "size"),
    [
        (aten.embedding.default, (torch.ones(3, 2), torch.zeros(40, dtype=torch.int64)), 1, 3),
        (aten.gather.default, (torch.ones(3, 4), 1, torch.zeros(3, 40, dtype=torch.int64)), 1, 4),
        (aten.index_select.default, (torch.ones(3, 4), 0, torch.zeros(40, dtype=torch.int32)), 1, 3),
        (aten.index.Tensor, (torch.ones(3, 4), [None, torch.zeros(40, dtype=torch.int64)]), 1, 4),
        (
            aten.scatter_add.default,
            (torch.ones(5), 0, torch.zeros(40, dtype=torch.int64), torch.ones(40)),
            1,
            5,
        ),
        (aten.nll_loss.default, (torch.ones(40, 6), torch.zeros(40, dtype=torch.int64)), 1, 6),
    ],
)
def test_indices_are_in_range(op, args, position, size):
    program, _ = single_op_program(op, *args)
    negative = op is aten.index.Tensor
    for seed in range(3):
        index = sample_inputs(program, seed)[position]
        assert int(index.max()) == size - 1
        assert int(index.min()) == (-size if negative else 0)


def test_indices_are_found_behind_data_movement():
    class Lookup(torch.nn.Module):
        def forward(self, table, index):
            return table[index.reshape(-1)[1:].long()] + index.sum()

    args = (torch.ones(3), torch.zeros(4, 5, dtype=torch.int32))
    program = Program.from_exported_program(torch.export.export(Lookup(), args))
    assert list(integer_bounds(program).values()) == [(-3, 2, False)]


def test_integer_divisors_are_not_zero():
    program, _ = single_op_program(aten.remainder.Tensor, torch.ones(50).int(), torch.ones(50).int())
    assert bool((sample_inputs(program)[1] != 0).all())


def test_special_values():
    program, _ = single_op_program(aten.relu.default, torch.ones(100))
    (x,) = sample_inputs(program, special=True)
    assert bool(x.isnan().any())
    assert bool(x.isinf().any())
    assert bool((x == 0).any())


def test_dynamic_sizes_keyword_arguments_and_nesting():
    class Net(torch.nn.Module):
        def forward(self, xs, *, scale):
            return xs[0] * scale, xs[1]["n"] + 1

    batch = torch.export.Dim("batch", min=3, max=6)
    exported = torch.export.export(
        Net(),
        ((torch.ones(4, 2), {"n": torch.ones(4)}),),
        {"scale": torch.ones(2)},
        dynamic_shapes={"xs": ({0: batch}, {"n": {0: batch}}), "scale": None},
    )
    program = Program.from_exported_program(exported)
    sizes = set()
    for seed in range(8):
        inputs = sample_inputs(program, seed)
        assert isinstance(inputs, Inputs)
        program.run(*inputs, **inputs.kwargs)
        sizes.add(inputs[0][0].shape[0])
    assert sizes <= {3, 4, 5, 6}
    assert len(sizes) > 1
