"""Reflected, repeated and circular borders of images of odd sizes: what is no border is copied in vectors."""

from __future__ import annotations

import math

import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F

import fxpasses as fxp
from fxpasses.codegen.pipeline import kernel_passes
from fxpasses.codegen.target import host_target
from fxpasses.errors import InputError
from fxpasses.relax import tvm_api as T
from fxpasses.relax.emit import lower
from tests.codegen.helpers import compiled_of, program_of
from tests.relax.helpers import call, check_calls

aten = torch.ops.aten


MOST = {
    aten.reflection_pad2d.default: lambda width: width - 1,
    aten.replication_pad2d.default: lambda width: width + 2,
    aten._pad_circular.default: lambda width: width,
}
"""The widest border that PyTorch allows."""


@pytest.mark.parametrize("op", MOST, ids=str)
def test_widths(op) -> None:
    def image(width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        x = torch.arange(2 * 3 * 4 * width).reshape(2, 3, 4, width).to(dtype)
        x[0, 0, 0, 0] = float("nan") if dtype.is_floating_point else 7
        return x

    calls = []
    for width in (1, 2, 3, 5, 16, 17, 31, 33, 64, 127):
        most = MOST[op](width)
        pads = {(0, 0), (min(1, most), 0), (most, most), (-min(1, width - 1), min(2, most))}
        calls += [call(op, image(width), [left, right, 1, 2]) for left, right in sorted(pads)]
    calls += [
        call(op, image(19, dtype), [2, 3, 0, 1]) for dtype in (torch.float64, torch.bfloat16, torch.int64)
    ]
    check_calls(calls)


CIRCULAR = {
    "a border on both sides": ((2, 3, 7, 9), (1, 2, 3, 4)),
    "parts cut off": ((2, 3, 7, 9), (-1, 2, 3, -4)),
    "smaller": ((4, 5), (-2, -1)),
    "nothing": ((4, 5), (0, 0)),
    "all of it twice": ((3, 9), (9, 9)),
    "single elements": ((2, 1, 1, 1), (1, 1, 1, 1)),
    "no rows": ((0, 3, 4), (1, 2)),
    "a volume": ((1, 2, 3, 5, 4), (1, 2, 0, 1, 3, 0)),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", CIRCULAR)
def test_circular(name, dynamic) -> None:
    size, pad = CIRCULAR[name]
    sizes = {dim: Dim.AUTO for dim, length in enumerate(size) if length > 1}

    def function(*xs: torch.Tensor) -> list[torch.Tensor]:
        return [F.pad(x, pad, mode="circular") for x in xs]

    dtypes = torch.float32, torch.complex64 if dynamic else torch.int64
    xs = [torch.arange(math.prod(size)).reshape(size).to(dtype) for dtype in dtypes]
    compiled = compiled_of(function, *xs, dynamic_shapes=((sizes,) * 2,) if dynamic else None)
    assert all(map(torch.equal, compiled(*xs), function(*xs)))
    if dynamic and xs[0].numel():
        xs = [x.repeat(*[2 if dim in sizes else 1 for dim in range(x.dim())]) for x in xs]
        assert all(map(torch.equal, compiled(*xs), function(*xs)))


def test_circular_is_one_kernel() -> None:
    """Also where sizes are known only at run time."""
    x = torch.randn(2, 3, 8, 9)
    program = program_of(
        lambda x: F.pad(x, (1, 2, 3, 4), mode="circular"),
        x,
        dynamic_shapes=({2: Dim.AUTO, 3: Dim.AUTO},),
    )
    target = host_target()
    with target:
        mod = T.tvm.transform.Sequential(kernel_passes(target))(lower(fxp.canonicalize(program)))
    assert sum(isinstance(function, T.tirx.PrimFunc) for _, function in mod.functions_items()) == 1


def test_a_border_that_is_too_wide_is_refused_as_by_eager() -> None:
    compiled = compiled_of(
        lambda x: F.pad(x, (3, 3), mode="circular"), torch.randn(2, 5), dynamic_shapes=({1: Dim.AUTO},)
    )
    assert compiled(torch.arange(3.0).repeat(2, 1)).shape == (2, 9)
    with pytest.raises(InputError):
        compiled(torch.randn(2, 2))
