"""`in_large_pages`: weights side by side in memory of few, large pages.

Memory comes in pages, and a processor knows the places of a few thousand of
them. Weights that are read once in a call, row by row, come from the far
caches and from memory up to twice as fast where a page has megabytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import torch

__all__ = ["in_large_pages"]

# The size of a large page, to which the memory is aligned.
_PAGE = 2 << 20

# Fewer bytes are reached by the pages that a processor remembers.
_LEAST = 2 * _PAGE

# Each tensor starts where a line of the cache, and a vector, does.
_ALIGNMENT = 64


def in_large_pages(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor] | None:
    """Contiguous copies of *tensors* in large pages.

    None where there are too few bytes for it to pay, where a tensor has no
    plain memory, or where the system has no large pages to ask for.
    """
    if not (hasattr(mmap, "MADV_HUGEPAGE") and all(map(_is_plain, tensors))):
        return None
    sizes = [-(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for tensor in tensors]
    total = sum(sizes)
    if total < _LEAST:
        return None
    try:
        memory = mmap.mmap(-1, total + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        at = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % _PAGE
        memory.madvise(mmap.MADV_HUGEPAGE, at, total // _PAGE * _PAGE)  # none for the rest, which fills none
    except OSError:  # the kernel was built without, or has no memory in one piece
        return None
    copies = []
    for tensor, size in zip(tensors, sizes, strict=True):
        place = torch.frombuffer(memory, dtype=torch.uint8, count=tensor.nbytes, offset=at)
        copies.append(place.view(tensor.dtype).view(tensor.shape).copy_(tensor))
        at += size
    return copies


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) is torch.Tensor
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and tensor.numel() > 0
    )
