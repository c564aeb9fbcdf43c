"""`PackLinear`: products with constant matrices read these packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxpasses.dialect.linear import pack_matrix
from fxpasses.passes.decompositions.values import shape
from fxpasses.passes.normalize_kwargs import in_full_form
from fxpasses.program import Program
from fxpasses.rewrite import Editor

__all__ = ["PackLinear", "pack_linear", "register_tile"]

aten = torch.ops.aten
dialect = torch.ops.fxpasses


@dataclass(frozen=True)
class PackLinear:
    """Write `mm` and `addmm` with a constant matrix as `linear_packed`, and the bias as a sum.

    Left as they are: computed matrices, half and integer types, and products of no elements.

    Args:
        vector_bytes: the size of a vector register of the target.
        registers: how many of these it has.
    """

    vector_bytes: int = 64
    registers: int = 32
    __name__ = "pack_linear"

    def __call__(self, program: Program) -> Program:
        if not any(node.target in (aten.mm.default, aten.addmm.default) for node in program.graph.nodes):
            return program
        g = in_full_form(program).edit()  # the rule reads arguments by position
        packed: dict[Any, fx.Node] = {}
        for node in list(g.graph.nodes):
            if node.target in (aten.mm.default, aten.addmm.default):
                with g.at(node):
                    value = self._rewritten(g, node, packed)
                    if value is not None:
                        g.replace(node, value)
        return g.finish()

    def _rewritten(self, g: Editor, node: fx.Node, packed: dict[Any, fx.Node]) -> fx.Node | None:
        *bias, left, right = node.args
        matrix = g.tensor(right)
        if matrix is None or matrix.dtype not in (torch.float32, torch.float64) or not matrix.numel():
            return None
        if bias and (node.kwargs["beta"], node.kwargs["alpha"]) != (1, 1):
            return None
        count, columns = shape(node)[0], matrix.shape[1]  # type: ignore[arg-type]
        lanes = max(self.vector_bytes // matrix.dtype.itemsize, 1)
        rows, vectors = register_tile(count, columns, lanes, self.registers)
        width = columns if columns <= lanes else vectors * lanes
        key = right, width
        if key not in packed:
            name = f"{right.meta['role'].target}_packed"  # type: ignore[union-attr]
            packed[key] = g.constant(pack_matrix(matrix.detach(), width), name, "param")
        result = g.call(dialect.linear_packed.default, left, packed[key], columns, rows)
        return g.call(aten.add.Tensor, result, bias[0]) if bias else result


pack_linear = PackLinear()
"""`PackLinear` for 32 vectors of 64 bytes."""


def register_tile(rows: Any, columns: int, lanes: int, registers: int) -> tuple[int, int]:
    """Rows and vectors of the tile of a product that does the most useful work in a time.

    Args:
        rows: of the product; a size that varies counts as many.
        columns: of the product.
        lanes: elements in a vector.
        registers: vectors that the tile, a row of the matrix and one element of the input share.
    """

    def useful(size: Any, step: int) -> float:
        return size / (-(-size // step) * step) if isinstance(size, int) and size else 1.0

    def rate(tile: tuple[int, int]) -> tuple[float, float]:
        height, vectors = tile
        sums = height * vectors
        # A sum takes the time of 8 others to come back; a step loads each row and each vector.
        steps = max(sums, height + vectors, 8)
        share = useful(rows, height) * useful(columns, vectors * lanes)
        return round(share * sums / steps, 6), sums / (height + vectors)

    tiles = [
        (height, vectors)
        for vectors in range(1, 5)
        for height in range(1, 15)
        if height * vectors + vectors + 1 < registers
        and (height == 1 or not isinstance(rows, int) or height <= rows)
    ]
    return max(tiles, key=rate)
