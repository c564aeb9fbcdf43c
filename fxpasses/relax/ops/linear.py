"""Products with packed matrices: see `fxpasses.dialect.linear`."""

from __future__ import annotations

from typing import Any

import torch

import fxpasses.dialect  # noqa: F401  (registers the operators)
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import WITH_TAIL, is_static
from fxpasses.relax.table import lowering

dialect = torch.ops.fxpasses


@lowering(dialect.linear_packed.default)
def linear(b: Any, input: Any, weight: Any, columns: Any, rows: Any) -> Any:
    def kernel(x: Any, packed: Any, shape: Any) -> Any:
        return _tiled(x, packed, shape, rows)

    return b.te(kernel, input, weight, b.shape(b.val), primfunc_attrs=WITH_TAIL)


def _tiled(x: Any, packed: Any, shape: Any, rows: int) -> Any:
    """The product tile by tile, and then in its place.

    The rows that the last tile lacks are repetitions of the last row, which
    nobody reads: so no tile asks whether a row is there.
    """
    te, tirx = T.te, T.tirx
    count, inner = x.shape
    panels, _, width = packed.shape
    k = te.reduce_axis((0, inner), name="k")

    def row(tile: Any, at: Any) -> Any:
        if rows == 1 or (isinstance(count, tirx.IntImm) and int(count) % rows == 0):
            return tile * rows + at
        return tirx.min(tile * rows + at, count - 1)

    # TVM sees that each row is in one of so many tiles, where it would not of (count + rows - 1) / rows.
    steps = tirx.floordiv(count - 1, rows) + 1
    tiles = te.compute(
        (panels, steps, rows, width),
        lambda panel, tile, at, column: te.sum(x[row(tile, at), k] * packed[panel, k, column], axis=k),
        name="tiles",
        attrs={"fxpasses.tiles": 1},
    )

    def element(i: Any, j: Any) -> Any:
        panel = tirx.IntImm("int64", 0) if is_static(panels, 1) else tirx.floordiv(j, width)
        return tiles[panel, tirx.floordiv(i, rows), tirx.floormod(i, rows), j - panel * width]

    return te.compute(tuple(shape), element, name="linear")
