"""The parts of Winograd's convolution: see `fxpasses.dialect.winograd`."""

from __future__ import annotations

from typing import Any

import torch

import fxpasses.dialect  # noqa: F401  (registers the operators)
from fxpasses.dialect.winograd import tiles_of
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import ALONE, WITH_TAIL, cells, const
from fxpasses.relax.ops.channels_last import bordered
from fxpasses.relax.table import lowering

dialect = torch.ops.fxpasses


@lowering(dialect.winograd_input.default)
def winograd_input(b: Any, input: Any, padding: Any, groups: Any) -> Any:
    def kernel(x: Any) -> Any:
        batch, *size, channels = map(int, x.shape)
        border, tiles = [], []
        for n, before, after in zip(size, padding[::2], padding[1::2], strict=True):
            tiles.append(tiles_of(n + before + after - 2))
            border += [before, 2 * tiles[-1] + 2 - n - before]
        image = bordered(x, border, const(0, str(x.dtype)))

        def element(a: Any, c: Any, group: Any, n: Any, i: Any, j: Any, channel: Any) -> Any:
            def pixel(row: int, column: int) -> Any:
                return image(n, 2 * i + row, 2 * j + column, group * (channels // groups) + channel)

            return _tile(c, lambda column: _tile(a, lambda row: pixel(row, column)))

        shape = (4, 4, groups, batch, *tiles, channels // groups)
        return cells(shape, element, (4, 4, 1, 1, 1, 1, None), "tiles")

    return b.emit(T.relax.op.reshape(b.te(kernel, input, primfunc_attrs=ALONE), b.shape(b.val)))


def _tile(at: Any, value: Any) -> Any:
    """Row *at* of the matrix of the input side, times the column of four *value*s."""
    select = T.tirx.Select
    return select(
        at == 0,
        value(0) - value(2),
        select(at == 1, value(1) + value(2), select(at == 2, value(2) - value(1), value(1) - value(3))),
    )


@lowering(dialect.winograd_products.default)
def winograd_products(b: Any, input: Any, weight: Any, groups: Any) -> Any:
    _, rows, inputs = map(int, b.shape_of(input))
    tiles = b.emit(T.relax.op.reshape(input, (4, 4, groups, rows, inputs)))

    def kernel(x: Any, packed: Any) -> Any:
        panels, _, _, _, lanes = map(int, packed.shape)
        div, mod = T.tirx.floordiv, T.tirx.floormod

        def number(a: Any, c: Any, panel: Any, channel: Any, lane: Any) -> Any:
            def pixel(row: int, column: int) -> Any:
                return packed(panel, row, column, channel, lane)

            return _number(c, lambda column: _number(a, lambda row: pixel(row, column)))

        numbers = cells((4, 4, panels, inputs, lanes), number, (4, 4, 1, 1, None), "windows")
        inner = T.te.reduce_axis((0, inputs), name="k")

        def product(a: Any, c: Any, group: Any, row: Any, j: Any) -> Any:
            factor = numbers(a, c, group * (panels // groups) + div(j, lanes), inner, mod(j, lanes))
            return T.te.sum(x(a, c, group, row, inner) * factor, axis=inner)

        return T.te.compute((4, 4, groups, rows, panels // groups * lanes), product, name="products")

    return b.emit(T.relax.op.reshape(b.te(kernel, tiles, weight, primfunc_attrs=ALONE), b.shape(b.val)))


def _number(at: Any, value: Any) -> Any:
    """Row *at* of the matrix of the windows' side, times the column of three *value*s."""
    select = T.tirx.Select
    ends, middle = value(0) + value(2), value(1)
    half = const(0.5, str(middle.ty.dtype))
    inside = select(at == 1, (ends + middle) * half, (ends - middle) * half)
    return select(at == 0, value(0), select(at == 3, value(2), inside))


@lowering(dialect.winograd_output.default)
def winograd_output(b: Any, products: Any, batch: Any, height: Any, width: Any, groups: Any) -> Any:
    outputs = int(b.val.shape[3]) // groups
    shape = (4, 4, groups, batch, tiles_of(height), tiles_of(width), outputs)
    tiles = b.emit(T.relax.op.reshape(products, shape))

    def kernel(x: Any) -> Any:
        div, mod = T.tirx.floordiv, T.tirx.floormod

        def element(n: Any, i: Any, j: Any, o: Any) -> Any:
            def product(a: int, c: int) -> Any:
                return x(a, c, div(o, outputs), n, div(i, 2), div(j, 2), mod(o, outputs))

            return _pixel(mod(j, 2), lambda c: _pixel(mod(i, 2), lambda a: product(a, c)))

        return cells((batch, height, width, groups * outputs), element, (1, 2, 2, None), "pixels")

    return b.te(kernel, tiles, primfunc_attrs=WITH_TAIL)


def _pixel(at: Any, value: Any) -> Any:
    """Row *at* of the matrix of the output side, times the column of four *value*s."""
    first, second = value(1) + value(2), value(1) - value(2)
    return T.tirx.Select(at == 0, value(0) + first, second - value(3))
