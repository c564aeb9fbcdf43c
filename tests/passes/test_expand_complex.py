"""Complex numbers as pairs, and Fourier transforms as products."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fxpasses as fxp
from fxpasses.passes import expand_complex
from fxpasses.testing import assert_equivalent

aten = torch.ops.aten

X = torch.randn(3, 4, 12, generator=torch.Generator().manual_seed(0))
Z = torch.view_as_complex(X.reshape(3, 4, 6, 2)).clone()
fft = torch.fft


def canonical(function, *args):
    """The canonical program, which eager runs with the same results."""
    captured = fxp.capture(function, args)
    program = fxp.canonicalize(captured)
    assert_equivalent(captured, program, args)
    return program


def calls_complex(program):
    """The calls with complex numbers that are not the ends of the program."""
    ends = (aten.view_as_real.default, aten.view_as_complex.default)
    return [
        node
        for node in program.nodes()
        if node.op == "call_function" and node.meta["val"].is_complex() and node.target not in ends
    ]


TRANSFORMS = {
    "fft": (lambda x: fft.fft(x), X),
    "several dims": (lambda x: fft.fftn(x, dim=(0, 2), norm="ortho").real, X),
    "half": (lambda x: fft.rfft2(x, s=(5, 7)), X),
    "there and back": (lambda x: fft.irfft(fft.rfft(x, dim=1), n=5, dim=1, norm="forward"), X),
    "inverse": (lambda z: fft.ifft(z, norm="backward"), Z),
    "composite": (lambda x: fft.irfft(fft.rfft(x)), X.reshape(-1)[:144].repeat(5)[:600]),
    "prime": (lambda x: fft.rfft(x), X.reshape(-1).repeat(3)[:307]),
    "short time": (
        lambda x: torch.stft(x, 16, 4, window=torch.hann_window(16), return_complex=True).abs(),
        X[0],
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name):
    assert not calls_complex(canonical(*TRANSFORMS[name]))


# Products of small numbers, of two primes, an odd square, and lengths whose parts are long themselves.
LENGTHS = (1, 2, 3, 96, 101, 104, 255, 256, 257, 258, 260, 289, 323, 400, 514, 625, 1000, 1021, 66049, 67600)


@pytest.mark.parametrize("length", LENGTHS)
def test_each_length(length):
    x = torch.randn(2, length, dtype=torch.float64)
    z = fft.fft(x.roll(1, 0)) * (1 + 2j)

    def function(x, z):
        half = z[:, : length // 2 + 1]
        return fft.rfft(x), fft.fft(x), fft.ifft(z), fft.irfft(half, n=length), fft.hfft(half, n=length)

    program = fxp.canonicalize(fxp.capture(function, (x, z)))
    assert not calls_complex(program)
    for got, want in zip(program(x, z), function(x, z), strict=True):
        assert (got - want).abs().max() <= 3e-15 * want.abs().max()


@pytest.mark.parametrize("norm", ["forward", "backward", "ortho"])
def test_several_axes_of_long_real_values(norm):
    x = torch.randn(300, 2, 260, dtype=torch.float64)

    def function(x):
        y = fft.rfftn(x, dim=(0, 2), norm=norm)
        return y, fft.irfftn(y * 2, s=(300, 260), dim=(0, 2), norm=norm)

    program = fxp.canonicalize(fxp.capture(function, (x,)))
    for got, want in zip(program(x), function(x), strict=True):
        assert (got - want).abs().max() <= 3e-15 * want.abs().max()


@pytest.mark.parametrize("shape", [(1,), (2,), (4, 1), (1, 4), (3, 5), (6, 4), (2, 7, 8), (3, 1, 6), (2, 2)])
@pytest.mark.parametrize("norm", ["forward", "ortho"])
def test_real_values_over_all_dims(shape, norm):
    x = torch.randn(shape, dtype=torch.float64)
    order = tuple(range(x.dim()))[::-1]

    def function(x):
        return fft.fftn(x, norm=norm), fft.ifftn(x, dim=order, norm=norm), fft.fft(x, dim=0, norm=norm)

    program = fxp.canonicalize(fxp.capture(function, (x,)))
    assert not calls_complex(program)
    for got, want in zip(program(x), function(x), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-14 * want.abs().max().item())


def test_the_transform_of_real_values_computes_half_of_it():
    def products(function, x):
        program = fxp.canonicalize(fxp.capture(function, (x,)))
        return [
            tuple(node.args[1].meta["val"].shape)
            for node in program.graph.nodes
            if node.target is aten.mm.default
        ]

    assert products(fft.fft, torch.randn(3, 31)) == [(31, 32)]
    assert products(fft.fft, torch.randn(3, 31) * 1j) == [(62, 62)]


ARITHMETIC = {
    "products": lambda z: (z * z.conj(), z * 2, z * (1 + 2j), 2j * z.real, z / 4),
    "sums": lambda z: (z + z.flip(0), z - 1j, torch.add(z, z.abs(), alpha=2), z.sum(1), z.mean(0)),
    "parts": lambda z: (z.abs(), z.angle(), z.real, z.imag, torch.view_as_real(z)),
    "views": lambda z: (z.reshape(-1), z.permute(2, 0, 1)[1], torch.cat([z, z.conj()], -1), z[:, ::2, 1:]),
    "matrices": lambda z: (z @ z.mT, z[0] @ z[1].T),
    "dtypes": lambda z: (z.to(torch.complex128), z.real.to(torch.complex64), torch.exp(z)),
    "promotion": lambda z: (torch.cat([z, z.to(torch.complex128), z.real]), torch.stack([z, z.double()])),
    "quotients": lambda z: (z / z.flip(0), 2 / z, z.real / z, z / (1 - 2j), z.reciprocal(), z**2),
    "sums of products": lambda z: (
        torch.addmm(z[0, 0, :1], z[0], z[1].mT[:, :1], beta=0.5, alpha=2),
        torch.baddbmm(z[:, :, :1], z, z.mT, beta=0),
        F.linear(z, z[0], z[0, :, 0]),
    ),
    "convolutions": lambda z: (
        F.conv1d(z, z[:, :, :2], z[:, 0, 0], stride=2, padding=1),
        F.conv1d(z, z[:2, :2, 1:4], groups=2, dilation=2, padding="same"),
        F.conv_transpose1d(z, z[:, :, :2].transpose(0, 1), z[:, 0, 0], stride=3, output_padding=1),
        F.conv2d(z, z[None, :, 1:3, :3], z[0, 0, :1]),
        F.conv3d(z[None, None], z[None, None, :2, :2, :2]),
    ),
    "parts written": lambda z: (
        z.slice_scatter(2 * z[:, 1:], 1, 1),
        z.select_scatter(z[:, 0].conj(), 1, -1),
        z.index_put((torch.tensor([0, 0]), torch.tensor([1, 1])), z[:1, 0] * 3, accumulate=True),
        z.index_put((torch.tensor([[0], [1]]), torch.tensor([1, 2])), torch.tensor(2 + 1j)),
    ),
    "comparisons": lambda z: (z == z.conj(), z != z.real, z == 1j, z.isnan()),
    "positions": lambda z: (
        z.gather(1, torch.ones(3, 2, 6, dtype=torch.int64)),
        z.scatter(0, torch.tensor([[[2, 1]]]), z[1:]),
        z.scatter_add(0, torch.tensor([[[2, 1]]]), z[1:]),
    ),
    "selection": lambda z: torch.where(z.real > 0, z, torch.zeros_like(z)),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic(name):
    assert not calls_complex(canonical(ARITHMETIC[name], Z))


def test_quotients_of_infinities_and_by_zero():
    parts = (0.0, -1.5, float("inf"), float("nan"), 1e30, 1e-30)
    numbers = torch.tensor([complex(x, y) for x in parts for y in parts], dtype=torch.complex64)
    x, y = torch.meshgrid(numbers, numbers, indexing="ij")
    got = fxp.compile(torch.div, (x, y), strict=True)(x, y)
    torch.testing.assert_close(got, x / y, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_exponentials_of_large_and_infinite_numbers(dtype):
    """The size of one may be infinite where the number is not, and by the rules of C where it is."""
    ends = [0.0, -0.0, 1.0, 64.5, 89.0, 710.0, -104.0, -750.0, float("inf"), -float("inf"), float("nan")]
    x, y = (torch.tensor([*numbers], dtype=torch.float64) for numbers in (ends, [*ends, 1.57, 3.14]))
    z = torch.complex(*torch.meshgrid(x, y, indexing="ij")).to(dtype)

    def exponential(z):
        return torch.view_as_real(z.exp())

    compiled = fxp.compile(exponential, (z,), strict=True)
    tolerance = 1e-5 if dtype == torch.complex64 else 1e-12
    torch.testing.assert_close(compiled(z), exponential(z), rtol=tolerance, atol=1e-40, equal_nan=True)


def test_compiled_with_complex_inputs_parameters_and_outputs():
    class Mixer(torch.nn.Module):
        """The layer of a spectral model: filters with complex weights."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(4, 7, dtype=torch.complex64))

        def forward(self, x, z):
            y = fft.rfft(x) * self.weight
            return fft.irfft(y), y[..., :6] + z

    model = Mixer()
    compiled = fxp.compile(model, (X, Z), strict=True)
    assert_equivalent(model, compiled, (X, Z))
    assert_equivalent(model, compiled, (X, Z.conj()))


def test_rotary_embedding_as_complex_numbers():
    def rotate(q, angles):
        turns = torch.polar(torch.ones_like(angles), angles)
        return torch.view_as_real(torch.view_as_complex(q.unflatten(-1, (-1, 2))) * turns).flatten(-2)

    args = (X, X[0, :, :6])
    compiled = fxp.compile(rotate, args, strict=True)
    assert_equivalent(rotate, compiled, args)


def test_what_no_row_covers_is_one_island_with_real_ends():
    def f(z):
        return (torch.tan(z) * z).real

    compiled = fxp.compile(f, (Z,))
    assert compiled.islands.ops == [
        "aten::view_as_complex.default",
        "aten::tan.default",
        "aten::view_as_real.default",
    ]
    assert_equivalent(f, compiled, (Z,))


def test_a_program_without_complex_numbers_is_left_alone():
    program = fxp.capture(lambda x: x + 1, (X,))
    assert expand_complex(program) is program


def test_a_second_time_changes_nothing():
    program = canonical(lambda z: fft.fft(z) * z, Z)
    assert fxp.fingerprint(fxp.canonicalize(program)) == fxp.fingerprint(program)


def test_a_bfloat16_counts_as_a_float32():
    x = torch.linspace(-2, 3, 6).bfloat16()
    z = torch.linspace(1, 2, 6) * (1 - 2j)

    def f(x, z):
        return x + 1j, x * 2j, 1j - x, x * z, z / x, x + z

    for given, made in zip(fxp.compile(f, (x, z))(x, z), f(x, z), strict=True):
        torch.testing.assert_close(given, made)


BY_SIZE = {
    "plus": lambda z: z + z.shape[0] - z.shape[1],
    "from": lambda z: z.shape[0] - z,
    "times": lambda z: z * z.shape[0] / (z.shape[1] + 1),
    "over": lambda z: z.shape[0] / z,
    "several of it": lambda z: torch.add(z, z, alpha=z.shape[0]),
    "share": lambda z: torch.addmm(z @ z.mH, z, z.mH, beta=z.shape[0], alpha=z.shape[1]),
    "read": lambda z: z * z.real.sum().item() + z.imag.sum().item(),
    "filled": lambda z: torch.full((2, 1), z.shape[0], dtype=z.dtype) * z.sum(),
    "mean": lambda z: z.sum(0) / z.shape[0],
    "diagonal": lambda z: torch.diagonal(z[None] * z.shape[0], 1, 2, 1) + z[0, 0],
    "cov": lambda z: torch.cov(z),
    "corrcoef": lambda z: torch.corrcoef(z),
}


@pytest.mark.filterwarnings("ignore:cov")  # of a single observation, which capture tries
@pytest.mark.parametrize("name", BY_SIZE)
def test_arithmetic_with_numbers_that_are_sizes(name):
    function = BY_SIZE[name]
    any_size = torch.export.Dim.AUTO
    compiled = fxp.compile(function, (Z[0],), dynamic_shapes=({0: any_size, 1: any_size},), strict=True)
    for rows, columns in ((4, 6), (2, 6), (3, 2), (4, 5), (5, 4)):
        z = Z.reshape(-1)[: rows * columns].reshape(rows, columns)
        torch.testing.assert_close(compiled(z), function(z))


def test_an_infinite_real_summand_has_no_imaginary_part_as_in_eager():
    """PyTorch multiplies the second summand by a complex 1, and infinity times 0 is NaN."""
    real = torch.tensor([1.0, torch.inf, -torch.inf, torch.nan])
    z = torch.tensor([1 + 2j, 3 - 1j, -1j, 2 + 0j])
    for function in (
        lambda z, x: z + x,
        lambda z, x: z - x,
        lambda z, x: x + z,
        lambda z, x: torch.add(z, x, alpha=2),
    ):
        torch.testing.assert_close(
            fxp.compile(function, (z, real))(z, real), function(z, real), equal_nan=True
        )


@pytest.mark.parametrize("dynamic", [False, True])
def test_logarithms_of_determinants_of_singular_matrices(dynamic):
    sizes = (dict.fromkeys(range(3), torch.export.Dim.AUTO),) if dynamic else None
    matrices = torch.stack([Z[0, :3, :3], torch.zeros(3, 3), torch.ones(3, 3), Z[1, :3, :3]])
    for function in (torch.logdet, torch.linalg.slogdet):
        compiled = fxp.compile(lambda x, f=function: f(x), (matrices,), dynamic_shapes=sizes)
        for got, want in zip(compiled(matrices), function(matrices), strict=True):
            torch.testing.assert_close(got, want, equal_nan=True)
