"""Kernels that move no element are views, and what TVM cannot tell of is left alone."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from fxpasses.codegen.reshapes import rewrite_reshapes
from fxpasses.relax import tvm_api as T

PAST = torch.randn(2, 4, 5, 6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x @ torch.cat([PAST, x], 2).mT,
        lambda x: torch.cat([PAST, x], 2).permute(0, 3, 1, 2).contiguous(),
        lambda x: torch.cat([x, PAST], 2).transpose(1, 2).reshape(2, -1, 24),
    ],
)
def test_transpositions_of_sums_of_sizes(function):
    compiled = fxp.compile(function, (torch.randn(2, 4, 3, 6),), dynamic_shapes=({2: Dim.AUTO},), strict=True)
    for rows in (1, 2, 3, 8):
        x = torch.randn(2, 4, rows, 6)
        torch.testing.assert_close(compiled(x), function(x))


def test_what_is_a_view_for_tvm_is_one():
    relax = T.relax
    block = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((T.tirx.Var("n", "int64"), 4), "float32"))
    with block.function("main", [x]):
        with block.dataflow():
            row = block.emit(relax.op.expand_dims(x, 1))
            turned = block.emit(relax.op.permute_dims(row, [1, 0, 2]))
            part = block.emit(relax.op.strided_slice(x, [0], [0], [1]))
            found = block.emit_output(relax.op.add(turned, part))
        block.emit_func_output(found)
    legal = relax.transform.LegalizeOps()(block.finalize())
    expected = relax.transform.RewriteDataflowReshape()(legal)
    assert str(expected).count("R.reshape(") == 2
    assert T.tvm_ffi.structural_equal(rewrite_reshapes()(legal), expected)
