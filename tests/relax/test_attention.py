"""Scaled dot product attention against eager."""

import pytest
import torch

import fxpasses as fxp
from fxpasses import lower
from fxpasses.errors import UnsupportedOperatorError
from fxpasses.testing.single import single_op_program
from tests.relax.helpers import FLOATS, call, check_calls, random

attention = torch.ops.aten.scaled_dot_product_attention.default

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_against_eager(dtype):
    query, key, value = (random(shape, dtype) for shape in ((2, 4, 3, 8), (2, 4, 5, 8), (2, 4, 5, 6)))
    admitted = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    added = random((2, 1, 3, 5), dtype)
    added[0, 0, 0] = float("-inf")
    check_calls(
        [
            call(attention, query, key, value),
            call(attention, query, key, value, admitted),
            call(attention, query, key, value, admitted[:1]),
            call(attention, query, key, value, added),
            call(attention, query, key, value, is_causal=True),
            call(attention, query, key[:, :, :2], value[:, :, :2], is_causal=True),
            call(attention, query, key, value, scale=0.3),
            call(attention, query[0], key[0], value[0], admitted),
            call(attention, query[0, 0], key[0, 0], value[0, 0]),
            call(attention, query, key[:, :2], value[:, :2], enable_gqa=True),
            call(attention, query, key[:, :1], value[:, :1], admitted, enable_gqa=True),
        ],
        tolerance=TOLERANCE,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("queries", [1, 5, 40])
def test_a_key_that_a_mask_hides_hands_nan_on(queries, number, dtype):
    query, key, value = (random((2, 3, n, 8), dtype) for n in (queries, 7, 7))
    key[0, 1, 2] = number
    mask = torch.ones(queries, 7, dtype=torch.bool)
    mask[:, 2] = False
    got = fxp.compile(torch.nn.functional.scaled_dot_product_attention, (query, key, value, mask))(
        query, key, value, mask
    )
    want = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
    assert want[0, 1, -1].isnan().all()
    torch.testing.assert_close(got, want, equal_nan=True, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("queries", [0, 1, 5, 40])
@pytest.mark.parametrize("keys", [0, 7])
def test_of_nothing(queries, keys):
    operands = random((2, 3, queries, 8)), random((2, 3, keys, 8)), random((2, 3, keys, 6))
    function = torch.nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(fxp.compile(function, operands)(*operands), function(*operands))


def test_large_scores_do_not_overflow():
    query, key, value = random((1, 1, 3, 8)) * 100, random((1, 1, 4, 8)) * 100, random((1, 1, 4, 6))
    check_calls([call(attention, query, key, value)], tolerance=1e-5)


def test_dropout_is_refused():
    x = random((1, 2, 3, 4))
    program, _ = single_op_program(attention, x, x, x, None, 0.5)
    with pytest.raises(UnsupportedOperatorError, match=r"dropout_p=0\.5.*set it to 0"):
        lower(program)


def test_dynamic_batch_and_length():
    class Model(torch.nn.Module):
        def forward(self, query, key, mask):
            attend = torch.nn.functional.scaled_dot_product_attention
            return attend(query, key, key, mask), attend(query, key, key, is_causal=True)

    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2, max=64)
    shapes = ({0: batch, 2: length}, {0: batch, 2: length}, {0: batch, 2: length, 3: length})

    def arguments(batch, length):
        x = random((batch, 2, length, 8))
        return x, x + 1, random((batch, 1, length, length))

    compiled = fxp.compile(Model(), arguments(3, 5), dynamic_shapes=shapes, strict=True)
    for sizes in ((2, 7), (4, 3)):
        for got, want in zip(compiled(*arguments(*sizes)), Model()(*arguments(*sizes)), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
