"""Passes that spell calls in one way: arguments, dims, types, sizes, products."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fxpasses as fxp
from fxpasses import passes as P
from fxpasses.errors import PassError
from fxpasses.pipeline import Pipeline
from fxpasses.schema import arguments_of, bind, inference_overloads
from fxpasses.testing import single_op_program
from tests.passes.helpers import apply, aten, body, program_of

X = torch.randn(2, 3, 4)


def canonical_lines(function, *args, exact=False):
    """The canonical body, after the check that it keeps the meaning."""
    return body(apply(P.canonicalize, program_of(function, *args), *args, exact=exact)).splitlines()


def test_normalize_kwargs_fills_in_the_schema():
    program = program_of(lambda x: torch.sum(input=x, dim=(1,)) + torch.ones(4), X)
    after = apply(P.normalize_kwargs, program, X)
    call = next(n for n in after.graph.nodes if n.target is aten.sum.dim_IntList)
    assert call.args[1:] == ([1], False)
    assert call.kwargs == {"dtype": None}
    ones = next(n for n in after.graph.nodes if n.target is aten.ones.default)
    assert ones.kwargs["device"] is None


DIMS = {
    "negative dim": (
        lambda x: x.softmax(-1),
        "softmax: f32[2, 3, 4] = aten._softmax.default(input0, 2, False)",
    ),
    "negative index": (lambda x: x[:, -1], "select: f32[2, 4] = aten.select.int(input0, 1, 2)"),
    "open slice": (lambda x: x[1:], "slice_1: f32[1, 3, 4] = aten.slice.Tensor(input0, 0, 1, 2, 1)"),
    "negative slice": (
        lambda x: x[..., -3:-1],
        "slice_1: f32[2, 3, 2] = aten.slice.Tensor(input0, 2, 1, 3, 1)",
    ),
    "empty slice": (lambda x: x[3:1], "slice_1: f32[0, 3, 4] = aten.slice.Tensor(input0, 0, 2, 2, 1)"),
    "-1 in reshape": (
        lambda x: x.reshape(-1, 4),
        "reshape: f32[6, 4] = aten.reshape.default(input0, [6, 4])",
    ),
    "-1 in expand": (
        lambda x: x.unsqueeze(0).expand(5, -1, -1, -1),
        "expand: f32[5, 2, 3, 4] = aten.expand.default(unsqueeze, [5, 2, 3, 4])",
    ),
    "all dims": (lambda x: x.sum(), "sum_1: f32[] = aten.sum.dim_IntList(input0, [0, 1, 2], False)"),
    "transpose": (
        lambda x: x.transpose(-1, 0),
        "permute: f32[4, 3, 2] = aten.permute.default(input0, [2, 1, 0])",
    ),
    "squeeze": (lambda x: x[:1].squeeze(), "squeeze: f32[3, 4] = aten.squeeze.dims(slice_1, [0])"),
}


@pytest.mark.parametrize("name", DIMS)
def test_dims_indices_and_sizes_are_spelled_out(name):
    function, expected = DIMS[name]
    assert canonical_lines(function, X, exact=True)[-2] == expected


def test_numbers_of_copies_are_no_dims():
    program, (x,) = single_op_program(aten.tile.default, torch.rand(2, 2), [2])
    apply(P.normalize_dims, program, x)


I = torch.arange(4)  # noqa: E741
PROMOTION = {
    "number takes the dtype": (
        lambda x: x + 2,
        (X,),
        ["add: f32[2, 3, 4] = aten.add.Scalar(input0, 2.0, 1)"],
    ),
    "int / int": (
        lambda i: i / 2,
        (I,),
        [
            "to_copy: f32[4] = aten._to_copy.default(input0, dtype=torch.float32)",
            "div: f32[4] = aten.div.Scalar(to_copy, 2.0)",
        ],
    ),
    "int + float tensor": (
        lambda i, x: i + x,
        (I, X),
        [
            "to_copy: f32[4] = aten._to_copy.default(input0, dtype=torch.float32)",
            "add: f32[2, 3, 4] = aten.add.Tensor(to_copy, input1)",
        ],
    ),
    "0-d tensor does not promote its own category": (
        lambda x, y: x * y,
        (X, torch.tensor(2.0, dtype=torch.float64)),
        [
            "to_copy: f32[] = aten._to_copy.default(input1, dtype=torch.float32)",
            "mul: f32[2, 3, 4] = aten.mul.Tensor(input0, to_copy)",
        ],
    ),
    "sqrt of int": (
        lambda i: i.sqrt(),
        (I,),
        [
            "to_copy: f32[4] = aten._to_copy.default(input0, dtype=torch.float32)",
            "sqrt: f32[4] = aten.sqrt.default(to_copy)",
        ],
    ),
    "comparison promotes its operands": (
        lambda i: i > 1.5,
        (I,),
        [
            "to_copy: f32[4] = aten._to_copy.default(input0, dtype=torch.float32)",
            "gt: b8[4] = aten.gt.Scalar(to_copy, 1.5)",
        ],
    ),
    "alpha": (
        lambda x, y: torch.add(x, y, alpha=2),
        (X, X + 1),
        [
            "mul: f32[2, 3, 4] = aten.mul.Scalar(input1, 2.0)",
            "add: f32[2, 3, 4] = aten.add.Tensor(input0, mul)",
        ],
    ),
    "number first": (
        lambda x: 2 - x,
        (X,),
        [
            "full: f32[] = aten.full.default([], 2.0, dtype=torch.float32)",
            "sub: f32[2, 3, 4] = aten.sub.Tensor(full, input0)",
        ],
    ),
    "number in where": (
        lambda x: torch.where(x > 0, x, 0),
        (X,),
        [
            "gt: b8[2, 3, 4] = aten.gt.Scalar(input0, 0.0)",
            "full: f32[] = aten.full.default([], 0.0, dtype=torch.float32)",
            "where: f32[2, 3, 4] = aten.where.self(gt, input0, full)",
        ],
    ),
    "sum of bool": (
        lambda x: x.sum(),
        (X > 0,),
        [
            "to_copy: i64[2, 3, 4] = aten._to_copy.default(input0, dtype=torch.int64)",
            "sum_1: i64[] = aten.sum.dim_IntList(to_copy, [0, 1, 2], False)",
        ],
    ),
    "cat of dtypes": (
        lambda i, x: torch.cat([i, x[0, 0]]),
        (I, X),
        [
            "to_copy: f32[4] = aten._to_copy.default(input0, dtype=torch.float32)",
            "select: f32[3, 4] = aten.select.int(input1, 0, 0)",
            "select_1: f32[4] = aten.select.int(select, 0, 0)",
            "cat: f32[8] = aten.cat.default([to_copy, select_1])",
        ],
    ),
}


@pytest.mark.parametrize("name", PROMOTION)
def test_promotion_is_explicit(name):
    function, args, expected = PROMOTION[name]
    lines = canonical_lines(function, *args, exact=True)
    assert [line.replace(", 0)", ")") if "cat" in line else line for line in lines[:-1]] == expected


DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@pytest.mark.parametrize("left", DTYPES)
@pytest.mark.parametrize("right", [*DTYPES, 2, 2.5, True])
def test_promotion_agrees_with_torch_for_all_pairs(left, right):
    a = torch.ones(3, dtype=left)
    b = torch.ones((), dtype=right) if isinstance(right, torch.dtype) else right
    args = (a, b) if isinstance(b, torch.Tensor) else (a,)

    def function(x, y=b):
        return x * y, x == y, x / y

    program = program_of(function, *args)
    after = apply(P.canonicalize, program, *args, exact=True)
    for node in after.graph.nodes:
        if node.op == "call_function" and torch.Tag.pointwise in node.target.tags:
            dtypes = {n.meta["val"].dtype for n in node.all_input_nodes}
            assert len(dtypes) == 1, node.format_node()


@pytest.mark.parametrize(
    "op", [aten.rsub.Scalar, aten.rsub.Tensor, aten.sub.Scalar, aten.sub.Tensor], ids=str
)
def test_alpha_is_multiplied_out_of_the_operand_that_it_scales(op):
    x, y = torch.tensor([1, -2, 3]), torch.tensor([5, 6, 7])
    if "Scalar" in op.name():
        program, inputs = single_op_program(op, x, 2, 3)
    else:
        program, inputs = single_op_program(op, x, y, alpha=3)
    after = apply(P.explicit_promotion, program, *inputs)
    (call,) = after.graph.find_nodes(op="call_function", target=op)
    assert "alpha=3" not in call.format_node()
    assert call.args[2:] in ((), (1,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float32, torch.float64, torch.int64, torch.bfloat16], ids=str)
def test_a_mean_in_a_half_type_is_rounded_last(given, dtype):
    """PyTorch computes it in float32; a sum it rounds first."""
    x = (torch.randn(40, 9) * 100).to(given)

    def model(x):
        return (
            x.mean(0, dtype=dtype),
            x.mean(dtype=dtype),
            x.mean((0, 1), True, dtype=dtype),
            x.sum(0, dtype=dtype),
        )

    for found, expected in zip(fxp.compile(model, (x,), strict=True)(x), model(x), strict=True):
        ulp = torch.finfo(dtype).eps * expected.abs()
        assert bool(((found - expected).abs() <= ulp).all())


def test_alpha_may_be_a_size():
    def model(x):
        return torch.add(x, x.shape[0], alpha=x.shape[1]), torch.sub(x, 2, alpha=x.shape[0])

    dynamic = ({0: torch.export.Dim("rows"), 1: torch.export.Dim("columns")},)
    compiled = fxp.compile(model, (torch.ones(3, 4),), dynamic_shapes=dynamic, strict=True)
    for x in (torch.randn(3, 4), torch.randn(5, 2)):
        torch.testing.assert_close(compiled(x), model(x))


def test_promotion_leaves_operators_alone_whose_result_follows_the_first_operand():
    flags, numbers = torch.tensor([True, False]), torch.tensor([3, -3])
    for op, *args in [
        (aten.masked_fill.Scalar, flags, flags, 0),
        (aten.masked_fill.Tensor, numbers, flags, torch.tensor(2.0)),
        (aten.threshold.default, numbers, 1.0, 7.0),
    ]:
        program, inputs = single_op_program(op, *args)
        assert apply(P.explicit_promotion, program, *inputs).run(*inputs)[0].dtype == args[0].dtype


def test_sizes_are_read_from_the_inputs_whatever_computed_them():
    dim = torch.export.Dim("n", min=1)

    def left(x):
        return (x * 2).reshape(x.shape[0] * 3)

    def right(x):
        return (x * 2).reshape((x + 1).shape[0] * x.shape[1])

    programs = [
        P.canonicalize(program_of(f, torch.randn(2, 3), dynamic_shapes=({0: dim},))) for f in (left, right)
    ]
    assert str(programs[0]) == str(programs[1])
    assert "3*s0 = operator.mul(3, sym_size)" in str(programs[0])


def test_bias_joins_its_product():
    x, w, bias = torch.randn(2, 3, 4), torch.randn(4, 5), torch.randn(5)
    spelled = P.canonicalize(program_of(lambda x, w, b: x @ w + b, x, w, bias))
    linear = P.canonicalize(program_of(lambda x, w, b: F.linear(x, w.t(), b), x, w, bias))
    assert body(spelled) == body(linear)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w, b: (x @ w + b[:1], 0)[0],  # broadcast along the columns
        lambda x, w, b: (lambda y: (y + b) * y)(x @ w),  # the product has another user
        lambda x, w, b: (x @ w).reshape(5, -1).t() + b,  # another axis
    ],
)
def test_bias_stays_apart_where_it_is_none(function):
    x, w, bias = torch.randn(3, 4), torch.randn(4, 5), torch.randn(5)
    lines = canonical_lines(function, x, w, bias)
    assert not any("addmm" in line for line in lines)


def test_shared_matrix_of_a_batch_is_one_product():
    x, w = torch.randn(2, 3, 4), torch.randn(4, 5)
    program = program_of(lambda x, w: torch.bmm(x, w.expand(2, 4, 5)), x, w)
    after = apply(
        Pipeline(P.normalize_kwargs, P.normalize_matmul, P.eliminate_dead_code), program, x, w, exact=False
    )
    assert "aten.mm.default" in str(after)
    assert "bmm" not in str(after)


SLICES = {
    "the last ones": lambda x: x[-3:],
    "without the last ones": lambda x: x[:-5],
    "between": lambda x: x[-4:-2],
    "from behind to a place": lambda x: x[-5:3],
    "put into": lambda x: torch.slice_scatter(x, x[:2] * 2, 0, -2),
}


@pytest.mark.parametrize("name", SLICES)
def test_slices_that_begin_before_the_first_element(name):
    """With fewer elements than are counted from the end, the bound is the front."""
    dynamic = ({0: torch.export.Dim.AUTO},)
    program = P.canonicalize(fxp.capture(SLICES[name], (torch.randn(6, 3),), dynamic_shapes=dynamic))
    compiled = fxp.compile(program, strict=True)
    for size in (2, 3, 4, 9):
        x = torch.randn(size, 3)
        assert torch.equal(program.run(x)[0], SLICES[name](x))
        assert torch.equal(compiled(x), SLICES[name](x))


def test_what_has_a_wrong_place_or_shape_is_refused():
    program, _ = single_op_program(aten.select_scatter.default, X, X[0] * 2, 0, 5)
    with pytest.raises(PassError, match="index 5 of a dim of size 2"):
        P.canonicalize(program)


def test_a_dim_that_torch_counts_from_the_front_alone():
    """Its fake kernel gives `unique_consecutive` other dims for a negative one."""
    program, _ = single_op_program(aten.unique_consecutive.default, X, False, False, -1)
    assert program.outputs[0][1].meta["val"].dim() == X.dim()
    assert torch.equal(P.canonicalize(program).run(X)[0][0], X.unique_consecutive(dim=-1))


def test_defaults_are_those_of_the_schema_and_nobody_elses():
    for op in inference_overloads():
        assert [(a.name, a.kwarg_only) for a in arguments_of(op)] == [
            (a.name, a.kwarg_only) for a in op._schema.arguments
        ]
        given = {a.name: a.default_value for a in op._schema.arguments if a.has_default_value()}
        assert {a.name: a.default for a in arguments_of(op) if a.has_default} == given
    first, second = (bind(aten.max_pool2d.default, (None, [2, 2]), {})[0] for _ in range(2))
    first[2].append(3)
    assert second[2] == bind(aten.max_pool2d.default, (None, [2, 2]), {})[0][2] == []
