"""Depthwise convolutions: a few pixels of a row by a few vectors of channels stay in registers.

Each tile of channels reads channels of its own, so the border around the image
is put round a band of rows of a tile, where it stays in the cache, and not
round the whole image, which would go to memory and back.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.expressions import elements, int_value, static_product
from fxpasses.codegen.schedules.kernel import Kernel, NoFit
from fxpasses.codegen.schedules.products import has_spare

__all__ = ["depthwise"]

# A band with its border, so that it stays in the cache next to the core.
_BAND_BYTES = 262144

# Sums in registers: more than enough to wait for none, and few enough that LLVM keeps them there.
_SUMS = 16

# Rows of a band where the size of a row is known only at run time.
_DYNAMIC_ROWS = 8


def depthwise(kernel: Kernel, block: Block, tail: Block | None) -> None:
    """Tile a sum over a window, where the last axis indexes both operands."""
    sch = kernel.sch
    windows = _windows(block)
    tile = _tile(kernel, block, windows.columns)
    rv, out = block.rv, tail.rv if tail is not None else sch.cache_write(block.rv, 0, "local")
    copy = _border(kernel, block)
    loops = list(sch.get_loops(rv))
    images, summed = loops[: windows.first], loops[block.rank :]
    channels, *lanes = sch.split(loops[block.rank - 1], [None, tile.vectors, tile.lanes])
    columns, pixel = sch.split(loops[windows.columns], [None, tile.pixels])
    within = [*loops[windows.first : windows.columns], columns]
    band, within[0] = sch.split(within[0], [None, _band(block, windows, tile)])
    sch.reorder(*images, band, channels, *within, *summed, pixel, *lanes)
    fused = [block, *([] if tail is None else [tail])]
    if has_spare(tail, block) and kernel.extent(channels) != 1:
        kernel.parallel(kernel.fuse([*images, band], *fused), elements(block.extents))
        sch.annotate(channels, "pragma_loop_partition_hint", 1)
        task = channels
    else:
        task = kernel.fuse([*images, band, channels], *fused)
        kernel.parallel(task, elements(block.extents))
    if copy is not None:
        kernel.move(copy.rv, task)
        kernel.vectorize(sch.get_loops(copy.rv)[-1], tile.lanes)
    for loop in within:
        sch.annotate(loop, "pragma_loop_partition_hint", 1)  # the tiles at the end have fewer pixels
    kernel.move(out, within[-1], after=True)
    sch.set_scope(rv, 0, "local")
    inner = [pixel, *lanes]
    kernel.in_registers(inner)
    start = sch.decompose_reduction(rv, summed[0])
    kernel.in_registers(sch.get_loops(start)[-len(inner) :])
    *lead, last = sch.get_loops(out)
    if has_spare(tail, block):
        kernel.vectorize(last, tile.lanes, guarded=True)
    else:
        kernel.in_registers([*lead[-1:], *sch.split(last, [tile.vectors, tile.lanes])])


class _Windows(NamedTuple):
    """The axes along which a window moves: from *first* to *columns*, which come before the channels."""

    first: int
    columns: int


def _windows(block: Block) -> _Windows:
    if block.factors is None or not block.is_plain or block.rank < 2:
        raise NoFit
    channels = block.rank - 1
    image, weight = block.factors
    if channels not in block.uses(image.indices[-1:]) or block.uses(weight.indices) & set(range(channels)):
        raise NoFit
    summed = set(range(block.rank, len(block.vars)))
    moving = [used - summed for index in image.indices if (used := block.uses([index])) & summed]
    axes = sorted(axis for used in moving for axis in used)
    if any(len(used) != 1 for used in moving) or axes != list(range(channels - len(moving), channels)):
        raise NoFit
    return _Windows(axes[0], axes[-1])


class _Tile(NamedTuple):
    """What is kept in registers."""

    pixels: int
    vectors: int
    lanes: int


def _tile(kernel: Kernel, block: Block, columns: int) -> _Tile:
    """The tile that takes the fewest steps for the image."""
    assert block.store is not None
    channels, width = block.extents[block.rank - 1], block.extents[columns]
    wide = kernel.cpu.lanes(block.store.buffer.dtype)
    if channels is None:
        raise NoFit
    lanes = channels if channels <= wide else math.gcd(channels, wide)
    count = channels // lanes

    def steps(tile: _Tile) -> float:
        whole, rest = (1, 0) if width is None else divmod(width, tile.pixels)
        tiles = [tile.pixels] * whole + [rest] * (rest > 0)
        # A pixel takes a product, which loads its operand; the weights are loaded for all pixels.
        each = sum(max(pixels * tile.vectors, 8) + tile.vectors + 4 for pixels in tiles)
        return each * (count // tile.vectors) / (tile.pixels if width is None else 1)

    tiles = [
        _Tile(pixels, vectors, lanes)
        for vectors in range(1, 5)
        if count % vectors == 0
        for pixels in range(1, min(_SUMS // vectors, width or _SUMS) + 1)
    ]
    return min(tiles, key=steps)


def _border(kernel: Kernel, block: Block) -> Block | None:
    """The block that puts a border around the image, if one does for this kernel alone."""
    assert block.factors is not None
    image = block.factors[0].source
    for rv in kernel.sch.get_producers(block.rv):
        copy = kernel.block(rv)
        if copy.is_elementwise and copy.store is not None and copy.store.buffer.same_as(image):
            return copy if len(kernel.sch.get_consumers(rv)) == 1 else None
    return None


def _band(block: Block, windows: _Windows, tile: _Tile) -> int:
    """The length of a band: so many rows of the image, or tiles where the image is a row."""
    assert block.factors is not None
    image = block.factors[0]
    unit = tile.pixels if windows.first == windows.columns else 1
    moving = [
        int_value(size)
        for index, size in zip(image.indices, image.source.shape, strict=True)
        if block.uses([index]) & set(range(windows.first, windows.columns + 1))
    ]
    size, extent = static_product(moving), block.extents[windows.first]
    if size is None or extent is None:
        return _DYNAMIC_ROWS
    values = size / extent * unit * tile.vectors * tile.lanes
    steps = -(-extent // unit)
    bands = math.ceil(steps * values * image.source.dtype.bits // 8 / _BAND_BYTES)
    return -(-steps // bands)
