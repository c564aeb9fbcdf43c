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

__all__ = ["tiles_of", "winograd_input", "winograd_output", "winograd_products"]

_INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_WEIGHT = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))


def tiles_of(size: int) -> int:
    """How many tiles cover so many pixels of the output."""
    return (size + 1) // 2


@torch.library.custom_op("fxpasses::winograd_products", mutates_args=())
def winograd_products(input: Tensor, weight: Tensor, groups: int) -> Tensor:
    """The products of the tiles with the 16 numbers of each window.

    The windows are transformed here, panel by panel, and not beforehand: in
    memory 16 numbers would take the place of 9.

    Args:
        input: [16 * groups, M, I], see `winograd_input`.
        weight: [O / lanes, 3, 3, I, lanes], see `fxpasses.dialect.channels_last.pack_weight`; a panel is of
            one group.

    Returns:
        [16 * groups, M, O / groups].
    """
    panels, _, _, inputs, lanes = weight.shape
    matrix = torch.tensor(_WEIGHT, dtype=weight.dtype)
    numbers = torch.einsum("ar,prsil,cs->acpil", matrix, weight, matrix)
    windows = numbers.reshape(16 * groups, panels // groups, inputs, lanes).transpose(1, 2)
    return torch.bmm(input, windows.reshape(16 * groups, inputs, -1))


@winograd_products.register_fake
def _(input: Tensor, weight: Tensor, groups: int) -> Tensor:
    panels, *_, lanes = weight.shape
    return input.new_empty((input.shape[0], input.shape[1], panels * lanes // groups))


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
