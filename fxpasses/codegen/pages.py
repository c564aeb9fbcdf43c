"""`in_large_pages`: weights side by side in memory of few, large pages.

Memory comes in pages, and a processor knows the places of a few thousand of
them. Weights that are read once in a call, row by row, come from the far
caches and from memory up to twice as fast where a page has megabytes.

A system that has to free such pages first takes up to 5 ms for each, so only
the weights for which it pays are placed there: see `read_once`.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

if TYPE_CHECKING:
    from fxpasses.program import Program

__all__ = ["in_large_pages", "read_once"]

aten = torch.ops.aten

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


# A product of so many rows with a matrix, and no more, waits for the matrix rather than for its sums.
_FEW_ROWS = 8


def read_once(program: Program) -> tuple[str, ...]:
    """The tensors of *program*, by name, that a call reads from end to end for a few sums an element.

    They are the matrices in products of few rows, or of a number of rows that varies, and in recurrent layers.
    """
    found: dict[str, None] = {}
    for node in program.graph.nodes:
        for matrix in _matrices(node):
            while matrix.target is aten.permute.default or matrix.target is aten.reshape.default:
                matrix = matrix.args[0]  # type: ignore[assignment]
            if matrix.op == "placeholder" and matrix.meta["role"].kind != "user":
                found[matrix.meta["role"].target] = None
    return tuple(found)


@functools.cache
def _products() -> dict[Any, int]:
    """Where the left operand of a product is among its arguments; the right one is next to it."""
    import fxpasses.dialect  # noqa: F401  (registers the operators)

    return {
        aten.mm.default: 0,
        aten.bmm.default: 0,
        aten.addmm.default: 1,
        torch.ops.fxpasses.linear_packed.default: 0,
    }


def _matrices(node: fx.Node) -> Iterator[fx.Node]:
    """The operands of *node* that it reads for few sums an element."""
    from fxpasses.passes.turn_recurrent_weights import parameters_of

    first = _products().get(node.target)
    if first is None:
        yield from (value for value in parameters_of(node) if value.meta["val"].dim() == 2)
        return
    left, right = node.args[first : first + 2]
    rows, columns = left.meta["val"].shape[-2], node.meta["val"].shape[-1]  # type: ignore[union-attr]
    for matrix, count in ((right, rows), (left, columns)):
        if not isinstance(count, int) or count <= _FEW_ROWS:
            yield matrix  # type: ignore[misc]


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) is torch.Tensor
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and tensor.numel() > 0
    )
