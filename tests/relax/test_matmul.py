"""Matrix products against eager."""

import pytest
import torch
from torch.nn import functional as F

import fxpasses as fxp
from fxpasses.errors import InputError
from tests.relax.helpers import FLOATS, INTEGERS, call, check, check_calls, compiled, random

aten = torch.ops.aten

# A half type is rounded once here; eager rounds as its library likes.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
def test_products(dtype):
    def make(*shape):
        return random(shape, dtype)

    check_calls(
        [
            call(aten.mm.default, make(3, 4), make(4, 5)),
            call(aten.mm.default, make(1, 1), make(1, 1)),
            call(aten.mm.default, make(3, 0), make(0, 5)),
            call(aten.mm.default, make(0, 4), make(4, 5)),
            call(aten.bmm.default, make(2, 3, 4), make(2, 4, 5)),
            call(aten.bmm.default, make(2, 3, 0), make(2, 0, 5)),
            call(aten.addmm.default, make(5), make(3, 4), make(4, 5)),
            call(aten.addmm.default, make(3, 5), make(3, 4), make(4, 5), beta=2, alpha=3),
            call(aten.addmm.default, make(3, 1), make(3, 4), make(4, 5), beta=-1),
        ],
        tolerance=TOLERANCE,
    )


def test_half_types_are_summed_in_float32():
    ones = torch.ones(1, 4096, dtype=torch.bfloat16)
    check(aten.mm.default, ones, ones.t())  # a sum kept in bfloat16 stops at 256


def test_a_half_product_and_its_bias_are_rounded_once():
    # 256 + 1 in bfloat16 is 256 again; only a sum kept wide reaches 258.
    row = torch.tensor([[256.0, 1.0]], dtype=torch.bfloat16)
    check(
        aten.addmm.default, torch.ones(1, dtype=torch.bfloat16), row, torch.ones(2, 1, dtype=torch.bfloat16)
    )


def test_beta_of_zero_hides_a_nan():
    nan = torch.full((3, 5), float("nan"))
    check(aten.addmm.default, nan, torch.ones(3, 4), torch.ones(4, 5), beta=0)


def test_integers_wrap_around():
    x = torch.tensor([[127, 100]], dtype=torch.int8)
    check(aten.mm.default, x, x.t())


def test_dynamic_sizes():
    check_calls(
        [
            call(aten.mm.default, random((3, 4)), random((4, 5))),
            call(aten.bmm.default, random((2, 3, 4)), random((2, 4, 5))),
            call(aten.addmm.default, random((5,)), random((3, 4)), random((4, 5)), alpha=2),
        ],
        tolerance=TOLERANCE,
        dynamic=True,
    )


def test_long_products_of_vectors_lose_no_digits() -> None:
    row, column = torch.full((2, 60_000), 0.1), torch.full((60_000, 1), 1.0)
    got = compiled([call(aten.mm.default, row, column)])[0][0]
    torch.testing.assert_close(got, torch.full((2, 1), 6000.0), rtol=3e-7, atol=0)


def test_a_bias_whose_size_is_that_of_the_columns_by_a_condition_alone():
    def projections(x, weight, bias):
        pairs = zip(weight.chunk(3), bias.chunk(3), strict=True)
        return [F.linear(x, *pair) for pair in pairs]

    def attention(q, k, weight, bias, out, out_bias):
        heads, more = (q.shape[-1], 2), (None, None, False, 0.0)
        options = {"training": False, "need_weights": False}
        return F.multi_head_attention_forward(q, k, k, *heads, weight, bias, *more, out, out_bias, **options)

    any_size = torch.export.Dim.AUTO
    calls = [
        (projections, lambda n, m: [(n, m), (3 * m, m), (3 * m,)]),
        (attention, lambda n, m: [(n, 2, m), (n + 2, 2, m), (3 * m, m), (3 * m,), (m, m), (m,)]),
    ]
    for function, shapes in calls:
        args = tuple(map(torch.randn, shapes(3, 4)))
        dims = tuple(dict.fromkeys(range(arg.dim()), any_size) for arg in args)
        program = fxp.compile(function, args, dynamic_shapes=dims, strict=True)
        for n, m in ((3, 4), (5, 6), (2, 10), (4, 2)):
            args = tuple(map(torch.randn, shapes(n, m)))
            torch.testing.assert_close(program(*args), function(*args))
        for wrong in (args[2][:-3], args[2][:-1]):
            with pytest.raises(InputError):
                program(*args[:2], wrong, *args[3:])
