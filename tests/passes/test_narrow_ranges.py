"""`narrow_ranges`: a program is called only with sizes at which its values have the sizes that capture found."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

import fxpasses as fxp
from fxpasses.errors import InputError
from fxpasses.passes import narrow_ranges

SIZES = [(0, 3), (1, 1), (1, 4), (2, 5), (3, 3), (6, 4), (9, 2)]


def _assigned(x, y):
    x = x.clone()
    x[y.shape[0]] = 1
    return x


def _compiled(f, *args):
    dims = tuple(dict.fromkeys(range(arg.dim()), Dim.AUTO) for arg in args)
    return fxp.compile(f, args, dynamic_shapes=dims)


@pytest.mark.parametrize(
    "f",
    [
        lambda x, y: x[y.shape[0]],
        lambda x, y: x[y.shape[0] - 1],
        lambda x, y: x[-y.shape[0]],
        lambda x, y: x[y.shape[0] - y.shape[1]],
        lambda x, y: x.narrow(0, y.shape[0], 2),
        lambda x, y: x[y.shape[0] : y.shape[1]],
        lambda x, y: x[y.shape[1] - y.shape[0] :],
        lambda x, y: x[1 :: y.shape[0]],
        lambda x, y: x.new_ones(x.shape[0] - y.shape[0]),
        lambda x, y: x.new_ones(8 - y.shape[0]),
        lambda x, y: x.new_ones(x.shape[0] + y.shape[0] - 1, x.shape[0] * y.shape[0] + 2),
        lambda x, y: x.reshape(y.shape[0], -1),
        lambda x, y: x.select_scatter(y[0, :1].expand(x.shape[1]), 0, -3),
        lambda x, y: x[-2] + y.sum(),
        _assigned,
    ],
)
def test_sizes_of_several_arguments_as_in_eager_or_refused(f):
    compiled = _compiled(f, torch.ones(7, 4), torch.ones(2, 5))
    served = 0
    for n, m in itertools.product(SIZES, SIZES):
        args = torch.arange(float(n[0] * n[1])).reshape(n), torch.ones(m)
        try:
            expected = f(*args)
        except (RuntimeError, IndexError, ValueError):
            with pytest.raises((InputError, IndexError)):
                compiled(*args)
            continue
        try:
            got = compiled(*args)
        except InputError:
            continue
        served += 1
        assert torch.equal(got, expected)
    assert served > 5


@pytest.mark.parametrize("kernel", [0, 1, 3])
@pytest.mark.parametrize("pixels", [1, 2, 5])
def test_a_transposed_convolution_makes_pixels(kernel, pixels):
    def f(x, weight):
        return F.conv_transpose1d(x, weight, stride=2, padding=2)

    compiled = _compiled(f, torch.ones(3, 2, 7), torch.ones(2, 4, 5))
    args = torch.randn(3, 2, pixels), torch.randn(2, 4, kernel)
    try:
        expected = f(*args)
    except RuntimeError:
        with pytest.raises(InputError):
            compiled(*args)
    else:
        torch.testing.assert_close(compiled(*args), expected)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.max(),
        lambda x: x.min(1),
        lambda x: x.median(0),
        lambda x: x.nanmedian(-1),
        lambda x: x.mode(1),
        lambda x: x.kthvalue(1, dim=2),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_extremes_of_no_elements(f, dtype):
    compiled = _compiled(f, torch.arange(60).reshape(3, 4, 5).to(dtype))
    for shape in [(0, 2, 3), (2, 0, 3), (2, 3, 0), (1, 1, 1)]:
        x = torch.ones(shape, dtype=dtype)
        try:
            f(x)
        except (RuntimeError, IndexError):
            with pytest.raises(InputError):
                compiled(x)


@pytest.mark.parametrize(
    ("mode", "dims", "size"),
    [
        *(("nearest", 1, {"scale_factor": 0.4}), ("nearest-exact", 2, {"size": (3, 2)})),
        *(("linear", 1, {"scale_factor": 0.4}), ("bilinear", 2, {"size": (3, 2)})),
    ],
)
def test_there_are_pixels_to_resample(mode, dims, size):
    def f(x):
        return F.interpolate(x, **size, mode=mode)

    compiled = _compiled(f, torch.randn(2, 3, *[7, 6, 8][:dims]))
    for batch, channels, pixels in [
        (0, 3, 4),
        (2, 0, 4),
        (2, 3, 0),
        (1, 1, 1),
        (2, 1, 2),
        (1, 2, 3),
        (1, 2, 4),
    ]:
        x = torch.randn(batch, channels, *[pixels] * dims)
        try:
            expected = f(x)
        except RuntimeError:
            with pytest.raises(InputError):
                compiled(x)
        else:
            torch.testing.assert_close(compiled(x), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_there_are_pixels_to_sample(dims):
    def f(x, grid):
        return F.grid_sample(x, grid, align_corners=False)

    compiled = _compiled(f, torch.randn(2, 3, *[4, 5, 6][:dims]), torch.rand(2, *[3, 7, 8][:dims], dims))
    for batch, channels, pixels, places in [
        (2, 3, 0, 4),
        (2, 3, 0, 0),
        (0, 2, 3, 3),
        (1, 2, 3, 0),
        (2, 1, 1, 1),
    ]:
        args = torch.randn(batch, channels, *[pixels] * dims), torch.rand(batch, *[places] * dims, dims)
        try:
            expected = f(*args)
        except RuntimeError:
            with pytest.raises(InputError):
                compiled(*args)
        else:
            torch.testing.assert_close(compiled(*args), expected)


def test_what_a_range_says_is_not_asserted():
    def f(x, y):
        return x[2:], torch.cat([x, y])[x.shape[0] :], x.new_ones(x.shape[0] * y.shape[0] + 3)

    args = torch.ones(7, 4), torch.ones(2, 4)
    shapes = ({0: Dim.AUTO}, {0: Dim.AUTO})
    program = narrow_ranges(fxp.canonicalize(fxp.capture(f, args, dynamic_shapes=shapes)))
    assert program.signature.conditions == ()
    for rows in (0, 1, 3):
        args = torch.randn(rows, 4), torch.randn(3, 4)
        for got, expected in zip(fxp.compile(program)(*args), f(*args), strict=True):
            assert torch.equal(got, expected)


def test_the_message_tells_the_sizes():
    compiled = _compiled(lambda x, y: x[y.shape[0]], torch.ones(7, 4), torch.ones(2, 5))
    with pytest.raises(
        InputError, match=r"x\.shape\[0\] is 3, y\.shape\[0\] is 3|y\.shape\[0\] is 3, x\.shape\[0\] is 3"
    ):
        compiled(torch.ones(3, 4), torch.ones(3, 5))
