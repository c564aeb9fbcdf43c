"""Products with a constant matrix, which is packed for a kernel beforehand."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["linear_packed", "pack_matrix", "unpack_matrix"]


def pack_matrix(matrix: Tensor, width: int) -> Tensor:
    """[K, N] as [ceil(N / width), K, width], zeros behind the last column: a step of a kernel reads one row."""
    inner, columns = matrix.shape
    panels = matrix.new_empty((-(-columns // width), inner, width))
    # A panel is copied much faster than a permutation of all of them where *matrix* is transposed.
    for panel, part in zip(panels, matrix.split(width, dim=1), strict=True):
        (panel if part.shape[1] == width else panel[:, : part.shape[1]]).copy_(part)
    if columns % width:
        panels[-1, :, columns % width :].zero_()
    return panels


def unpack_matrix(packed: Tensor, columns: int) -> Tensor:
    """Inverse of `pack_matrix`."""
    panels, inner, width = packed.shape
    return packed.permute(1, 0, 2).reshape(inner, panels * width)[:, :columns]


@torch.library.custom_op("fxpasses::linear_packed", mutates_args=())
def linear_packed(input: Tensor, weight: Tensor, columns: int, rows: int) -> Tensor:
    """The product of *input* [M, K] and a packed matrix.

    Args:
        weight: see `pack_matrix`.
        columns: of the matrix before it was packed.
        rows: how many rows of *input* a kernel multiplies at a time; no result depends on it.

    Returns:
        [M, columns] in the dtype of *input*.
    """
    return torch.mm(input, unpack_matrix(weight, columns))


@linear_packed.register_fake
def _(input: Tensor, weight: Tensor, columns: int, rows: int) -> Tensor:
    return input.new_empty((input.shape[0], columns))
