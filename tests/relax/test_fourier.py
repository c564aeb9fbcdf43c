"""Kernels of Fourier transforms: each kind of length, dtype and place of the dim, against eager PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from fxpasses.dialect.fourier_plan import convolution_plan, is_smooth, plan
from fxpasses.errors import UnsupportedOperatorError

aten = torch.ops.aten
dialect = torch.ops.fxpasses
fft = torch.fft

# An error relative to the largest element, as the terms of each are as large as any.
PRECISION = {torch.float32: 1e-6, torch.float64: 2e-15}


def numbers(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def assert_near(got, want):
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    error = (got - want).abs().max() / want.abs().max().clamp(min=1e-30)
    assert error <= PRECISION[want.dtype.to_real() if want.dtype.is_complex else want.dtype]


def check(function, *args):
    """Compile without PyTorch, and compare."""
    compiled = fxp.compile(function, args, strict=True)
    for got, want in zip(compiled(*args), function(*args), strict=True):
        assert_near(got, want)
    return compiled


# Columns of one and of two rounds, vectors that overlap, odd lengths, primes small and large, alone and as factors.
LENGTHS = (58, 97, 243, 961, 1155)


@pytest.mark.parametrize(
    ("length", "dtype"),
    [
        *((length, torch.float32) for length in LENGTHS),
        (LENGTHS[1], torch.float64),
        *(
            pytest.param(length, torch.float32, marks=pytest.mark.sweep)
            for length in (49, 192, 194, 377, 386, 1021, 8192)
        ),
    ],
)
def test_each_length(length, dtype):
    x = numbers(3, length, dtype=dtype)
    z = torch.complex(x, x.flip(0) * 0.5)
    half = z[:, : length // 2 + 1].clone()

    def function(x, z, half):
        return (
            fft.rfft(x),
            fft.fft(z),
            fft.ifft(z, norm="ortho"),
            fft.irfft(half, n=length),
            fft.fft(z, dim=0),
            fft.hfft(half, n=length, norm="ortho"),
        )

    check(function, x, z, half)


@pytest.mark.parametrize(
    ("length", "width"), [(3, 2), (8, 5), (31, 16), (45, 23), (100, 4), (101, 19), (1331, 7)]
)
def test_across_memory(length, width):
    """Along a dim that others lie behind, where these fill a vector and where not."""
    z = torch.complex(numbers(2, length, width), numbers(2, length, width).flip(1))
    check(lambda z: (fft.fft(z, dim=1), fft.ifft(z, dim=-2), fft.rfft(z.real, dim=1)), z)


@pytest.mark.parametrize("shape", [(40, 36), (2, 101, 50), (5, 4, 6, 8)])
def test_several_dims(shape):
    x = numbers(*shape)

    def function(x):
        y = fft.rfftn(x, norm="forward")
        return y, fft.irfftn(y, s=x.shape, norm="forward"), fft.fft2(x), fft.ifft2(x * 1j), fft.ihfft(x)

    check(function, x)


def test_longer_and_shorter_than_the_signal():
    x = numbers(4, 300)
    check(
        lambda x: (fft.rfft(x, n=512), fft.fft(x, n=77), fft.irfft(fft.rfft(x), n=250), fft.hfft(x, n=700)), x
    )


@pytest.mark.parametrize("length", [1 << 21, 2 * 524_309])
def test_long_ones(length):
    """Three rounds of a column; a convolution with such transforms."""
    x = numbers(1, length)
    check(lambda x: (fft.rfft(x),), x)


def test_the_number_of_rows_may_vary():
    x = numbers(5, 7, 96)
    batch, rows = Dim("batch", max=64), Dim("rows", max=64)

    def function(x):
        y = fft.rfft(x)
        return y, fft.irfft(y * 2), fft.fft(y, dim=-1)

    compiled = fxp.compile(function, (x,), strict=True, dynamic_shapes=({0: batch, 1: rows},))
    for shape in ((5, 7), (1, 1), (13, 2)):
        x = numbers(*shape, 96)
        for got, want in zip(compiled(x), function(x), strict=True):
            assert_near(got, want)


def test_no_rows():
    x = numbers(0, 96)
    compiled = fxp.compile(lambda x: fft.irfft(fft.rfft(x), n=94), (x,), strict=True)
    assert compiled(x).shape == (0, 94)


def test_rows_of_a_larger_tensor_saved_and_loaded(tmp_path):
    x = numbers(6, 4, 300)[::2, :, 10:290]
    compiled = check(lambda x: (fft.irfft(fft.rfft(x) * 3),), x)
    compiled.save(tmp_path / "model.fxp")
    assert_near(fxp.load(tmp_path / "model.fxp")(x)[0], compiled(x)[0])


def test_what_stands_at_the_ends_of_half_a_spectrum_without_effect():
    """The imaginary parts of the first element, and of the last of an even number, even where they are no numbers."""
    half = torch.complex(numbers(2, 129), numbers(2, 129).flip(1))
    plain = half.clone()
    plain.imag[:, 0] = 0
    plain.imag[:, -1] = 0
    half.imag[:, 0] = float("nan")
    half.imag[:, -1] = float("inf")
    compiled = fxp.compile(lambda z: (fft.irfft(z), fft.irfft(z[:, :128], n=255)), (half,), strict=True)
    assert_near(compiled(half)[0], fft.irfft(plain))
    assert_near(compiled(half)[1], fft.irfft(plain[:, :128], n=255))


def calls(function, x):
    program = fxp.canonicalize(fxp.capture(function, (x,)))
    return [
        node.target
        for node in program.graph.nodes
        if node.target in (aten.mm.default, dialect.fourier.default)
        or node.target in (dialect.fourier_of_real.default, dialect.fourier_to_real.default)
    ]


def test_short_transforms_are_products_and_others_are_calls():
    assert calls(fft.rfft, numbers(3, 48)) == [aten.mm.default]
    assert calls(fft.rfft, numbers(3, 58)) == [aten.mm.default]  # of which half has no plan
    assert calls(fft.rfft, numbers(3, 64)) == [dialect.fourier_of_real.default]
    assert calls(fft.irfft, torch.complex(numbers(3, 33), numbers(3, 33))) == [
        dialect.fourier_to_real.default
    ]
    z = torch.complex(numbers(3, 32), numbers(3, 32))
    assert calls(fft.fft, z) == [dialect.fourier.default]
    assert calls(lambda z: fft.fft(z, dim=0), z) == [dialect.fourier.default]
    assert calls(lambda z: fft.fft2(z, norm="ortho"), z) == [dialect.fourier.default] * 2


def test_operators_of_the_dialect_are_those_of_pytorch():
    z = torch.complex(numbers(3, 40, dtype=torch.float64), numbers(3, 40, dtype=torch.float64).flip(0))
    pairs, x = torch.view_as_real(z), z.real.contiguous()
    for dim in (0, 1):
        assert_near(torch.view_as_complex(dialect.fourier(pairs, dim, True, 0.5)), fft.fft(z, dim=dim) * 0.5)
        size = z.shape[dim]
        assert_near(torch.view_as_complex(dialect.fourier(pairs, dim, False, 1 / size)), fft.ifft(z, dim=dim))
    assert_near(torch.view_as_complex(dialect.fourier_of_real(x, 2.0)), fft.rfft(x) * 2)
    assert_near(dialect.fourier_to_real(pairs, 79, 1 / 79), fft.irfft(z, n=79))
    for op, args in (
        (dialect.fourier, (pairs, 0, True, 0.5)),
        (dialect.fourier_of_real, (x, 2.0)),
        (dialect.fourier_to_real, (pairs, 79, 1.0)),
    ):
        torch.library.opcheck(op.default, args, test_utils=("test_schema", "test_faketensor"))


def test_each_length_has_a_plan_or_that_of_a_convolution():
    for size in range(97, 3000):
        found = plan(size, 16)
        assert (found is not None) == is_smooth(size)
        if found is not None:
            assert found.size == size
            assert min(found.columns) >= found.lanes
        else:
            assert convolution_plan(size, 16).size >= 2 * size - 1


@pytest.mark.parametrize(
    ("op", "args"),
    [(dialect.fourier_of_real, (numbers(3, 9), 1.0)), (dialect.fourier, (numbers(2, 7, 2), 1, True, 1.0))],
    ids=["real", "complex"],
)
def test_what_fills_no_vectors_is_refused_by_the_kernel(op, args):
    """Such transforms are products in the canonical form."""
    with pytest.raises(UnsupportedOperatorError, match="fill no vectors"):
        fxp.compile(lambda x: op(x, *args[1:]), args[:1], strict=True)
