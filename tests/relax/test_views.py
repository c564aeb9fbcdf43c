"""Data movement by shape: equal to eager to the bit."""

import pytest
import torch

import fxpasses as fxp
from tests.relax.helpers import DTYPES, call, check_calls, random

aten = torch.ops.aten


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype):
    x = random((3, 4, 5), dtype)
    image = random((2, 3, 5, 6), dtype)
    calls = [
        call(aten.reshape.default, x, [5, 12]),
        call(aten.permute.default, x, [2, 0, 1]),
        call(aten.expand.default, x[:, :1], [2, 3, 4, 5]),
        call(aten.slice.Tensor, x, 1, 1, 4, 2),
        call(aten.select.int, x, 1, 2),
        call(aten.flip.default, x, [0, 2]),
        call(aten.roll.default, x, [1, -2], [0, 2]),
        call(aten.repeat.default, x, [2, 1, 3]),
        call(aten.diagonal.default, x, 1, 0, 2),
        call(aten.unfold.default, x, 2, 3, 2),
        call(aten.cat.default, [x, x[:, :2]], 1),
        call(aten.constant_pad_nd.default, x, [1, 2, -1, 1], 1),
        call(aten.select_scatter.default, x, x[:, 1], 1, 2),
        call(aten.slice_scatter.default, x, x[:, :2], 1, 1, 4, 2),
    ]
    if dtype.is_floating_point:  # torch has no kernels for others
        calls += [
            call(aten.reflection_pad2d.default, image, [2, 1, 3, 2]),
            call(aten.replication_pad2d.default, image, [2, 1, 3, 2]),
        ]
    check_calls(calls)


X = random((3, 4, 5))
SCALAR = torch.tensor(3.0)

SHAPES = [
    call(aten.reshape.default, random((1,)), []),
    call(aten.reshape.default, SCALAR, [1, 1]),
    call(aten.reshape.default, random((0, 4)), [2, 0]),
    call(aten.permute.default, SCALAR, []),
    call(aten.permute.default, X, [0, 1, 2]),
    call(aten.expand.default, SCALAR, [2, 3]),
    call(aten.expand.default, SCALAR, []),
    call(aten.expand.default, random((3, 1)), [-1, 4]),
    call(aten.expand.default, random((3, 1)), [0, 3, 1]),
    call(aten.squeeze.dims, random((1, 3, 1)), [0, 2]),
    call(aten.squeeze.dim, random((1, 3, 1)), 1),
    call(aten.unsqueeze.default, X, 3),
    call(aten.unsqueeze.default, SCALAR, 0),
    call(aten.split_with_sizes.default, X, [1, 0, 3], 1),
]

POSITIONS = [
    *(
        call(aten.slice.Tensor, X, *bounds)
        for bounds in [
            (0, 0, 3, 1),
            (2, 3, 100, 1),
            (2, -3, -1, 1),
            (0, 2, 2, 1),
            (2, None, None, 3),
            (1, -100, 100, 3),
            (0, 3, 2, 1),
            (0, 7, 9, 1),
        ]
    ),
    call(aten.select.int, X, 2, -1),
    call(aten.select.int, random((4,)), 0, -4),
    *(call(aten.diagonal.default, X, offset, 2, 0) for offset in (-2, 0, 3)),
    call(aten.unfold.default, random((10, 3)), 0, 4, 2),
    call(aten.unfold.default, SCALAR, 0, 1, 1),
    call(aten.flip.default, SCALAR, [0]),
    call(aten.flip.default, X, []),
    call(aten.roll.default, X, [7]),
    call(aten.roll.default, X, [7, -2], [1, 1]),
    call(aten.roll.default, SCALAR, [3]),
    call(aten.repeat.default, SCALAR, [2]),
    call(aten.repeat.default, SCALAR, []),
    call(aten.repeat.default, X, [2, 2, 1, 3]),
    call(aten.repeat.default, X, [0, 1, 1]),
    call(aten.reflection_pad1d.default, random((2, 3, 5)), [2, 1]),
    call(aten.reflection_pad2d.default, random((2, 4, 5)), [-1, 2, 1, -2]),
    call(aten.reflection_pad3d.default, random((2, 3, 5, 4)), [2, 1, 1, 2, 1, 1]),
    call(aten.replication_pad1d.default, random((2, 3, 5)), [2, 9]),
    call(aten.replication_pad3d.default, random((1, 2, 3, 5, 4)), [2, 1, 1, 2, 1, 1]),
]

SEVERAL = [
    call(aten.cat.default, [X, random((3, 4, 2)), random((0,)), random((3, 4, 0))], 2),
    call(aten.cat.default, [random((0,)), random((3, 4, 2))], 0),
    call(aten.cat.default, [random((0,)), random((0,))], 0),
    call(aten.cat.default, [X, X], -1),
    call(aten.cat.default, [random((2,)), random((3,), torch.int64)], 0),
    call(aten.constant_pad_nd.default, X, [1, 2], float("nan")),
    call(aten.constant_pad_nd.default, X, [-2, 0]),
    call(aten.constant_pad_nd.default, X, [0, 0]),
    call(aten.constant_pad_nd.default, X, []),
    call(aten.constant_pad_nd.default, random((3, 0)), [1, 2], 3.0),
    call(aten.select_scatter.default, X, random((3, 5)), 1, -2),
    call(aten.slice_scatter.default, X, random((3, 4, 2)), 2, -3, -1, 1),
    call(aten.slice_scatter.default, X, random((0, 4, 5)), 0, 3, 2, 1),
    call(aten.slice_scatter.default, X, random((3, 2, 5)), 1, -100, 100, 3),
]


@pytest.mark.parametrize("calls", [SHAPES, POSITIONS, SEVERAL], ids=["shapes", "positions", "several"])
def test_edges(calls):
    check_calls(calls)


def test_negative_zero_and_nan_survive():
    x = torch.tensor([0.0, -0.0, float("nan"), float("inf")])
    check_calls([call(aten.flip.default, x, [0]), call(aten.cat.default, [x, x], 0)])


def test_dynamic_sizes():
    x = random((3, 4, 5))
    check_calls(
        [
            call(aten.permute.default, x, [2, 0, 1]),
            call(aten.unsqueeze.default, x, 1),
            call(aten.slice.Tensor, x, 1, 1, 3, 1),
            call(aten.slice.Tensor, x, 1, -2, 2**62, 1),
            call(aten.select.int, x, 1, -1),
            call(aten.flip.default, x, [1]),
            call(aten.roll.default, x, [1], [2]),
            call(aten.roll.default, x, [1]),
            call(aten.repeat.default, x, [2, 1, 3]),
            call(aten.cat.default, [x, x], 1),
            call(aten.constant_pad_nd.default, x, [1, 2, 1, 0], 2.0),
            call(aten.reflection_pad2d.default, x, [1, 2, 1, 0]),
            call(aten.select_scatter.default, x, x[:, 0], 1, 0),
            call(aten.slice_scatter.default, x, x, 1, 0, 2**62, 1),
        ],
        dynamic=True,
    )


SHIFTED = {
    "one": lambda x, y: torch.cat([x, y], 1),
    "three": lambda x, y: torch.cat([x.flip(1), y, x], 1).flip(0),
    "first": lambda x, y: torch.cat([x.transpose(0, 1), y.transpose(0, 1)]),
    "last": lambda x, y: torch.cat([x.transpose(1, 2), y.transpose(1, 2)], -1),
    "with none": lambda x, y: torch.cat([x, x[:, :0], y], 1),
    "roll": lambda x, y: x.roll(2, 1).flip(0),
    "roll back": lambda x, y: y.roll(-3, 1),
    "roll first": lambda x, y: x.roll(1, 0),
    "roll last": lambda x, y: x.roll(-1, -1),
    "roll by a size": lambda x, y: x.roll(y.shape[1], 1),
    "roll two": lambda x, y: x.roll((1, 2), (0, 1)),
    "roll none": lambda x, y: x.roll(0, 1),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float32) for name in SHIFTED), ("one", torch.int8), ("roll", torch.int8)],
)
def test_short_rows_behind_a_dim_that_varies(name, dtype):
    function, auto = SHIFTED[name], torch.export.Dim.AUTO
    sizes = {0: auto, 1: auto, 2: auto}
    example = random((3, 4, 5), dtype), random((3, 6, 5), dtype)
    compiled = fxp.compile(function, example, dynamic_shapes=(sizes, sizes), strict=True)
    for batch, first, second, inner in (
        (3, 4, 6, 5),
        (1, 2, 9, 1),
        (7, 33, 17, 2),
        (2, 1, 1, 40),
        (5, 16, 3, 3),
    ):
        args = random((batch, first, inner), dtype), random((batch, second, inner), dtype)
        assert torch.equal(compiled(*args), function(*args))


@pytest.mark.parametrize("size", [(0, 4, 5), (3, 0, 5), (3, 4, 0)], ids=str)
@pytest.mark.parametrize("name", ["cat", "roll"])
def test_short_rows_of_nothing(name, size):
    functions = {"cat": lambda x: torch.cat([x, x], 1), "roll": lambda x: x.roll(2, 1)}
    sizes = {dim: torch.export.Dim(f"d{dim}", min=0) for dim in range(3)}
    compiled = fxp.compile(functions[name], (random((3, 4, 5)),), dynamic_shapes=(sizes,), strict=True)
    for shape in (size, (2, 3, 4)):
        x = random(shape)
        assert torch.equal(compiled(x), functions[name](x))


def test_views_with_arithmetic_on_sizes():
    class Model(torch.nn.Module):
        def forward(self, x):
            flat = x.reshape(x.shape[0] * 4, 5)
            heads = flat.view(x.shape[0], 4, 5).expand(2, -1, -1, -1)
            return flat[1:], heads, torch.cat([x, x[:, :1]], 1), x[-1:], flat.view(-1, 2, 5)

    dynamic = ({0: torch.export.Dim("batch")},)
    compiled = fxp.compile(Model(), (random((3, 4, 5)),), dynamic_shapes=dynamic, strict=True)
    for batch in (2, 7):
        x = random((batch, 4, 5))
        for got, want in zip(compiled(x), Model()(x), strict=True):
            assert torch.equal(got, want)


def test_bounds_that_are_arguments():
    class Model(torch.nn.Module):
        def forward(self, x, n):
            torch._check(n > 0)
            torch._check(n < x.shape[0])
            return x[-n:], x[n:], x[n - 1], x[-n], x[:-n]

    x = random((9, 4))
    dynamic = {"x": {0: torch.export.Dim("rows", min=6, max=64)}, "n": torch.export.Dim.DYNAMIC}
    compiled = fxp.compile(Model(), (x, 3), dynamic_shapes=dynamic, strict=True)
    for n in (1, 2, 5):
        for got, want in zip(compiled(x, n), Model()(x, n), strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("lengths", [(1,), (1, 2), (3, None, 1), (None, 2, None)])
def test_parts_around_one_whose_length_varies(lengths):
    """None stands for the part that varies; what is joined goes on to another kernel."""
    known = [None if length is None else random((length, 2)) for length in (*lengths, None)]

    def join(x):
        parts = [x if part is None else part for part in known]
        return torch.cat(parts).abs(), torch.cat(parts)[1:]

    compiled = fxp.compile(join, (random((3, 2)),), dynamic_shapes=({0: torch.export.Dim("n")},), strict=True)
    for n in (1, 2, 7, 0):
        x = random((n, 2))
        for got, want in zip(compiled(x), join(x), strict=True):
            assert torch.equal(got, want)


SLICES_BY_VALUE = {
    "end": (lambda x, i, j: x[: i.item()] * 2),
    "start": (lambda x, i, j: x[i.item() :] * 2),
    "both": (lambda x, i, j: x[i.item() : j.item() : 2] * 2),
}


@pytest.mark.parametrize("name", SLICES_BY_VALUE)
def test_slice_whose_bounds_depend_on_values(name):
    function, x = SLICES_BY_VALUE[name], torch.randn(8, 3)
    compiled = fxp.compile(function, (x, torch.tensor(2), torch.tensor(7)), strict=True)
    for i, j in ((2, 7), (0, 8), (5, 2), (-3, 20), (-30, -1), (8, 8), (30, 40)):
        args = (x, torch.tensor(i), torch.tensor(j))
        torch.testing.assert_close(compiled(*args), function(*args), rtol=0.0, atol=0.0)
