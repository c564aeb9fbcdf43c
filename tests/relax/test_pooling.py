"""Maximum and average pooling against eager."""

import pytest
import torch

import fxpasses as fxp
from tests.relax.helpers import FLOATS, INTEGERS, call, check_calls, random

aten = torch.ops.aten

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def difficult(dtype):
    """Equal elements, and for float types NaN, a plane of -inf, and inf."""
    x = random((2, 3, 7, 9), dtype)
    if dtype.is_floating_point:
        x[0, 0, 2, 2:4] = float("nan")
        x[0, 1] = float("-inf")
        x[1, 2, :4, :4] = float("inf")
    return x


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS], ids=str)
def test_max_and_its_positions(dtype):
    pool, x = aten.max_pool2d_with_indices.default, difficult(dtype)
    check_calls(
        [
            call(pool, x, [2, 2]),
            call(pool, x, [3, 2], [2, 1], [1, 1], [2, 1], True),
            call(pool, x[0], [3], [2], [1]),
            call(pool, x, [3, 3], [2, 3], [1, 0], [1, 1], True),
            call(pool, (x > 0).to(dtype), [3]),
        ]
    )


def test_max_of_other_windows():
    space = random((2, 3, 5, 6, 7))
    check_calls(
        [
            call(
                aten.max_pool3d_with_indices.default, space, [2, 3, 2], [1, 2, 2], [1, 1, 0], [1, 2, 1], True
            ),
            call(aten.max_pool3d_with_indices.default, space[0], [2]),
            call(aten.adaptive_max_pool2d.default, difficult(torch.float32), [3, 4]),
            call(aten.adaptive_max_pool2d.default, space[0, :, 0], [5, 1]),
            call(aten.adaptive_max_pool3d.default, space, [3, 4, 2]),
        ]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_max_without_positions(dtype):
    pool, x = aten.max_pool2d_with_indices.default, difficult(dtype)
    check_calls([call(pool, x, [3, 2], [2, 1], [1, 1], [2, 1], True), call(pool, x, [2])], results=[0])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_mean(dtype):
    x = random((2, 3, 7, 9), dtype)
    calls = [
        call(aten.avg_pool2d.default, x, [3, 2], [2, 2], [1, 1], ceil, padded, divisor)
        for ceil in (True, False)
        for padded in (True, False)
        for divisor in (None, 3)
    ]
    calls += [
        call(aten.avg_pool2d.default, x[0], [3]),
        call(aten.avg_pool1d.default, x[0], [3], [2], [1], True, False),
        call(aten.avg_pool1d.default, x[0, 0], [2]),
        *(call(aten._adaptive_avg_pool2d.default, x, size) for size in ([3, 4], [1, 1], [7, 3], [10, 20])),
    ]
    if dtype in (torch.float32, torch.float64):
        space = random((2, 3, 5, 6, 7), dtype)
        calls += [
            call(aten.avg_pool3d.default, space, [2, 3, 2], [1, 2, 2], [1, 1, 0], True, False),
            call(aten.avg_pool3d.default, space, [2, 3, 2], [1, 2, 2], [1, 1, 0], True, True, 7),
            call(aten._adaptive_avg_pool3d.default, space, [2, 3, 4]),
        ]
    check_calls(calls, tolerance=TOLERANCE)


def test_mean_of_integers_is_cut_off():
    x, window = random((2, 3, 7, 9), torch.int64), ([3, 2], [2, 2], [1, 1], True, True)
    check_calls([call(aten.avg_pool2d.default, x, *window, by) for by in (None, 3, -2)])


@pytest.mark.parametrize(("rank", "padded"), [(1, True), (1, False), (3, True)])
def test_mean_of_integers_whose_number_varies(rank, padded):
    """No lane of a vector divides by the size of a window that is not there."""

    def mean(x):
        return getattr(torch.nn.functional, f"avg_pool{rank}d")(x, 3, 2, 1, count_include_pad=padded)

    example = random((2, *[9] * rank), torch.int64)
    sizes = dict.fromkeys(range(example.dim()), torch.export.Dim.AUTO)
    compiled = fxp.compile(mean, (example,), dynamic_shapes=(sizes,), strict=True)
    for shape in ((2, *[9] * rank), (1, *[3] * rank), (3, *[14] * rank), (1, *[4] * rank)):
        x = random(shape, torch.int64)
        assert torch.equal(compiled(x), mean(x))


def test_dynamic_sizes():
    class Model(torch.nn.Module):
        def forward(self, x):
            f = torch.nn.functional
            whole = f.adaptive_avg_pool2d(x, 1)
            return f.max_pool2d(x, 3, 2, 1), f.avg_pool2d(x, 3, 2, 1), whole, f.adaptive_avg_pool2d(x, (3, 2))

    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=4, max=64)}
    compiled = fxp.compile(Model(), (random((2, 3, 8, 10)),), dynamic_shapes=(dims,), strict=True)
    for batch, height in ((1, 8), (5, 13)):
        x = random((batch, 3, height, 10))
        for got, want in zip(compiled(x), Model()(x), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


HEIGHT, WIDTH = torch.export.Dim("height", min=7, max=200), torch.export.Dim("width", min=7, max=200)


@pytest.mark.parametrize(
    ("pool", "rank"),
    [
        (torch.nn.MaxPool1d(3, 2, 1, ceil_mode=True), 1),
        (torch.nn.MaxPool1d(3, 2, 1), 1),
        (torch.nn.MaxPool2d(3, 2, ceil_mode=True), 2),
        (torch.nn.MaxPool2d(2, 3, return_indices=True, ceil_mode=True), 2),
        (torch.nn.AvgPool1d(3, 3, 1, ceil_mode=True, count_include_pad=False), 1),
        (torch.nn.AvgPool2d(2, 2, ceil_mode=True), 2),
        (torch.nn.AvgPool2d((1, 4), (2, 5), (0, 2), ceil_mode=True), 2),
        (torch.nn.AvgPool3d((1, 2, 3), (1, 3, 2), (0, 1, 1), ceil_mode=True), 3),
        (torch.nn.MaxPool3d((1, 2, 3), (2, 3, 2), ceil_mode=True), 3),
        (torch.nn.LPPool2d(2, 3, 2, ceil_mode=True), 2),
    ],
    ids=str,
)
def test_counts_of_windows_for_every_size(pool, rank):
    """Named dims: no size is left out by a guard on how many windows there are."""
    dims = {1 + rank: HEIGHT} if rank == 1 else {rank: HEIGHT, 1 + rank: WIDTH}
    fixed = (2, 3, 5)[: rank + 1] if rank > 1 else (2, 3)
    shape = (*fixed, 10) if rank == 1 else (*fixed[:rank], 10, 11)
    program = fxp.canonicalize(fxp.capture(pool, (random(shape),), dynamic_shapes=(dims,)))
    assert not fxp.verify(program, "canonical")
    compiled = fxp.compile(program, strict=True)
    for size in range(7, 19):
        x = random((*shape[: min(dims)], size, 25 - size)[: len(shape)])
        torch.testing.assert_close(compiled(x), pool(x), rtol=1e-5, atol=1e-5)


def check_sizes(model, dims, sizes, dtype=torch.float32):
    """Compile *model* for the first of *sizes*, in which *dims* vary, and compare it in all with eager."""
    first, *others = (random(size, dtype) for size in sizes)
    dynamic = (dict.fromkeys(dims, torch.export.Dim.AUTO),)
    compiled = fxp.compile(model, (first,), dynamic_shapes=dynamic, strict=True)
    for x in (first, *others):
        tolerance = TOLERANCE[dtype] * 4
        torch.testing.assert_close(compiled(x), model(x), rtol=tolerance, atol=tolerance)


SIZES_2D = [
    (2, 3, 7, 10),
    (2, 3, 1, 1),
    (2, 3, 5, 1),
    (2, 3, 1, 8),
    (2, 3, 13, 17),
    (2, 3, 4, 4),
    (2, 3, 40, 51),
]


@pytest.mark.parametrize("dims", [(1, 2, 3), (2,), (3,)], ids=str)
def test_means_that_keep_a_size_that_varies(dims):
    pool = torch.nn.functional.adaptive_avg_pool2d

    def model(x):
        kept = [(1, None), (None, 1), (None, None), (3, None), (None, 20)]
        return *(pool(x, size) for size in kept), pool(x.transpose(2, 3), (None, 2))

    sizes = [[size if dim in dims else SIZES_2D[0][dim] for dim, size in enumerate(x)] for x in SIZES_2D]
    check_sizes(model, dims, sizes)


def test_means_of_a_size_computed_from_one_that_varies():
    pool = torch.nn.functional.adaptive_avg_pool2d

    def model(x):
        height, width = x.shape[2:]
        doubled = torch.cat([x, x], 2)
        return (
            pool(x, (height * 2, 3)),
            pool(x, (width, height)),
            pool(doubled, (height, 1)),
            pool(doubled, (height * 2, None)),
        )

    check_sizes(model, (2, 3), SIZES_2D)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_means_of_other_dtypes_that_keep_a_size_that_varies(dtype):
    pool = torch.nn.AdaptiveAvgPool2d((None, 2))
    check_sizes(pool, (0, 1, 2), [(3, 4, 5), (1, 7, 5), (2, 1, 5)], dtype)


def test_means_in_space_that_keep_a_size_that_varies():
    pool = torch.nn.functional.adaptive_avg_pool3d

    def model(x):
        kept = [(None, 1, 2), (1, None, None), (3, 7, None), (None, None, None)]
        return tuple(pool(x, size) for size in kept)

    check_sizes(model, (2, 3, 4), [(1, 2, 3, 6, 5), (1, 2, 1, 1, 1), (1, 2, 7, 2, 11), (1, 2, 4, 13, 1)])


@pytest.mark.parametrize("kind", ["avg", "max"])
def test_adaptive_windows_of_sizes_that_vary(kind):
    functions = torch.nn.functional
    line, plane = (getattr(functions, f"adaptive_{kind}_pool{dims}d") for dims in (1, 2))
    positions = {"return_indices": True} if kind == "max" else {}

    def model(x):
        return line(x[:, :, 0], 4, **positions), *(plane(x, size, **positions) for size in [(1, 5), (11, 2)])

    check_sizes(model, (2, 3), SIZES_2D)


@pytest.mark.parametrize("dims", [2, 3])
def test_values_go_back_to_where_they_were(dims):
    pool, unpool = (getattr(torch.nn.functional, f"max_{kind}{dims}d") for kind in ("pool", "unpool"))
    values, places = pool(random((2, 3, *[6] * dims)), 2, return_indices=True)
    compiled = fxp.compile(lambda values, places: unpool(values, places, 2), (values, places), strict=True)
    assert torch.equal(compiled(values, places), unpool(values, places, 2))
    for outside in (-1, 6**dims):
        places.view(-1)[1] = outside
        with pytest.raises(IndexError, match=f"index {outside}"):
            compiled(values, places)
