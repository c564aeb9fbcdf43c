"""A tile in registers starts whole, so that the one before it does not live on beside it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim

from fxpasses.codegen.start_tiles import start_whole_tiles
from fxpasses.relax import tvm_api as T
from tests.codegen.helpers import compiled_of

ZERO = T.tirx.const(0.0, "float32")


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("channels", [3, 16, 17])
def test_images_of_sizes_known_at_run_time(channels, stride):
    layer = nn.Conv2d(channels, 32, 3, stride, 1).eval()
    sizes = {0: Dim("n"), 2: Dim("h"), 3: Dim("w")}
    compiled = compiled_of(layer, torch.randn(2, channels, 20, 20), dynamic_shapes=(sizes,))
    for size in ((1, 1, 1), (1, 3, 2), (1, 28, 28), (2, 13, 14), (1, 5, 15), (3, 7, 29), (1, 2, 100)):
        image = torch.randn(size[0], channels, *size[1:])
        with torch.no_grad():
            torch.testing.assert_close(compiled(image), layer(image), rtol=1e-4, atol=1e-4)


def _started(body, *, scope="local", between=()):
    """What the pass makes of a tile of 8 numbers behind a condition: the statement that follows its allocation."""
    n, i = T.tirx.Var("n", "int64"), T.tirx.Var("i", "int64")
    tile = T.tirx.decl_buffer((8,), "float32", "tile", scope=scope, layout=None)
    index, value, extent = body(tile, n, i)
    store = T.tirx.IfThenElse(i < n, T.tirx.BufferStore(tile, value, [index]), None)
    loop = T.tirx.For(i, T.tirx.IntImm("int64", 0), extent, T.tirx.ForKind.SERIAL, store)
    other = [T.tirx.BufferStore(tile, ZERO, [T.tirx.IntImm("int64", 0)]) for _ in between]
    statement = T.tirx.SeqStmt([T.tirx.AllocBuffer(tile), *other, loop])
    function = start_whole_tiles()(T.tvm.IRModule({"main": T.tirx.PrimFunc([n], statement)}))["main"]
    return function.body.seq[-1].body


def _number(value):
    return T.tirx.IntImm("int64", value)


def test_a_number_is_stored_without_the_condition():
    store = _started(lambda tile, n, i: (i, ZERO, _number(8)))
    assert isinstance(store, T.tirx.BufferStore)
    assert float(store.value) == 0.0


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda tile, n, i: (i + _number(1), ZERO, _number(8)), id="past the end"),
        pytest.param(lambda tile, n, i: (i, ZERO, n), id="so many as show at run time"),
        pytest.param(
            lambda tile, n, i: (i, T.tirx.BufferLoad(tile, [_number(0)]), _number(8)), id="what was there"
        ),
    ],
)
def test_another_store_keeps_the_condition(body):
    assert isinstance(_started(body), T.tirx.IfThenElse)


def test_memory_and_a_tile_in_use_keep_the_condition():
    def body(tile, n, i):
        return i, ZERO, _number(8)

    assert isinstance(_started(body, scope="global"), T.tirx.IfThenElse)
    assert isinstance(_started(body, between=[1]), T.tirx.IfThenElse)
