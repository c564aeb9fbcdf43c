"""Fourier transforms of one dim, of complex numbers as pairs of their parts."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fourier", "fourier_of_real", "fourier_to_real"]


@torch.library.custom_op("fxpasses::fourier", mutates_args=())
def fourier(input: Tensor, dim: int, forward: bool, scale: float) -> Tensor:
    """The transform along *dim* of *input* [..., 2], times *scale*, in the same shape.

    The last dim, which has the parts, does not count for *dim*; the transform back is not divided by
    the number of elements.
    """
    values = torch.view_as_complex(input.contiguous())
    made = torch.fft.fft(values, dim=dim) if forward else torch.fft.ifft(values, dim=dim, norm="forward")
    return torch.view_as_real(made * scale).contiguous()


@fourier.register_fake
def _(input: Tensor, dim: int, forward: bool, scale: float) -> Tensor:
    return input.new_empty(input.shape)


@torch.library.custom_op("fxpasses::fourier_of_real", mutates_args=())
def fourier_of_real(input: Tensor, scale: float) -> Tensor:
    """The first half [..., N // 2 + 1, 2] of the transform of real values [..., N], times *scale*."""
    return torch.view_as_real(torch.fft.rfft(input) * scale)


@fourier_of_real.register_fake
def _(input: Tensor, scale: float) -> Tensor:
    *batch, size = input.shape
    return input.new_empty([*batch, size // 2 + 1, 2])


@torch.library.custom_op("fxpasses::fourier_to_real", mutates_args=())
def fourier_to_real(input: Tensor, size: int, scale: float) -> Tensor:
    """The real values [..., size] with the first half *input* [..., size // 2 + 1, 2] of a spectrum, times *scale*.

    They are not divided by their number. The imaginary parts of the first element, and of the
    last where *size* is even, count as 0.
    """
    return torch.fft.irfft(torch.view_as_complex(input.contiguous()), n=size, norm="forward") * scale


@fourier_to_real.register_fake
def _(input: Tensor, size: int, scale: float) -> Tensor:
    return input.new_empty([*input.shape[:-2], size])
