"""``fxpasses::`` operators: what an optimised program calls, runnable in eager PyTorch.

Each has an eager reference and a fake kernel, so that an optimised program is
an ordinary graph that runs, traces and is compared like any other. Importing a
module of this package registers its operators.
"""

from __future__ import annotations

from fxpasses.dialect.attention import attention
from fxpasses.dialect.channels_last import conv_channels_last, max_pool2d_channels_last
from fxpasses.dialect.fourier import fourier, fourier_of_real, fourier_to_real
from fxpasses.dialect.linear import linear_packed
from fxpasses.dialect.winograd import winograd_input, winograd_output, winograd_products

__all__ = [
    "attention",
    "conv_channels_last",
    "fourier",
    "fourier_of_real",
    "fourier_to_real",
    "linear_packed",
    "max_pool2d_channels_last",
    "winograd_input",
    "winograd_output",
    "winograd_products",
]
