"""Scheduled convolutions equal PyTorch's at odd sizes, borders, strides and dilations; their loops are as planned."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.export import Dim

import fxpasses as fxp
from fxpasses.benchmark.threads import torch_threads
from fxpasses.codegen.compile import to_canonical, to_program
from fxpasses.codegen.optimize import optimizations
from fxpasses.codegen.pipeline import kernel_passes
from fxpasses.codegen.target import host_target
from fxpasses.relax import tvm_api as T
from fxpasses.relax.emit import lower


def check(model, x, *more, dynamic_shapes=None):
    """Compile for *x*; compare with eager for it, and for *more* inputs, in one thread and in two."""
    model = model.eval()
    compiled = fxp.compile(model, (x,), dynamic_shapes=dynamic_shapes, strict=True)
    for value in (x, *more):
        with torch.no_grad():
            want = model.double()(value.double())
            model.float()
        for count in (1, 2):
            with torch_threads(count):
                torch.testing.assert_close(compiled(value).double(), want, rtol=1e-4, atol=1e-4)


def script(model, x) -> str:
    """The scheduled kernels of a compiled model."""
    program = optimizations(host_target())(to_canonical(to_program(model.eval(), (x,), None, None)))
    with host_target():
        return T.tvm.transform.Sequential(kernel_passes(host_target()))(lower(program)).script()


def depthwise(channels, window, *, between=nn.ReLU6, **options):
    """A depthwise convolution with what follows it in networks."""
    conv = nn.Conv2d(channels, channels, window, groups=channels, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), between())


@pytest.mark.parametrize(
    ("channels", "window", "size", "options"),
    [
        (32, 3, (12, 12), {"padding": 1}),
        (16, 3, (17, 19), {"padding": 1}),  # rows and columns of primes
        (48, 3, (15, 113), {"stride": 2, "padding": 1}),
        (24, 5, (9, 31), {"stride": (2, 1), "padding": 2}),
        (33, 3, (8, 8), {"padding": 1}),  # no vector divides the channels
        (17, 3, (8, 23), {"padding": (0, 1)}),
        (96, 7, (7, 7), {"padding": 3}),
        (64, 3, (11, 10), {"padding": 2, "dilation": 2}),
        (16, (1, 5), (1, 40), {"padding": (0, 2)}),
        (16, (5, 1), (40, 1), {"padding": (2, 0)}),
        (32, 3, (1, 1), {"padding": 1}),
        (32, 3, (20, 21), {}),  # no border
        (16, 3, (150, 300), {"padding": 1}),  # several bands, the last one shorter
        (16, 3, (5, 6), {"padding": 4}),  # windows that see nothing but border
        (16, 4, (10, 10), {"padding": "same"}),
    ],
    ids=str,
)
def test_depthwise(channels, window, size, options):
    check(depthwise(channels, window, **options), torch.randn(2, channels, *size))


def test_depthwise_of_doubles():
    conv = nn.Conv2d(24, 24, 3, padding=1, groups=24).double().eval()
    x = torch.randn(1, 24, 9, 13, dtype=torch.float64)
    torch.testing.assert_close(fxp.compile(conv, (x,), strict=True)(x), conv(x))


@pytest.mark.parametrize("window", [3, 5])
def test_depthwise_of_dynamic_images(window):
    dims = {0: Dim("n", max=8), 2: Dim("h", min=8, max=512), 3: Dim("w", min=8, max=512)}
    sizes = [(1, 8, 8), (3, 9, 40), (2, 30, 13), (1, 64, 64)]
    x = torch.randn(2, 32, 16, 16)
    more = [torch.randn(n, 32, h, w) for n, h, w in sizes]
    check(depthwise(32, window, padding=window // 2), x, *more, dynamic_shapes=(dims,))


@pytest.mark.parametrize(
    ("conv", "size"),
    [
        (nn.Conv2d(16, 32, 3, padding=1), (17, 17)),
        (nn.Conv2d(16, 32, 3, padding=1, stride=2), (37, 38)),
        (nn.Conv2d(16, 48, (1, 5), padding=(0, 2)), (3, 29)),
        (nn.Conv2d(16, 32, 1), (2, 31)),
        (nn.Conv2d(16, 24, 3, dilation=2), (9, 23)),
        (nn.Conv2d(1024, 32, 1), (14, 14)),  # rows that share a set of the cache
        (nn.Conv2d(32, 64, 3, padding=1, groups=2), (4, 19)),
        (nn.Conv2d(3, 16, 7, stride=2, padding=3), (35, 37)),
    ],
    ids=str,
)
def test_rows_that_no_tile_divides(conv, size):
    check(nn.Sequential(conv, nn.ReLU()), torch.randn(2, conv.in_channels, *size))


def test_a_row_that_no_tile_divides_is_tiled_all_the_same():
    text = script(nn.Conv2d(16, 32, 3, padding=1), torch.randn(1, 16, 17, 17))
    (kernel,) = (part for part in text.split("@T.prim_func")[1:] if "def fused_conv" in part)
    assert "pragma_loop_partition_hint" in kernel
    assert kernel.count("T.unroll(") >= 4


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv1d(20, 32, 3, padding=1),
        nn.Conv1d(16, 40, 10, stride=5),
        nn.Conv1d(32, 32, 15, padding=7, groups=32),
        nn.Conv1d(32, 64, 3, dilation=3, padding=3, groups=2),
    ],
    ids=str,
)
def test_signals(conv):
    check(nn.Sequential(conv, nn.ReLU()), torch.randn(2, conv.in_channels, 101))


@pytest.mark.parametrize("window", [2, 3, 4])
def test_transposed(window):
    conv = nn.ConvTranspose2d(24, 20, window, stride=2, padding=window // 3)
    check(nn.Sequential(conv, nn.ReLU()), torch.randn(2, 24, 7, 9))


def test_convolutions_of_dynamic_images():
    dims = {0: Dim("n", max=8), 2: Dim("h", min=8, max=512), 3: Dim("w", min=8, max=512)}
    sizes = [(1, 8, 8), (3, 9, 40), (2, 30, 13), (1, 64, 64)]
    model = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 1))
    more = [torch.randn(n, 3, h, w) for n, h, w in sizes]
    check(model, torch.randn(2, 3, 16, 16), *more, dynamic_shapes=(dims,))


@pytest.mark.parametrize("dims", [1, 2])
def test_transposed_convolutions_of_dynamic_sizes(dims):
    layer = (nn.ConvTranspose1d, nn.ConvTranspose2d)[dims - 1]
    model = nn.Sequential(
        layer(12, 20, 3, stride=2, padding=1, output_padding=1), nn.ReLU(), layer(20, 3, 4, stride=2)
    )
    free = {0: Dim.AUTO, **{2 + dim: Dim.AUTO for dim in range(dims)}}
    more = [torch.randn(n, 12, *[size] * dims) for n, size in ((1, 3), (2, 17), (3, 40))]
    check(model, torch.randn(2, 12, *[8] * dims), *more, dynamic_shapes=(free,))


@pytest.mark.parametrize("options", [
    {"groups": 4, "stride": 2, "output_padding": 1},
    {"groups": 3, "padding": 1},
    {"dilation": 2, "output_padding": 1},
    {"groups": 2, "dilation": 3, "stride": (2, 1), "padding": 2},
    {"groups": 12, "stride": 4},
], ids=str)  # fmt: skip
def test_transposed_convolutions_with_groups_and_dilation(options):
    layer = nn.ConvTranspose2d(12, 48, 3, **options)
    free = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    more = [torch.randn(n, 12, h, w) for n, h, w in ((1, 3, 4), (2, 17, 5), (1, 6, 40))]
    check(nn.Sequential(layer, nn.ReLU()), torch.randn(2, 12, 8, 9), *more, dynamic_shapes=(free,))
    check(layer, torch.randn(1, 12, 7, 15))


LARGE = [
    (nn.Conv2d(64, 64, 3, padding=1), (130, 132)),  # bands of 5 rows
    (nn.Conv2d(96, 32, 3, stride=2, padding=1, groups=2), (112, 112)),
    (nn.Conv2d(33, 20, 5, stride=(2, 1), padding=2), (176, 190)),
    (nn.Conv2d(64, 48, 3, padding=(0, 2), dilation=2), (148, 131)),
    (nn.Conv2d(64, 16, 3, padding=1), (131, 133)),  # no band: a prime
    (nn.Conv3d(16, 16, 3, padding=1), (24, 56, 57)),
]


@pytest.mark.parametrize(("conv", "size"), LARGE, ids=str)
def test_the_border_of_a_large_image(conv, size):
    model = nn.Sequential(
        conv, nn.BatchNorm2d(conv.out_channels) if len(size) == 2 else nn.Identity(), nn.ReLU()
    )
    check(model, torch.randn(1, conv.in_channels, *size))


def test_the_border_of_a_large_image_is_made_in_bands():
    model = nn.Sequential(nn.Conv2d(96, 32, 3, stride=2, padding=1, groups=2), nn.ReLU())
    kernel = _border_kernel(script(model, torch.randn(1, 96, 112, 112)))
    assert kernel.count("T.parallel") == 1
    assert kernel.index("T.parallel") < kernel.index('T.sblock("padded")')


def _border_kernel(text: str) -> str:
    (kernel,) = (part for part in text.split("@T.prim_func")[1:] if "def fused_conv" in part)
    return kernel


def test_the_border_of_a_depthwise_convolution_stays_in_its_band():
    text = script(depthwise(32, 3, padding=1), torch.randn(1, 32, 112, 112))
    kernel = _border_kernel(text)
    assert kernel.count("T.parallel") == 1
    assert kernel.index("T.parallel") < kernel.index('T.sblock("padded")')


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("channels", [24, 56, 90, 240, 1000])
def test_no_vector_reaches_into_two_panels_of_the_weights(channels, size):
    layer, x = nn.Conv2d(32, channels, 1), torch.randn(1, 32, size, size)
    text = script(layer, x)
    (panel,) = set(map(int, re.findall(r"v_i2 // T.int64\((\d+)\)", text)))
    widths = set(map(int, re.findall(r"i2_\w+ in T.vectorized\(T.int64\((\d+)\)\)", text)))
    assert widths
    assert all(panel % width == 0 for width in widths), (panel, widths)
    check(layer, x)
