"""What is computed for a long sum is fused with it; a costly function has vectors of its own."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F

import fxpasses as fxp
from fxpasses.codegen.pipeline import kernel_passes
from fxpasses.codegen.target import host_target
from fxpasses.relax import tvm_api as T
from fxpasses.relax.emit import lower
from tests.codegen.helpers import compiled_of, program_of

FUNCTIONS = {
    "nansum of rows": lambda x: x.nansum(-1),
    "nansum of columns": lambda x: x.nansum(0),
    "nansum": lambda x: x.nansum(),
    "sum of squares": lambda x: (x * x).sum(-1),
    "mean of a relu": lambda x: (x.relu() + 1).mean(-1),
    "largest of a sum": lambda x: (x + x).amax(0),
    "gelu": lambda x: F.gelu(x).sum(-1),
    "mean of gelu": lambda x: F.gelu(x).mean(),
    "turned": lambda x: (x.t() * 2).sum(-1),
    "used twice": lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
}

FUSED = (
    "nansum of rows",
    "nansum of columns",
    "sum of squares",
    "mean of a relu",
    "largest of a sum",
    "gelu",
)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values(name, dynamic):
    function = FUNCTIONS[name]
    shapes = [(3, 1009), (1, 300), (17, 257), (300, 1), (1031, 33)]
    dims = ({0: Dim("rows", min=1), 1: Dim("columns", min=1)},)
    made = compiled_of(function, torch.randn(5, 7), dynamic_shapes=dims) if dynamic else None
    for shape in shapes:
        x = torch.randn(shape)
        if "nan" in name:
            x[x > 1.5] = float("nan")
        compiled = made or compiled_of(function, x)
        want = function(x.double()).float()
        torch.testing.assert_close(compiled(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FUSED)
def test_one_kernel(name):
    """And nothing of the size of the operand in between, except of what is costly."""
    program = program_of(FUNCTIONS[name], torch.randn(1000, 1000))
    target = host_target()
    with target:
        mod = T.tvm.transform.Sequential(kernel_passes(target))(lower(fxp.canonicalize(program)))
    kernels = [function for _, function in mod.functions_items() if isinstance(function, T.tirx.PrimFunc)]
    assert len(kernels) == 1
    kept = kernels[0].script().count("sblock_alloc_buffer((T.int64(1000), T.int64(1000))")
    assert kept == (name == "gelu")
