"""Reading and writing at positions given by tensors."""

import pytest
import torch

import fxpasses as fxp
from fxpasses import lower
from fxpasses.errors import UnsupportedOperatorError
from fxpasses.testing.single import single_op_program
from tests.relax.helpers import DTYPES, call, check, check_calls, random

aten = torch.ops.aten
X = random((3, 4, 5))
ONE = torch.tensor([[0, -1, 2], [1, 1, -3]])
TWO = torch.tensor([3, -4, 0])
THREE = torch.tensor([[4], [-2]], dtype=torch.int32)

TUPLES = [
    [ONE],
    [None, TWO],
    [ONE, TWO],
    [ONE, None, THREE],
    [None, TWO, THREE],
    [ONE, TWO, THREE],
    [None, None, ONE],
    [torch.tensor(1)],
    [None, torch.tensor(-1)],
    [torch.tensor(1), None, TWO],
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_reading_every_dtype(dtype):
    x = random((3, 4, 5), dtype)
    check_calls(
        [
            call(aten.embedding.default, x[0], torch.tensor([[1, 0], [3, 3]])),
            call(aten.index_select.default, x, 1, torch.tensor([3, 0, 0])),
            call(aten.gather.default, x, 1, torch.tensor([[[3, 0, 1, 2, 1]]])),
            call(aten.index.Tensor, x, [ONE, None, THREE]),
        ]
    )


def test_index_tuples():
    check_calls([call(aten.index.Tensor, X, indices) for indices in TUPLES])


def test_edges_of_reading():
    scalar = torch.tensor(2.0)
    check_calls(
        [
            call(aten.embedding.default, random((7, 3)), torch.tensor(3, dtype=torch.int32)),
            call(aten.index_select.default, X, -1, torch.tensor(2)),
            call(aten.index_select.default, scalar, 0, torch.tensor([0])),
            call(aten.index_select.default, X, 0, torch.zeros(0, dtype=torch.int64)),
            call(aten.gather.default, X, 1, torch.randint(0, 4, (2, 6, 5))),
            call(aten.gather.default, scalar, 0, torch.tensor(0)),
            call(aten.gather.default, scalar, 0, torch.tensor([0, 0])),
            call(aten.gather.default, random((3,)), 0, torch.tensor(1)),
            call(aten.index.Tensor, random((2, 0, 3)), [None, None, ONE.clamp(0, 2)]),
        ]
    )


@pytest.mark.parametrize(
    ("op", "args"),
    [
        (aten.embedding.default, (torch.ones(4, 3), torch.tensor([0, 2**40, -(2**40)]))),
        (aten.index_select.default, (torch.ones(4, 3), 0, torch.tensor([10**9, -(10**9)]))),
        (aten.gather.default, (torch.ones(4, 3), 1, torch.full((4, 3), 2**50))),
        (aten.index.Tensor, (torch.ones(4, 3), [torch.tensor([2**45]), torch.tensor([-(2**45)])])),
    ],
)
def test_an_invalid_index_stays_inside_the_tensor(op, args):
    from tests.relax.helpers import compiled

    ((result,),) = compiled([call(op, *args)])
    assert bool((result == 1).all())


def test_dynamic_sizes():
    table, positions = random((7, 3)), torch.tensor([[1, 0, 4, 6, 2]] * 4)
    check_calls(
        [
            call(aten.embedding.default, table, positions),
            call(aten.index_select.default, table, 0, positions[0]),
            call(aten.gather.default, random((4, 7)), 1, positions),
            call(aten.index.Tensor, random((8, 7)), [positions, positions[:1]]),
            call(aten.index_put.default, random((8, 7)), [positions[0]], torch.tensor(1.0)),
            call(aten.scatter.value, random((4, 7)), 1, positions, 2.0),
        ],
        dynamic=True,
    )


# -- writing ---------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [False, True])
def test_index_put(accumulate):
    calls = []
    for indices in [TUPLES[1], TUPLES[3], TUPLES[4], TUPLES[7], TUPLES[9], [torch.tensor([2, 0])]]:
        read = aten.index.Tensor(X, indices)
        calls.append(call(aten.index_put.default, X, indices, torch.tensor(2.0), accumulate))
        if accumulate:  # which of several values for one place stays is not defined otherwise
            calls.append(call(aten.index_put.default, X, indices, random(read.shape), True))
    calls.append(
        call(aten.index_put.default, X.to(torch.int8), [ONE], torch.tensor(3, dtype=torch.int8), accumulate)
    )
    check_calls(calls, tolerance=1e-6)


def test_values_are_written_in_order():
    check(aten.index_put.default, X, [torch.tensor([2, 0])], random((2, 4, 5)))


@pytest.mark.parametrize("accumulate", [False, True])
def test_index_put_with_a_mask(accumulate):
    first, last, middle = random((3, 4)) > 0, random((4, 5)) > 0, random((4,)) > -0.5
    counts = [int(mask.sum()) for mask in (first, last, middle)]
    assert min(counts) > 1
    check_calls(
        [
            call(aten.index_put.default, X, indices, values, accumulate)
            for indices, values in [
                ([first], torch.tensor(2.0)),
                ([first], random((counts[0], 5))),
                ([first], random((counts[0], 1))),
                ([first], random((5,))),
                ([None, last], random((3, counts[1]))),
                ([None, last], random((counts[1],))),
                ([None, middle], random((3, counts[2], 5))),
                ([None, middle], random((3, 1, 5))),
                ([torch.zeros(3, 4, dtype=torch.bool)], torch.tensor(2.0)),
            ]
        ],
        tolerance=1e-6,
    )


def test_masked_scatter():
    source = random((60,))
    check_calls(
        [
            call(aten.masked_scatter.default, X, X > 0, source),
            call(aten.masked_scatter.default, X, random((5,)) > 0, source),
            call(aten.masked_scatter.default, random((5,)), X > 0, source),
            call(aten.masked_scatter.default, X, torch.zeros(5, dtype=torch.bool), source[:0]),
        ]
    )


UNIQUE = torch.stack([torch.randperm(4, generator=torch.Generator().manual_seed(i)) for i in range(15)], 1)
UNIQUE = UNIQUE.view(4, 3, 5).permute(1, 0, 2)[:2, :3].contiguous()
REPEATED = torch.randint(0, 4, (2, 6, 5), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_scatter(dtype):
    x = random((3, 4, 5), dtype)
    check_calls(
        [
            call(aten.scatter.src, x, 1, UNIQUE, x.flip(0)),
            call(aten.scatter.value, x, 1, UNIQUE, 1),
            call(aten.scatter.src, x[0, 0, 0], 0, torch.tensor(0), x[0, 0, 1]),
        ]
    )


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.int64], ids=str)
def test_scatter_reduce(dtype, include_self):
    x, y = random((3, 4, 5), dtype), random((2, 6, 5), dtype)
    reductions = ["sum", "prod", "mean", "amax", "amin"]
    calls = [
        call(aten.scatter_reduce.two, x, 1, REPEATED, y, r, include_self=include_self) for r in reductions
    ]
    calls.append(call(aten.scatter_add.default, x, 1, REPEATED, y))
    calls.append(call(aten.scatter_add.default, x[0, 0, 0], 0, torch.tensor([0, 0]), y[0, 0, :2]))
    calls.append(call(aten.scatter.reduce, x, 1, REPEATED, y, reduce="add"))
    calls.append(call(aten.scatter.value_reduce, x, 1, REPEATED, 2, reduce="multiply"))
    # eager rounds a half type after each element, the kernel once
    check_calls(calls, tolerance={torch.float32: 1e-5, torch.bfloat16: 5e-2})


def test_a_nan_wins_in_scatter_reduce():
    y = random((2, 6, 5))
    y[0, 3, 3] = float("nan")
    check(aten.scatter_reduce.two, X, 1, REPEATED, y, "amax")
    check(aten.scatter_reduce.two, X, 1, REPEATED, y, "amin")


def test_a_mask_beside_another_index_is_refused():
    program, _ = single_op_program(aten.index.Tensor, X, [ONE, ONE + 0])
    node = program.graph.find_nodes(op="placeholder")[1]
    node.meta["val"] = node.meta["val"].to(torch.bool)
    with pytest.raises(UnsupportedOperatorError, match=r"depends on the values of the mask.*torch\.where"):
        lower(program)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
def test_scatter_with_an_index_for_a_whole_row(dtype):
    x, source = random((6, 4, 5), dtype), random((7, 4, 5), dtype)
    rows = torch.tensor([5, 0, 5, 2, 5, 0, 1])

    def along(index, dim, size):
        return index.view([-1 if d == dim else 1 for d in range(3)]).expand(size)

    def program(kind, dim):
        turned = [value.movedim(0, dim).contiguous() for value in (x, source)]

        def f(x, index, source):
            places = along(index, dim, source.shape)
            if kind == "add":
                return x.scatter_add(dim, places, source)
            if kind == "replace":
                return x.scatter(dim, places, source)
            return x.scatter_reduce(dim, places, source, kind, include_self=False)

        return f, (turned[0], rows, turned[1])

    for kind in ("add", "replace", "mean", "amax", "prod"):
        for dim in range(3):
            f, args = program(kind, dim)
            got, expected = fxp.compile(f, args)(*args), f(*args)
            torch.testing.assert_close(
                got, expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5
            )


def test_index_add_of_a_number_of_rows_that_varies():
    x, source = random((6, 5), torch.float32), random((9, 5), torch.float32)
    rows = torch.tensor([5, 0, 5, 2, 5, 0, 1, 1, 3])
    n = torch.export.Dim("n")
    compiled = fxp.compile(
        lambda x, i, s: x.index_add(0, i, s),
        (x, rows[:4], source[:4]),
        dynamic_shapes=({}, {0: n}, {0: n}),
    )
    assert not compiled.islands
    for count in (9, 2, 1):
        got = compiled(x, rows[:count], source[:count])
        torch.testing.assert_close(got, x.index_add(0, rows[:count], source[:count]))


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("kind", ["index_add", "index_copy", "scatter_add"])
def test_slices_of_sizes_that_are_not_known(kind, dim):
    def function(x, index, source):
        if kind != "scatter_add":
            return getattr(x, kind)(dim, index, source)
        shape = [1] * x.dim()
        shape[dim] = -1
        return x.scatter_add(dim, index.reshape(shape).expand_as(source), source)

    def draw(count, *sizes):
        x = torch.randn(sizes)
        shape = [count if at == dim else size for at, size in enumerate(sizes)]
        return x, torch.randperm(sizes[dim])[:count], torch.randn(shape)

    names = [torch.export.Dim(name, min=1) for name in "abc"]
    count = torch.export.Dim("count", min=0)
    sizes = dict(enumerate(names))
    compiled = fxp.compile(
        function, draw(2, 4, 5, 6), dynamic_shapes=(sizes, {0: count}, {**sizes, dim: count}), strict=True
    )
    for args in (
        draw(1, 1, 1, 1),
        draw(0, 3, 4, 5),
        draw(3, 5, 17, 33),
        draw(3, 3, 3, 3),
        draw(7, 13, 64, 7),
    ):
        torch.testing.assert_close(compiled(*args), function(*args))
