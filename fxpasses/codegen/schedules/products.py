"""Sums of products: a tile of the output stays in registers while the summed axes run.

The rule covers products of matrices, in batches or not, and convolutions. What
follows the product is computed in the tile.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.elementwise import elementwise
from fxpasses.codegen.schedules.expressions import elements, int_value, same, static_product
from fxpasses.codegen.schedules.kernel import Kernel, NoFit
from fxpasses.codegen.schedules.memory import step
from fxpasses.codegen.target import CpuInfo
from fxpasses.relax import tvm_api as T

__all__ = ["NARROW", "Axes", "axes_of", "has_spare", "product", "tail_of", "tile_of"]

NARROW = "fxpasses.narrow"
"""The annotation of the loops along a tile's rows, for `fxpasses.codegen.narrow_tiles`: how many lanes a vector has."""

# A right operand of this size stays in the cache next to the core.
_CACHE_BYTES = 1 << 20

# Rows this far apart share a set of the first cache, which has room for so many.
_SET_BYTES, _SET_WAYS = 4096, 8


def tail_of(kernel: Kernel, blocks: list[Block], product: Block) -> Block | None:
    """The elementwise block that alone reads a product, and can be moved into its loops."""
    readers = kernel.sch.get_consumers(product.rv)
    if len(readers) != 1:
        return None
    tail = kernel.block(readers[0])
    names = [block.name for block in blocks]
    before = names[: names.index(product.name) + 1]
    ready = all(kernel.sch.get(rv).name_hint in before for rv in kernel.sch.get_producers(tail.rv))
    return tail if ready and (product.is_tiled or _reads_all(tail, product)) else None


def _reads_all(tail: Block, product: Block) -> bool:
    """Whether each step of *tail* reads one element of *product*, and no two the same.

    If not, moving it into the loops of the product would lose the steps that
    read nothing, such as the border of a padding. The last columns may be left
    unread.
    """
    if not tail.is_elementwise:
        return False
    for load in tail.loads_of(product):
        axes = [[i for i, var in enumerate(tail.vars) if var.same_as(index)] for index in load.indices]
        if sorted(axis for found in axes for axis in found) != list(range(len(tail.vars))):
            return False
        *sizes, columns = [tail.stmt.iter_vars[axis].dom.extent for (axis,) in axes]
        if not all(map(same, sizes, load.source.shape[:-1])):
            return False
        used, made = int_value(columns), int_value(load.source.shape[-1])
        if not same(columns, load.source.shape[-1]) and (used is None or made is None or used > made):
            return False
    return True


def has_spare(tail: Block | None, product: Block) -> bool:
    """Whether *tail* leaves the last columns of *product* unread."""
    return tail is not None and tail.extents[-1] != product.extents[product.rank - 1]


def product(kernel: Kernel, block: Block, tail: Block | None) -> None:
    """Tile a sum of products: a few rows by a few vectors of the output stay in registers."""
    sch = kernel.sch
    if not block.is_plain:
        raise NoFit
    axes = axes_of(block)
    n = axes.columns
    if _is_read_once(block, axes):
        raise NoFit  # it is a sum of rows of a matrix, and the matrix is best read row by row
    trivial = all(map(_is_trivial, (axes.left, axes.right)))
    in_place = trivial and step(block, axes.right, n) == 1 and not has_spare(tail, block)
    m, rows, vectors, width = tile_of(kernel.cpu, block, axes, trivial, masked=in_place)
    columns = vectors * width
    rv = block.rv
    padding = [1] * len(block.vars)
    for axis, size in ((m, rows), (n, columns)):
        extent = block.extents[axis] if axis is not None else size
        if axis is not None and (extent is None or extent % size):
            padding[axis] = size
    ragged = False  # whether the last tile has fewer rows
    if m is not None and not trivial and padding[m] > 1:
        ragged, padding[m] = True, 1
    copies: list[Any] = []
    backs: list[Any] = []
    if any(size > 1 for size in padding):
        known = {sch.get(p).name_hint for p in [*sch.get_producers(rv), *sch.get_consumers(rv)]}
        sch.pad_einsum(rv, padding)  # which adds nothing where a dynamic size is known to be a multiple
        copies = [p for p in sch.get_producers(rv) if sch.get(p).name_hint not in known]
        backs = [c for c in sch.get_consumers(rv) if sch.get(c).name_hint not in known]
    narrow = in_place and bool(copies)
    if narrow:
        for copy in copies:  # `fxpasses.codegen.narrow_tiles` guards what lies behind the end
            sch.compute_inline(copy)
        copies = []
    if tail is not None:
        for back in backs:
            sch.compute_inline(back)
        out = tail.rv
    else:
        out = backs[0] if backs else sch.cache_write(rv, 0, "local")
    loops = list(sch.get_loops(rv))
    summed = loops[block.rank :]
    n_outer, n_vectors, n_lanes = sch.split(loops[n], [None, vectors, width])
    inner = [n_vectors, n_lanes]
    if narrow:
        sch.annotate(n_lanes, NARROW, width)
    tiles = [loops[axis] for axis in [*axes.shared, *sorted(axes.rows)] if axis != m]
    spare = has_spare(tail, block) and kernel.extent(n_outer) != 1  # then the last tile has fewer columns
    outer = [(n_outer, spare)]
    if m is not None:
        m_outer, m_inner = sch.split(loops[m], [None, rows])
        inner.insert(0, m_inner)
        outer.insert(0 if _stays_in_cache(axes.right) else 1, (m_outer, ragged))
    tiles += [loop for loop, shorter in outer if not shorter]
    within = [loop for loop, shorter in outer if shorter]
    for loop in within:
        sch.annotate(loop, "pragma_loop_partition_hint", 1)
    border = _large_border(kernel, block, axes, m)
    if border is not None:  # it is made for a few rows of the image at a time, which all tiles in them read
        alone, image_row = [loops[axis] for axis in reversed(axes.rows[2:])], loops[axes.rows[1]]
        within = [*(loop for loop in tiles if loop not in (*alone, image_row)), *within]
        band, row = sch.split(image_row, [None, border.rows])
        tiles, within = [*alone, band], [row, *within]
    sch.reorder(*tiles, *within, *summed, *inner)
    tile = kernel.fuse(tiles, block, *([] if tail is None else [tail]))
    kernel.parallel(tile, elements(block.extents))
    if border is not None:
        kernel.move(border.rv, tile)
        kernel.vectorize(sch.get_loops(border.rv)[-1], block.lanes(kernel.cpu))
    for copy in copies:
        padded = kernel.block(copy)
        if _reads_rows(padded, axes) or not _has_many(block, m, rows):
            kernel.move(copy, tile)
            kernel.vectorize(sch.get_loops(copy)[-1], block.lanes(kernel.cpu))
        else:
            elementwise(kernel, padded)  # all of it once: every tile of rows reads it
    kernel.move(out, within[-1] if within else tile, after=True)
    sch.set_scope(rv, 0, "local")
    kernel.in_registers(inner)
    start = sch.decompose_reduction(rv, summed[0])
    kernel.in_registers(sch.get_loops(start)[-len(inner) :])
    *lead, last = sch.get_loops(out)
    if has_spare(tail, block):
        kernel.vectorize(last, width, guarded=True)
    elif narrow:
        sch.annotate(last, NARROW, width)
    elif kernel.extent(last) == columns and padding[n] == 1:  # else it stores behind a condition
        kernel.in_registers([*lead[-1:], *sch.split(last, [vectors, width])])


class _Border(NamedTuple):
    """The block that puts a border around an image, and for how many rows of the output it does so at a time."""

    rv: Any
    rows: int


# An image of fewer bytes is copied whole, once for all tiles.
_LARGE_IMAGE = 4 << 20

# So many rows of an image are one task of a thread, if that leaves as many tasks.
_BAND_ROWS = 8


def _large_border(kernel: Kernel, block: Block, axes: Axes, m: int | None) -> _Border | None:
    """The border of an image of many bytes, if the product alone reads it."""
    if len(axes.rows) < 2 or m != axes.rows[0] or (_bytes(axes.left) or 0) < _LARGE_IMAGE:
        return None
    extent = block.extents[axes.rows[1]]
    bands = [
        rows
        for rows in range(2, _BAND_ROWS + 1)
        if extent and extent % rows == 0 and extent // rows >= _BAND_ROWS
    ]
    for rv in kernel.sch.get_producers(block.rv):
        copy = kernel.block(rv)
        if copy.is_elementwise and copy.has_parts and copy.store.buffer.same_as(axes.left.source):  # type: ignore[union-attr]
            alone = len(kernel.sch.get_consumers(rv)) == 1
            return _Border(rv, bands[-1]) if bands and alone else None
    return None


class Axes(NamedTuple):
    """The axes of a product's output by the operand that they index.

    Attributes:
        rows: of the left one alone, innermost first.
        shared: of both, or of none.
        columns: the last axis, which indexes the right operand.
        left: the load of the left operand.
        right: the load of the right operand.
    """

    rows: list[int]
    shared: list[int]
    columns: int
    left: Any
    right: Any


def axes_of(block: Block) -> Axes:
    """The axes of a product; the right operand is the one that the last axis indexes."""
    assert block.factors is not None
    left, right = block.factors
    n = block.rank - 1
    if n < 0:
        raise NoFit
    if n in block.uses(left.indices) and n not in block.uses(right.indices):
        left, right = right, left
    of_left, of_right = block.uses(left.indices), block.uses(right.indices)
    if n not in of_right:
        raise NoFit
    rows = [axis for axis in reversed(range(n)) if axis in of_left and axis not in of_right]
    return Axes(rows, [axis for axis in range(n) if axis not in rows], n, left, right)


def _is_read_once(block: Block, axes: Axes) -> bool:
    """Whether the right operand is a large matrix that lies in memory row by row, and the left one a single row."""
    one = all(block.extents[axis] == 1 for axis in axes.rows)
    return one and not _stays_in_cache(axes.right) and _panel(axes.right) is None and _is_trivial(axes.right)


def _reads_rows(copy: Block, axes: Axes) -> bool:
    """Whether *copy* pads the left operand of a product."""
    return any(load.source.same_as(axes.left.source) for load in copy.loads)


def _has_many(block: Block, m: int | None, rows: int) -> bool:
    """Whether there is more than one tile along the axis *m*."""
    extent = 1 if m is None else block.extents[m]
    return extent is None or extent > rows


def _is_trivial(load: Any) -> bool:
    """Whether each index is an axis by itself."""
    return all(isinstance(index, T.tirx.Var | T.tirx.IntImm) for index in load.indices)


def _panel(load: Any) -> int | None:
    """How many columns of a packed right operand lie side by side; None if it is not packed."""
    last = load.indices[-1]
    return int_value(last.b) if isinstance(last, T.tirx.FloorMod) else None


def _stays_in_cache(load: Any) -> bool:
    """Whether all that *load* reads stays in the cache, so that it may be read again for each tile of rows."""
    size = _bytes(load)
    return size is not None and size <= _CACHE_BYTES


def _bytes(load: Any) -> int | None:
    """How much memory the buffer of *load* takes."""
    size = static_product([int_value(size) for size in load.source.shape])
    return None if size is None else size * load.source.dtype.bits // 8


def _step_bytes(block: Block, load: Any, axis: int) -> int | None:
    """`step` in bytes."""
    count = step(block, load, axis)
    return None if count is None else count * load.source.dtype.bits // 8


class Tile(NamedTuple):
    """What is kept in registers: *rows* along the axis *m* by *vectors* of *width* elements."""

    m: int | None
    rows: int
    vectors: int
    width: int


def tile_of(
    cpu: CpuInfo, block: Block, axes: Axes, can_pad: bool, *, vectors: int = 4, masked: bool = False
) -> Tile:
    """The tile of at most so many *vectors* that is expected to do the most useful products in a time.

    The last vector of a row may be *masked*, and what is behind it is not computed.
    """
    assert block.store is not None
    n = axes.columns
    lanes = cpu.lanes(block.store.buffer.dtype)
    panel = _panel(axes.right)
    crowded = {axis for axis in axes.rows if (_step_bytes(block, axes.left, axis) or 1) % _SET_BYTES == 0}
    best: tuple[float, float, Tile] | None = None
    for width in _widths(block.extents[n], lanes, can_pad, masked):
        if panel is not None and panel % width:
            continue  # a vector would begin in one panel and end in the next
        for count, m, rows in itertools.product(range(vectors, 0, -1), [*axes.rows, None], range(14, 0, -1)):
            registers = count * -(-width // lanes)
            sums = rows * registers
            # Beside the sums, a row of the right operand and one element of the left. One register more,
            # and LLVM keeps all sums in memory.
            if sums + registers + 1 >= cpu.registers or (m is None and rows > 1):
                continue
            if m is not None and rows > _SET_WAYS and m in crowded:
                continue
            if panel is not None and count * width > panel > lanes:
                continue  # what a step reads would lie in several places
            useful = _useful(block.extents[n], width if masked else count * width, can_pad)
            useful *= 1.0 if m is None else _useful(block.extents[m], rows, True)
            # A sum takes the time of 8 others to come back; a step loads a vector of each row and column.
            rate = useful * rows * count * width / max(sums, rows + count, 8)
            if rate and (best is None or (rate, sums / (rows + count)) > best[:2]):
                best = rate, sums / (rows + count), Tile(m, rows, count, width)
    if best is None:
        raise NoFit
    return best[2]


def _useful(extent: int | None, size: int, can_pad: bool) -> float:
    """Which part of the tiles along an axis is not padding; 0 where they must not be padded and are not whole."""
    if extent is not None and extent % size == 0:
        return 1.0
    if not can_pad:
        return 0.0
    return 0.8 * (0.9 if extent is None else extent / (-(-extent // size) * size))


def _widths(extent: int | None, lanes: int, can_pad: bool, masked: bool) -> list[int]:
    """The lengths of vectors to choose from."""
    if extent is not None and extent <= lanes:
        return [extent]
    if masked:
        return [lanes]
    if can_pad:
        return list(range(lanes, lanes // 2, -1)) if extent is not None else [lanes]
    widths = [width for width in range(lanes, lanes // 4, -1) if extent is not None and extent % width == 0]
    return widths or ([extent] if extent is not None and extent <= 2 * lanes else [])
