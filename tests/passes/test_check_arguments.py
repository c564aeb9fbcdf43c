"""Arguments that eager PyTorch refuses, and torch's shape rules do not."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import fxpasses as fxp
from fxpasses.errors import FxpassesError, InputError, PassError
from fxpasses.passes.check_arguments import check_arguments

OPERATIONS = {
    "pad": lambda x, number: torch.nn.functional.pad(x, (1, 0), value=number),
    "constant_pad_nd": lambda x, number: torch.constant_pad_nd(x, (1, 0), number),
    "full": lambda x, number: torch.full((2,), number, dtype=x.dtype),
    "full of one": lambda x, number: torch.full((1,), number, dtype=x.dtype),
    "full_like": lambda x, number: torch.full_like(x, number),
    "new_full": lambda x, number: x.new_full((2, 2), number),
    "fill_": lambda x, number: x.clone().fill_(number),
    "masked_fill": lambda x, number: x.masked_fill(x == 1, number),
    "scatter": lambda x, number: x.scatter(0, torch.tensor([0]), number),
    "where": lambda x, number: torch.where(x == 1, x, number),
    "clamp": lambda x, number: x.clamp(max=number),
    "add": lambda x, number: x + number,
    "pow": lambda x, number: x**number if number > 0 else x,
    "maximum": lambda x, number: torch.where(x > number, 1, x),
}
NUMBERS = [-1, 255, 300, -300, -1.0, 1e6, 1e300, math.nan, math.inf, 2**40]


DTYPES = [torch.uint8, torch.int8, torch.int32, torch.float16, torch.float32, torch.bool]


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_number_is_taken_where_eager_takes_it(name):
    operation = OPERATIONS[name]
    taken, expected = [], []
    for dtype, number in itertools.product(DTYPES, NUMBERS):
        x = torch.tensor([1, 0, 1]).to(dtype)
        try:
            expected.append(operation(x, number))
            taken.append((dtype, number))
        except RuntimeError:
            with pytest.raises(FxpassesError, match="without overflow|too big|cannot convert"):
                fxp.compile(lambda x, number=number: operation(x, number), (x,))
    xs = {dtype: torch.tensor([1, 0, 1]).to(dtype) for dtype in DTYPES}
    found = fxp.compile(lambda xs: [operation(xs[dtype], number) for dtype, number in taken], (xs,))(xs)
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_the_message_names_all_numbers_and_their_lines():
    def function(x):
        return x.masked_fill(x == 0, 300), torch.nn.functional.pad(x, (1, 1), value=-1)

    program = fxp.capture(function, (torch.zeros(2, dtype=torch.uint8),))
    with pytest.raises(FxpassesError) as caught:
        check_arguments(program)
    parts = ("300 cannot be converted to torch.uint8 without overflow (aten.masked_fill", "-1.0 cannot")
    for part in (*parts, "test_check_arguments.py"):
        assert part in str(caught.value)
    with pytest.raises(PassError, match="300 cannot be converted to torch.uint8"):
        fxp.canonicalize(program)


OF_ELEMENTS = {
    "max": lambda x: x.max(-1),
    "min of the first dim": lambda x: x.mT.min(-2, keepdim=True).values,
    **{
        mode: lambda x, mode=mode: torch.nn.functional.interpolate(x, size=(2, 2), mode=mode)
        for mode in ("nearest", "nearest-exact", "bilinear", "bicubic")
    },
    "linear": lambda x: torch.nn.functional.interpolate(x[0], size=2, mode="linear"),
    "nearest of a volume": lambda x: torch.nn.functional.interpolate(x[None], size=(2, 2, 2)),
    "grid_sample": lambda x: torch.nn.functional.grid_sample(x, torch.zeros(1, 2, 2, 2)),
}


@pytest.mark.parametrize("name", OF_ELEMENTS)
def test_what_takes_elements_is_refused_without(name):
    function, x = OF_ELEMENTS[name], torch.randn(1, 2, 3, 4)
    torch.testing.assert_close(fxp.compile(function, (x,))(x), function(x))
    with pytest.raises((IndexError, RuntimeError)):
        function(x[..., :0])
    with pytest.raises(FxpassesError, match="without elements"):
        fxp.compile(function, (x[..., :0],))


def test_arguments_by_name():
    aten = torch.ops.aten

    def function(x):
        wide = aten.upsample_nearest1d.vec(input=x, output_size=None, scale_factors=[2.0])
        return aten.max.dim(self=aten.fill.Scalar(self=wide, value=2), dim=2)[1]

    graph = torch.fx.symbolic_trace(function)
    x = torch.randn(1, 2, 4)
    assert torch.equal(fxp.compile(graph, (x,))(x), function(x))
    extremes = torch.fx.symbolic_trace(lambda x: aten.max.dim(self=x, dim=2)[1])
    with pytest.raises(FxpassesError, match="without elements"):
        fxp.compile(extremes, (x[..., :0],))


def test_no_elements_have_no_extremes_where_there_are_no_rows():
    def function(x):
        return x.max(1)

    x = torch.ones(0, 3)
    torch.testing.assert_close(fxp.compile(function, (x,))(x), function(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.bool])
def test_truths_are_not_subtracted(dtype):
    x, truths = torch.ones(3).to(dtype), torch.tensor([True, False, True])
    for function in (
        lambda x, t: x - t,
        lambda x, t: t - x,
        lambda x, t: x - True,
        lambda x, t: True - x,
        lambda x, t: 1 - t,
    ):
        with pytest.raises(RuntimeError, match="Subtraction"):
            function(x, truths)
        with pytest.raises(FxpassesError, match="truths are subtracted|Subtraction"):
            fxp.compile(function, (x, truths))


def test_a_size_that_varies_stays_one():
    def function(x):
        return x + torch.full_like(x, -9.0), x.max(1)

    x = torch.ones(3, 4, dtype=torch.float16)
    compiled = fxp.compile(function, (x,), dynamic_shapes=({0: torch.export.Dim("rows", max=64)},))
    for rows in (2, 7):
        torch.testing.assert_close(
            tuple(compiled(x[:1].repeat(rows, 1))), tuple(function(x[:1].repeat(rows, 1)))
        )


F = torch.nn.functional

# function, shape of the example, shapes that eager PyTorch refuses, others that have no elements
OF_SIZES = {
    "bilinear": (
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        (2, 3, 4, 5),
        [(2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0), (0, 3, 4, 0)],
        [(0, 3, 4, 5)],
    ),
    "of one channel": (
        lambda x: F.interpolate(x, size=(6, 7), mode="bicubic"),
        (1, 1, 4, 4),
        [(1, 0, 4, 4), (1, 1, 0, 4)],
        [(0, 1, 4, 4)],
    ),
    "smaller": (
        lambda x: F.interpolate(x, scale_factor=0.5, mode="linear"),
        (2, 3, 6),
        [(2, 3, 1), (2, 3, 0), (2, 0, 6)],
        [(0, 3, 6)],
    ),
    "grid": (lambda x: F.grid_sample(x, torch.zeros(2, 2, 2, 2)), (2, 3, 4, 5), [(2, 3, 0, 5)], [(2, 0, 4, 5)]),
    "means": (
        lambda x: F.adaptive_avg_pool2d(x, (1, 3)),
        (2, 3, 4, 5),
        [(2, 3, 4, 0), (2, 3, 0, 5)],
        [(0, 3, 4, 5), (2, 0, 4, 5)],
    ),
    "means of lines": (lambda x: F.adaptive_avg_pool1d(x, 2), (3, 5), [(3, 0)], [(0, 5)]),
    "means of volumes": (
        lambda x: F.adaptive_avg_pool3d(x, 2),
        (2, 3, 4, 5, 6),
        [(2, 0, 4, 5, 6), (2, 3, 4, 5, 0)],
        [(0, 3, 4, 5, 6)],
    ),
    "mean": (lambda x: F.adaptive_avg_pool2d(x, 1), (2, 3, 4, 5), [], [(2, 3, 4, 0), (2, 3, 0, 0), (0, 3, 4, 5)]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Default grid_sample")
@pytest.mark.parametrize("name", OF_SIZES)
def test_sizes_of_tensors_without_elements(name):
    function, example, refused, others = OF_SIZES[name]
    sizes = dict.fromkeys(range(len(example)), torch.export.Dim.AUTO)
    compiled = fxp.compile(function, (torch.randn(example),), dynamic_shapes=({**sizes},), strict=True)
    larger = tuple(size + 1 if dim > 1 else size for dim, size in enumerate(example))
    for shape in (example, larger, *others):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), function(x), equal_nan=True)
    for shape in refused:
        with pytest.raises(RuntimeError):
            function(torch.randn(shape))
        with pytest.raises(InputError):
            compiled(torch.randn(shape))
        with pytest.raises((FxpassesError, RuntimeError)):
            fxp.compile(function, (torch.randn(shape),))
