"""Single calls that random programs have shown to be handled wrongly once."""

from __future__ import annotations

import pytest
import torch

from fxpasses.passes import canonicalize
from fxpasses.testing import assert_equivalent, single_op_program
from fxpasses.verify import verify

aten = torch.ops.aten

_X = torch.tensor([-2.1, 0.8, 1.7])
_I8 = torch.tensor([100, 100, 57], dtype=torch.int8)

CALLS = [
    # alpha of elu is not the alpha of add
    (aten.selu.default, (_X,), {}),
    (aten.elu.default, (_X, 0.5), {}),
    (aten.celu.default, (_X, 2.0), {}),
    # the dtype of an integer reduction, when it is narrower than int64
    (aten.sum.dim_IntList, (_X, [0]), {"dtype": torch.int32}),
    (aten.sum.default, (_I8,), {"dtype": torch.int8}),
    (aten.cumsum.default, (_I8, 0), {"dtype": torch.int8}),
    (aten.prod.dim_int, (_I8, 0), {"dtype": torch.uint8}),
    # a padding that keeps the size
    (aten.constant_pad_nd.default, (_X, [1, -1]), {}),
    # dims of the result, and dims that go by name
    (aten.diag_embed.default, (torch.arange(6.0).reshape(2, 3), 0, -2, -1), {}),
    (aten.sort.stable, (_X,), {"stable": True}),
    # a dtype that a default decides
    (aten.arange.start_step, (1, 4, 0.5), {}),
    # a fill value that the dtype cannot hold
    (aten.full.default, ([2], 0.5), {"dtype": torch.int64}),
    (aten.full.default, ([2], -1.5), {"dtype": torch.int32}),
]


@pytest.mark.parametrize(("op", "args", "kwargs"), CALLS, ids=[str(op) for op, _, _ in CALLS])
def test_canonicalize(op, args, kwargs):
    program, inputs = single_op_program(op, *args, **kwargs)
    result = canonicalize(program)
    verify(result, "canonical").raise_if_any()
    assert_equivalent(program, result, inputs)
    assert str(canonicalize(result)) == str(result)
