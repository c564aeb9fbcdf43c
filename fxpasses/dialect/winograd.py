"""3x3 convolution in 2x2 tiles of the output (Winograd's F(2x2, 3x3)): 16 products of matrices instead of 36.

An input tile of 4x4 becomes 16 numbers, each of which is multiplied with one of
16 numbers that the window has become, and the sums over the channels become the
2x2 tile. The rounding error is about one and a half times that of the sum over
the window; a NaN or an infinity reaches every pixel of the tiles that read it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["bmm_packed", "tiles_of", "winograd_input", "winograd_output", "winograd_weight"]

_INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_WEIGHT = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))


def tiles_of(size: int) -> int:
    """How many tiles cover so many pixels of the output."""
    return (size + 1) // 2


def winograd_weight(weight: Tensor, groups: int, width: int) -> Tensor:
    """[O, I, 3, 3] as [16 * groups, O / groups / width, I, width], the packed right operand of the products."""
    inputs = weight.shape[1]
    matrix = torch.tensor(_WEIGHT, dtype=torch.float64)
    both = torch.kron(matrix, matrix)
    windows = weight.reshape(-1, width, inputs, 9)
    result = weight.new_empty((16, len(windows), inputs, width))
    for panel, window in enumerate(windows):  # each stays in the cache
        numbers = both @ window.permute(2, 1, 0).reshape(9, -1).double()
        result[:, panel] = numbers.reshape(16, inputs, width)
    return result.reshape(16 * groups, -1, inputs, width)


@torch.library.custom_op("fxpasses::bmm_packed", mutates_args=())
def bmm_packed(input: Tensor, weight: Tensor) -> Tensor:
    """`torch.bmm` of *input* [B, M, K] and a packed *weight* [B, N / width, K, width]; gives [B, M, N]."""
    batch, _, inner, _ = weight.shape
    return torch.bmm(input, weight.transpose(1, 2).reshape(batch, inner, -1))


@bmm_packed.register_fake
def _(input: Tensor, weight: Tensor) -> Tensor:
    _, panels, _, width = weight.shape
    return input.new_empty((input.shape[0], input.shape[1], panels * width))


@torch.library.custom_op("fxpasses::winograd_input", mutates_args=())
def winograd_input(input: Tensor, padding: Sequence[int], groups: int) -> Tensor:
    """The tiles of *input* [N, H, W, C], as left operands of the products.

    Args:
        padding: zeros before and after the height, before and after the width.
        groups: the channels are cut into so many parts.

    Returns:
        [16 * groups, N * TH * TW, C / groups], for TH x TW tiles of an image.
    """
    batch, height, width, channels = input.shape
    top, _, left, _ = padding
    down, across = (tiles_of(size) for size in _output_size(input, padding))
    # What the last tiles read past the end counts for no pixel of the output.
    rest = [2 * tiles + 2 - size for tiles, size in ((down, height + top), (across, width + left))]
    image = torch.nn.functional.pad(input, [0, 0, left, rest[1], top, rest[0]])
    matrix = torch.tensor(_INPUT, dtype=input.dtype)
    tiles = image.unfold(1, 4, 2).unfold(2, 4, 2).reshape(batch, down, across, groups, -1, 4, 4)
    result = torch.einsum("ai,nhwgcij,bj->abgnhwc", matrix, tiles, matrix)
    return result.reshape(16 * groups, batch * down * across, channels // groups).contiguous()


@winograd_input.register_fake
def _(input: Tensor, padding: Sequence[int], groups: int) -> Tensor:
    batch, _, _, channels = input.shape
    down, across = (tiles_of(size) for size in _output_size(input, padding))
    return input.new_empty((16 * groups, batch * down * across, channels // groups))


@torch.library.custom_op("fxpasses::winograd_output", mutates_args=())
def winograd_output(products: Tensor, batch: int, height: int, width: int, groups: int) -> Tensor:
    """The image [batch, height, width, O] of the *products* [16 * groups, N * TH * TW, O / groups]."""
    down, across = tiles_of(height), tiles_of(width)
    matrix = torch.tensor(_OUTPUT, dtype=products.dtype)
    tiles = products.reshape(4, 4, groups, batch, down, across, -1)
    result = torch.einsum("pa,abgnhwo,qb->nhpwqgo", matrix, tiles, matrix)
    image = result.reshape(batch, 2 * down, 2 * across, -1)
    return image[:, :height, :width].contiguous()


@winograd_output.register_fake
def _(products: Tensor, batch: int, height: int, width: int, groups: int) -> Tensor:
    return products.new_empty((batch, height, width, groups * products.shape[2]))


def _output_size(input: Tensor, padding: Sequence[int]) -> tuple[int, int]:
    return tuple(
        size + before + after - 2
        for size, before, after in zip(input.shape[1:3], padding[::2], padding[1::2], strict=True)
    )  # type: ignore[return-value]
