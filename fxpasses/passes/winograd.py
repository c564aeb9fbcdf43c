"""`Winograd`: 3x3 convolutions of many channels as products of transformed tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxpasses.dialect.winograd import tiles_of
from fxpasses.passes.decompositions.values import shape
from fxpasses.program import Program
from fxpasses.rewrite import Editor

__all__ = ["Winograd", "winograd"]

dialect = torch.ops.fxpasses


@dataclass(frozen=True)
class Winograd:
    """Write `conv_channels_last` with windows of 3x3 pixels as `winograd_input`, its products, `winograd_output`.

    It takes 16 multiplications for 4 pixels in the place of 36, and moves more
    memory. The rounding error grows by half; a NaN or an infinity in the image
    spreads to pixels that share a tile with those that read it.

    Left as they are: convolutions with strides or dilation, of dynamic sizes, of
    half types, of channels that fill no whole vectors, and those for which it does not pay.

    Args:
        channels: the least number of channels of a group, in and out, for which it pays.
        tiles: the least number of tiles of 2x2 pixels in all images together.
    """

    channels: int = 32
    tiles: int = 16
    __name__ = "winograd"

    def __call__(self, program: Program) -> Program:
        op = dialect.conv_channels_last.default
        nodes = [node for node in program.graph.find_nodes(op="call_function", target=op) if self._fits(node)]
        if not nodes:
            return program
        g = program.edit()
        for node in nodes:
            copy = g.node_map[node]
            with g.at(copy):
                g.replace(copy, _written(g, copy))
        return g.finish()

    def _fits(self, node: fx.Node) -> bool:
        image, weight, stride, _, dilation, groups, channels = node.args
        _, *window, inputs, lanes = shape(weight)
        if window != [3, 3] or [*stride, *dilation] != [1] * 4:  # type: ignore[misc]
            return False
        if node.meta["val"].dtype not in (torch.float32, torch.float64):
            return False
        if not all(isinstance(size, int) for size in (*shape(image), *shape(node))):
            return False
        batch, height, rows, _ = shape(node)
        outputs = channels // groups  # type: ignore[operator]
        if outputs % lanes:
            return False
        tiles = batch * tiles_of(height) * tiles_of(rows)
        # Tiles that stick out of a small image take what the others save.
        useful = height * rows * batch >= 3 * tiles
        return useful and tiles >= self.tiles and min(inputs, outputs) >= self.channels  # type: ignore[operator]


winograd = Winograd()
"""`Winograd` with the sizes for which it pays."""


def _written(g: Editor, node: fx.Node) -> Any:
    image, weight, _, padding, _, groups, _ = node.args
    batch, height, width, _ = shape(node)
    tiles = g.call(dialect.winograd_input.default, image, padding, groups)
    products = g.call(dialect.winograd_products.default, tiles, weight, groups)
    return g.call(dialect.winograd_output.default, products, batch, height, width, groups)
